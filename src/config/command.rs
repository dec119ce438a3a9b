//! The command line: subcommands and flags for clap, made from the settings table, and the [`Mode`] that they ask for.
//! Called by `main`. Values are only collected here; `layers` reads them. Usage errors never echo a password.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use super::argv::mask;
use super::ctl::{self, Ctl};
use super::kind::Kind;
use super::layers::{Given, Origin};
use super::pages;
use super::secret::quote;
use super::settings::Setting;
use super::sources::{Environment, Sources};
use super::status::{self, StatusCommand};
use super::table::SETTINGS;
use super::top::{self, TopCommand};
use super::{EXIT_USAGE, value};

/// Most rows that `seed` makes: the ids of the seed's schema are 31-bit.
const MOST_ROWS: usize = i32::MAX as usize;

/// Most connections that `seed` opens.
const MOST_CONNECTIONS: usize = 64;

/// What the process is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Serve; no subcommand.
    Serve,
    /// Create the schema.
    Migrate {
        /// Also create the triggers that tell of changes.
        notify: bool,
    },
    /// Fill the table with generated shoes.
    Seed(SeedOptions),
    /// Validate the configuration and print it, without binding anything.
    Check,
    /// Compare the host's limits with what the configuration needs, raise them, or print files that do.
    Tune(Tune),
    /// Tell a running server what to do.
    Ctl(Ctl),
    /// Show how a running server is.
    Status(StatusCommand),
    /// Go on showing it, in a terminal.
    Top(TopCommand),
}

/// What `canvas-cluster tune` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tune {
    Check,
    Apply,
    /// Prints a file for /etc/sysctl.d.
    PrintSysctl,
    /// Prints a file for /etc/security/limits.d.
    PrintLimits,
}

/// The options of `canvas-cluster seed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedOptions {
    /// Rows to make, 1 to 2^31 - 1.
    pub rows: u64,
    pub how: Fill,
    /// Database connections to copy over, 1 to 64.
    pub connections: usize,
}

/// What `seed` does with rows that are already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Refuses a table that is not empty.
    IfEmpty,
    /// Keeps them.
    Append,
    /// Deletes them first.
    Truncate,
}

/// Why the process ends before it has a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `--help` or `--version`: a text for stdout, exit code 0.
    Info(String),
    /// A wrong command line: a text for stderr, exit code [`EXIT_USAGE`].
    Usage(String),
}

impl Exit {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Exit::Info(_) => 0,
            Exit::Usage(_) => EXIT_USAGE,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Exit::Info(text) | Exit::Usage(text)) = self;
        f.write_str(text)
    }
}

/// Takes the command line (program name first) and the environment apart: the mode, and the sources that a
/// configuration is loaded from. Reads no file.
///
/// # Errors
/// Help, version, or what is wrong with the command line.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Mode, Sources), Exit> {
    let args: Vec<OsString> = args.into_iter().collect();
    let top = command()
        .try_get_matches_from(&args)
        .map_err(|error| exit_of(&error, &args))?;
    let inner = top.subcommand();
    let mut matches = &top;
    while let Some((_, deeper)) = matches.subcommand() {
        matches = deeper;
    }
    if let Some(setting) = SETTINGS
        .iter()
        .find(|setting| is_given_twice(&args, matches, setting))
    {
        return Err(Exit::Usage(format!(
            "error: {} is given twice, before and after the subcommand\n",
            setting.flag()
        )));
    }
    let mode = match inner {
        None => Mode::Serve,
        Some(("print", matches)) => return Err(Exit::Info(page_of(matches))),
        Some(("migrate", matches)) => Mode::Migrate {
            notify: matches.get_flag("with-notify"),
        },
        Some(("seed", matches)) => Mode::Seed(seed_options(matches)?),
        Some(("tune", matches)) => Mode::Tune(tune_of(matches)),
        Some(("ctl", matches)) => Mode::Ctl(ctl::read(matches)?),
        Some(("status", matches)) => Mode::Status(status::read(matches)?),
        Some(("top", matches)) => Mode::Top(top::read(matches)?),
        Some(_) => Mode::Check,
    };
    let flags = SETTINGS
        .iter()
        .filter_map(|setting| flag_of(matches, setting))
        .collect();
    Ok((
        mode,
        Sources {
            flags,
            env: Environment::capture(env),
            args,
        },
    ))
}

