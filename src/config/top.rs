//! The command line of `canvas-cluster top`: how often a running server is looked at. Called by `command`.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command};

use super::command::Exit;
use super::secret::quote;
use super::value;

/// A call of `canvas-cluster top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopCommand {
    /// How long from one look at the server to the next, 200 ms to 1 minute.
    pub interval: Duration,
}

/// The shortest and the longest time between two looks.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(200)..=Duration::from_secs(60);

/// The time when none is given.
const USUAL: Duration = Duration::from_secs(1);

/// The subcommand as clap knows it.
pub(super) fn subcommand() -> Command {
    Command::new("top")
        .about("Watch the workers of a running server in a terminal, through its admin listener; h shows the keys")
        .arg(
            Arg::new("interval")
                .long("interval")
                .value_name("TIME")
                .value_parser(ValueParser::os_string())
                .help("Time between two looks (200ms to 1m) [default: 1s]"),
        )
}

/// What was asked for.
///
/// # Errors
/// The time is wrong.
pub(super) fn read(matches: &ArgMatches) -> Result<TopCommand, Exit> {
    let Some(given) = matches.get_one::<OsString>("interval") else {
        return Ok(TopCommand { interval: USUAL });
    };
    let given = given.to_string_lossy();
    value::duration(&given)
        .filter(|time| INTERVALS.contains(time))
        .map(|interval| TopCommand { interval })
        .ok_or_else(|| {
            Exit::Usage(format!(
                "error: --interval: {} is not a duration (200ms to 1m)\n",
                quote(&given)
            ))
        })
}
