//! The command line of `canvas-cluster ctl`: what is asked of a running server, and how long the asker waits. Called by
//! `command`. The command itself is also the request on the control socket, so that the two can't differ.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::{Deserialize, Serialize};

use super::command::Exit;
use super::secret::quote;
use super::{MOST_WORKERS, value};

/// The exit code of `ctl` when no server could be reached.
pub const EXIT_NO_SERVER: u8 = 112;

/// A call of `canvas-cluster ctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctl {
    pub command: CtlCommand,
    /// Print the server's answer as it came: one line of JSON.
    pub json: bool,
    /// How long to wait for the answer, 1 s to 1 day.
    pub timeout: Duration,
}

/// What is asked of a running server; as JSON, the request: `{"command":"reload","wait":true}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum CtlCommand {
    /// Tell how it is.
    Status {},
    /// Read the configuration again and replace the workers.
    Reload {
        /// Answer when the outcome is known, not when the command is taken.
        #[serde(default)]
        wait: bool,
    },
    /// Go on as the program that the server's file now holds.
    Upgrade {
        #[serde(default)]
        wait: bool,
    },
    /// Finish what is in flight and leave.
    Stop {
        #[serde(default)]
        wait: bool,
    },
    /// Go on with this many workers, 1 to [`MOST_WORKERS`], until the next reload.
    Scale {
        workers: usize,
        #[serde(default)]
        wait: bool,
    },
}

impl CtlCommand {
    /// Whether the answer is the outcome.
    pub fn waits(self) -> bool {
        match self {
            CtlCommand::Status {} => false,
            CtlCommand::Reload { wait }
            | CtlCommand::Upgrade { wait }
            | CtlCommand::Stop { wait }
            | CtlCommand::Scale { wait, .. } => wait,
        }
    }
}

/// The shortest and the longest wait for an answer.
const WAITS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);

/// How long an answer may take by default: at once, or once the outcome is known.
const AT_ONCE: Duration = Duration::from_secs(10);
const OUTCOME: Duration = Duration::from_secs(600);

/// The subcommand as clap knows it.
pub(super) fn subcommand() -> Command {
    let wait = |what: &str| {
        Arg::new("wait")
            .long("wait")
            .action(ArgAction::SetTrue)
            .help(format!("Come back when {what}"))
    };
    Command::new("ctl")
        .about("Tell a running server what to do, through its control socket")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("json")
                .long("json")
                .global(true)
                .action(ArgAction::SetTrue)
                .help("Print the server's answer as one line of JSON"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("TIME")
                .global(true)
                .value_parser(ValueParser::os_string())
                .help("Longest wait for the answer (1s to 1d) [default: 10s, with --wait 10m]"),
        )
        .subcommand(
            Command::new("status")
                .about("Show the workers, what was counted, and the last changes"),
        )
        .subcommand(
            Command::new("reload")
                .about("Read the configuration again and replace the workers, a tenth of them at a time")
                .arg(wait("the new workers serve, or the old ones stay")),
        )
        .subcommand(
            Command::new("upgrade")
                .about("Go on as the program that the server's file now holds, as USR2 does")
                .arg(wait("its workers serve, or why they do not is known")),
        )
        .subcommand(
            Command::new("stop")
                .about("Finish what is in flight and leave")
                .arg(wait("the server has gone")),
        )
        .subcommand(
            Command::new("scale")
                .about("Go on with so many workers, until the next reload")
                .arg(
                    Arg::new("count")
                        .value_name("N")
                        .required(true)
                        .allow_negative_numbers(true)
                        .value_parser(ValueParser::os_string())
                        .help(format!("Workers (1 to {MOST_WORKERS})")),
                )
                .arg(wait("they serve")),
        )
}

/// What was asked for.
///
/// # Errors
/// A number or a time is wrong.
pub(super) fn read(matches: &ArgMatches) -> Result<Ctl, Exit> {
    let (name, inner) = matches
        .subcommand()
        .ok_or_else(|| Exit::Usage("error: ctl needs a command\n".to_owned()))?;
    let wait = name != "status" && inner.get_flag("wait");
    let command = match name {
        "status" => CtlCommand::Status {},
        "reload" => CtlCommand::Reload { wait },
        "upgrade" => CtlCommand::Upgrade { wait },
        "stop" => CtlCommand::Stop { wait },
        _ => CtlCommand::Scale {
            workers: workers(inner)?,
            wait,
        },
    };
    Ok(Ctl {
        command,
        json: inner.get_flag("json"),
        timeout: match inner.get_one::<OsString>("timeout") {
            Some(given) => timeout(&given.to_string_lossy())?,
            None if wait => OUTCOME,
            None => AT_ONCE,
        },
    })
}

fn workers(matches: &ArgMatches) -> Result<usize, Exit> {
    let given = matches
        .get_one::<OsString>("count")
        .map(|text| text.to_string_lossy())
        .unwrap_or_default();
    value::count(&given)
        .filter(|number| (1..=MOST_WORKERS).contains(number))
        .ok_or_else(|| {
            Exit::Usage(format!(
                "error: scale: {} is not a number of workers (1 to {MOST_WORKERS})\n",
                quote(&given)
            ))
        })
}

fn timeout(given: &str) -> Result<Duration, Exit> {
    value::duration(given)
        .filter(|time| WAITS.contains(time))
        .ok_or_else(|| {
            Exit::Usage(format!(
                "error: --timeout: {} is not a duration (1s to 1d)\n",
                quote(given)
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_object_and_nothing_more_is_believed() {
        let read = |text: &str| serde_json::from_str::<CtlCommand>(text);
        for (text, command) in [
            (r#"{"command":"status"}"#, CtlCommand::Status {}),
            (
                r#"{"command":"reload"}"#,
                CtlCommand::Reload { wait: false },
            ),
            (
                r#"{"command":"upgrade","wait":true}"#,
                CtlCommand::Upgrade { wait: true },
            ),
            (
                r#"{"command":"stop","wait":true}"#,
                CtlCommand::Stop { wait: true },
            ),
            (
                r#"{"command":"scale","workers":3}"#,
                CtlCommand::Scale {
                    workers: 3,
                    wait: false,
                },
            ),
        ] {
            assert_eq!(read(text).expect(text), command);
            let again = serde_json::to_string(&command).expect("JSON");
            assert_eq!(read(&again).expect("our own"), command);
        }
        for bad in [
            "",
            "null",
            "[]",
            r#"{"command":"explode"}"#,
            r#"{"command":"scale"}"#,
            r#"{"command":"scale","workers":-1}"#,
            r#"{"command":"status","wait":true}"#,
            r#"{"command":"reload","wait":1}"#,
            r#"{"command":"upgrade","to":"/bin/sh"}"#,
            r#"{"command":"reload","wiat":true}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