/// The command line as clap knows it, for help, completions and tests.
pub fn command() -> Command {
    Command::new("canvas-cluster")
        .bin_name("canvas-cluster")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves a product page's images from every core of one host")
        .after_help(AFTER_HELP)
        .subcommand_required(false)
        .args(SETTINGS.iter().map(arg_of))
        .subcommand(
            Command::new("migrate")
                .about("Create the schema in the database")
                .arg(
                    Arg::new("with-notify")
                        .long("with-notify")
                        .action(ArgAction::SetTrue)
                        .help("Also create triggers that tell of each change, for servers with --database-notify (PostgreSQL)"),
                ),
        )
        .subcommand(
            Command::new("seed").about("Fill the table with generated shoes").args([
                Arg::new("rows")
                    .long("rows")
                    .value_name("N")
                    .required(true)
                    .value_parser(ValueParser::os_string())
                    .help(format!("Rows to make (1 to {MOST_ROWS})")),
                Arg::new("append")
                    .long("append")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("truncate")
                    .help("Keep the rows that are there; without it a table that is not empty is refused"),
                Arg::new("truncate")
                    .long("truncate")
                    .action(ArgAction::SetTrue)
                    .help("Delete the rows that are there first"),
                Arg::new("connections")
                    .long("connections")
                    .value_name("N")
                    .default_value("4")
                    .value_parser(ValueParser::os_string())
                    .help(format!("Connections to load over (1 to {MOST_CONNECTIONS}); not for SQLite")),
            ]),
        )
        .subcommand(
            Command::new("print")
                .about("Print the manual page, an example configuration, or a shell's completions")
                .arg(
                    Arg::new("page")
                        .value_name("PAGE")
                        .required(true)
                        .value_parser(["man", "config", "bash", "zsh", "fish"])
                        .help("What to print"),
                ),
        )
        .subcommand(ctl::subcommand())
        .subcommand(status::subcommand())
        .subcommand(top::subcommand())
        .subcommand(Command::new("check").about("Validate the configuration and show it, without binding anything"))
        .subcommand(
            Command::new("tune")
                .about("Compare the host's limits with what this configuration needs, or raise them")
                .args([
                    Arg::new("check")
                        .long("check")
                        .action(ArgAction::SetTrue)
                        .help("Show what is found, what is wanted, and what is too low; then the exit code is 1"),
                    Arg::new("apply")
                        .long("apply")
                        .action(ArgAction::SetTrue)
                        .help("Raise what is too low until the next boot; never lowers anything"),
                    Arg::new("print")
                        .long("print")
                        .value_name("FILE")
                        .value_parser(["sysctl.d", "limits.d"])
                        .help("Print the file for /etc/sysctl.d or /etc/security/limits.d, which lasts"),
                ])
                .group(ArgGroup::new("what").args(["check", "apply", "print"]).required(true)),
        )
}

/// What `print` was asked for; clap has let nothing else through.
fn page_of(matches: &ArgMatches) -> String {
    use clap_complete::Shell;
    let completions = |shell: Shell| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command(), "canvas-cluster", &mut text);
        String::from_utf8_lossy(&text).into_owned()
    };
    match matches.get_one::<String>("page").map(String::as_str) {
        Some("bash") => completions(Shell::Bash),
        Some("zsh") => completions(Shell::Zsh),
        Some("fish") => completions(Shell::Fish),
        Some("config") => pages::example_toml(),
        _ => pages::man_page(&command()),
    }
}

const AFTER_HELP: &str = "\
A flag beats its environment variable, which beats a systemd credential (database-url, database-read-url, redis-url, write-token), \
which beats the file, which beats the default. An empty variable counts as not given; an unknown CANVAS_ variable \
is refused, except those that Kubernetes sets for a Service named canvas….

Times: 500ms, 2s, 1m30s, 1h; a bare number is seconds. Sizes: 65536, 64KiB, 64k, 1MiB.

