//! The command line of `canvas-cluster status`: how a running server is asked how it is. Called by `command`.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::command::Exit;
use super::secret::quote;
use super::value;

pub use super::ctl::EXIT_NO_SERVER;

/// The exit code of `status` when fewer workers serve than should.
pub const EXIT_SHORT: u8 = 1;

/// A call of `canvas-cluster status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusCommand {
    /// Print the server's own document, and look once.
    pub json: bool,
    /// How long to wait for each answer, 100 ms to 1 minute.
    pub timeout: Duration,
}

/// The shortest and the longest wait for an answer.
const WAITS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);

/// The wait when none is given.
const USUAL: Duration = Duration::from_secs(5);

/// The subcommand as clap knows it.
pub(super) fn subcommand() -> Command {
    Command::new("status")
        .about("Show the workers of a running server and what they do, through its admin listener; the exit code is 1 when fewer serve than should")
        .args([
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print the server's status.json instead of a table, without looking for a second"),
            Arg::new("timeout")
                .long("timeout")
                .value_name("TIME")
                .value_parser(ValueParser::os_string())
                .help("Longest wait for an answer (100ms to 1m) [default: 5s]"),
        ])
}

/// What was asked for.
///
/// # Errors
/// A time is wrong.
pub(super) fn read(matches: &ArgMatches) -> Result<StatusCommand, Exit> {
    let timeout = match matches.get_one::<OsString>("timeout") {
        None => USUAL,
        Some(given) => {
            let given = given.to_string_lossy();
            value::duration(&given)
                .filter(|time| WAITS.contains(time))
                .ok_or_else(|| {
                    Exit::Usage(format!(
                        "error: --timeout: {} is not a duration (100ms to 1m)\n",
                        quote(&given)
                    ))
                })?
        }
    };
    Ok(StatusCommand {
        json: matches.get_flag("json"),
        timeout,
    })
}