Exit codes: 0 done, 1 tune --check has found a limit that is too low, or status fewer workers than should serve, \
100 wrong usage or configuration, 111 a system call failed; of ctl, status and top also 112, no server was reached.";

fn tune_of(matches: &ArgMatches) -> Tune {
    let file = matches.get_one::<String>("print").map(String::as_str);
    match file {
        Some("sysctl.d") => Tune::PrintSysctl,
        Some(_) => Tune::PrintLimits,
        None if matches.get_flag("apply") => Tune::Apply,
        None => Tune::Check,
    }
}

fn arg_of(setting: &'static Setting) -> Arg {
    let default = setting.default_text();
    let arg = Arg::new(setting.key)
        .long(setting.flag().trim_start_matches('-').to_owned())
        .value_name(setting.value_name)
        .global(true)
        .help_heading(setting.group.title())
        .help(format!(
            "{} [default: {default}] [env: {}]",
            setting.about(),
            setting.env()
        ))
        .value_parser(ValueParser::os_string())
        // `--workers -1` is a wrong number, to be refused by the name of its setting, and not an unknown flag.
        .allow_negative_numbers(true);
    match setting.kind {
        Kind::Switch { .. } => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        _ if setting.kind.separator().is_some() => arg.action(ArgAction::Append),
        _ => arg,
    }
}

/// The flag's value, several joined as they may be written in one.
fn flag_of(matches: &ArgMatches, setting: &'static Setting) -> Option<Given> {
    let texts: Vec<OsString> = texts_of(matches, setting)?.cloned().collect();
    Some(Given {
        setting,
        origin: Origin::Flag,
        value: texts.join(OsStr::new(setting.kind.separator().unwrap_or(","))),
    })
}

fn texts_of<'a>(
    matches: &'a ArgMatches,
    setting: &Setting,
) -> Option<clap::parser::ValuesRef<'a, OsString>> {
    let given = matches.value_source(setting.key) == Some(ValueSource::CommandLine);
    matches.get_many(setting.key).filter(|_| given)
}

/// Whether the flag stands more often on the command line than clap kept values of it: clap hands a flag from before
/// the subcommand down to it, and lets one after it win in silence.
fn is_given_twice(args: &[OsString], matches: &ArgMatches, setting: &Setting) -> bool {
    let flag = setting.flag();
    let with_value = format!("{flag}=");
    let stands = |arg: &&OsString| {
        arg.as_bytes() == flag.as_bytes() || arg.as_bytes().starts_with(with_value.as_bytes())
    };
    let given = args
        .iter()
        .take_while(|arg| *arg != "--")
        .filter(stands)
        .count();
    given > texts_of(matches, setting).map_or(0, |kept| kept.len())
}

fn seed_options(matches: &ArgMatches) -> Result<SeedOptions, Exit> {
    Ok(SeedOptions {
        rows: number(matches, "rows", MOST_ROWS)? as u64,
        how: match (matches.get_flag("append"), matches.get_flag("truncate")) {
            (true, _) => Fill::Append,
            (_, true) => Fill::Truncate,
            _ => Fill::IfEmpty,
        },
        connections: number(matches, "connections", MOST_CONNECTIONS)?,
    })
}

fn number(matches: &ArgMatches, name: &str, most: usize) -> Result<usize, Exit> {
    let given = matches
        .get_one::<OsString>(name)
        .map(|text| text.to_string_lossy())
        .unwrap_or_default();
    value::count(&given)
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| {
            Exit::Usage(format!(
                "error: --{name}: {} is not a number of {name} (1 to {most})\n",
                quote(&given)
            ))
        })
}

/// clap's own words about a command line without the secrets: where clap would quote an argument, it must not have
/// known the password in it.
fn exit_of(error: &clap::Error, args: &[OsString]) -> Exit {
    if !error.use_stderr() {
        return Exit::Info(error.render().to_string());
    }
    match command().try_get_matches_from(mask(args)) {
        Err(error) => Exit::Usage(error.render().to_string()),
        Ok(_) => Exit::Usage(
            "error: the command line is wrong near an argument that holds a password\n".to_owned(),
        ),
    }
}
