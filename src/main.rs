//! The thin door: parse the command line, run the mode, turn the result into an exit code.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use canvas_cluster::config::{
    self, Config, Database, EXIT_UNMET, EXIT_USAGE, Fill, LogFormat, Mode, SeedOptions, Sources,
    Tune, ctl::Ctl, status::StatusCommand, top::TopCommand,
};
use canvas_cluster::master::Arrival;
use canvas_cluster::store::schema;
use canvas_cluster::store::url::DatabaseUrl;
use canvas_cluster::tune::{self, Change, Verdict};
use canvas_cluster::worker::{self, privileges};
use canvas_cluster::{ctl, logging, master, seed, status, sys, top};

/// The exit code when the system or the database, not the user, is in the way.
const EXIT_SYSTEM: u8 = 111;

/// Why a mode failed: the exit code, and what to tell.
struct Failure(u8, String);

fn main() -> ExitCode {
    let shown: Vec<_> = std::env::args_os().collect();
    let arrival = match master::arrive(&shown) {
        Ok(arrival) => arrival,
        Err(why) => return conclude(decline(&shown, Failure(EXIT_SYSTEM, why))),
    };
    let arguments = arrival.arguments().unwrap_or(&shown).to_vec();
    // What was handed over instead of being shown needs no scrubbing.
    let scrubbed = sys::scrub_arguments(&config::secret_spans(&shown));
    let environment = std::env::vars_os().filter(|(name, _)| name != master::VARIABLE);
    let (mode, sources) = match config::parse(arguments, environment) {
        Ok(parsed) => parsed,
        Err(exit @ config::Exit::Info(_)) => {
            print!("{exit}");
            return ExitCode::from(exit.code());
        }
        Err(exit) => {
            eprint!("{exit}");
            if master::is_asked(&shown) {
                println!("{exit}");
            }
            return ExitCode::from(exit.code());
        }
    };
    match mode {
        Mode::Ctl(call) => return control(&sources, call),
        Mode::Status(command) => return show_status(&sources, command),
        Mode::Top(command) => return watch(&sources, command),
        _ => {}
    }
    if let Arrival::TakeOver(handover) = arrival {
        logging::start(log::LevelFilter::Info, sources.log_format());
        return conclude(
            master::take_over(sources, &handover)
                .map_err(|error| Failure(EXIT_SYSTEM, error.to_string())),
        );
    }
    let checks = matches!(arrival, Arrival::Check(_));
    if checks {
        // What is wrong with the configuration stands in the log of the server that asks.
        logging::start(log::LevelFilter::Info, sources.log_format());
    }
    let loaded = sources
        .load()
        .map_err(|error| Failure(EXIT_USAGE, error.to_string()));
    let done = loaded.and_then(|config| {
        logging::start(config.log_level, log_format(&mode, &config));
        if let Err(error) = scrubbed {
            log::warn!("a secret on the command line can't be hidden from `ps`: {error}; pass it by environment or file");
        }
        if checks {
            return consent(&config);
        }
        config.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        run(mode, sources, config)
    });
    conclude(done.or_else(|failure| decline(&shown, failure)))
}

/// How a mode's log is written: what a command says is for whoever has called it, unless they want it otherwise.
fn log_format(mode: &Mode, config: &Config) -> LogFormat {
    match (mode, config.log_format) {
        (Mode::Serve, format) => format,
        (_, LogFormat::Auto) => LogFormat::Text,
        (_, format) => format,
    }
}

/// Tells the master that wants to become this image why it may not, if one has asked.
fn decline(shown: &[OsString], failure: Failure) -> Result<(), Failure> {
    if master::is_asked(shown) {
        println!("{}", failure.1);
    }
    Err(failure)
}

/// The exit code of what was done; tells why it failed.
fn conclude(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => {
            logging::finish();
            ExitCode::SUCCESS
        }
        Err(Failure(code, why)) => {
            logging::give_up(&why);
            ExitCode::from(code)
        }
    }
}

/// Tells the master that wants to become this image that it may.
fn consent(config: &Config) -> Result<(), Failure> {
    database_url(config)?;
    println!("{}", master::CONSENT);
    Ok(())
}

fn run(mode: Mode, sources: Sources, config: Config) -> Result<(), Failure> {
    let system = |why: String| Failure(EXIT_SYSTEM, why);
    let database = database_url(&config)?;
    match mode {
        Mode::Serve => master::run(sources, config).map_err(|error| system(error.to_string())),
        Mode::Check => {
            for (key, value, origin) in config.describe() {
                println!("{key} = {value} ({origin})");
            }
            let found = master::limits::check(&config);
            for complaint in found.into_iter().filter_map(|finding| finding.complaint) {
                log::warn!("{complaint}");
            }
            println!("the configuration is good");
            Ok(())
        }
        Mode::Migrate { .. } | Mode::Seed(_) if config.database_pooler => Err(Failure(
            EXIT_USAGE,
            "database_pooler: migrate and seed hold a lock in a session of the server's, which a pooler in transaction mode gives to \
             others; give the server itself in --database-url, and --database-pooler=false"
                .to_owned(),
        )),
        Mode::Migrate { notify } => {
            drop_privileges(&config).map_err(system)?;
            let done =
                schema::migrate(&database, notify).map_err(|error| system(error.to_string()))?;
            let said = |made, what: &str| {
                println!("{what}: {}", if made { "created" } else { "there already" })
            };
            match &database {
                DatabaseUrl::CouchDb(url) => {
                    said(done.table, &format!("database {}", url.database));
                    said(done.index, "view on shoe_id");
                }
                DatabaseUrl::Sqlite(_) | DatabaseUrl::Postgres(_) => {
                    said(done.table, "table shoe_images");
                    said(done.index, "index on shoe_id");
                }
            }
            if let Some(made) = done.notify {
                said(made, "triggers that tell of changes");
            }
            Ok(())
        }
        Mode::Seed(options) => drop_privileges(&config)
            .and_then(|()| fill(&database, options))
            .map_err(system),
        Mode::Tune(what) => tune_host(what, &config),
        // `main` has seen to it, before a configuration was read: it may have a mistake.
        Mode::Ctl(_) | Mode::Status(_) | Mode::Top(_) => Ok(()),
    }
}

/// Tells a running server what to do.
fn control(sources: &Sources, call: Ctl) -> ExitCode {
    tell(
        sources
            .control_socket()
            .map(|socket| ctl::run(&socket, call)),
    )
}

/// Shows how a running server is.
fn show_status(sources: &Sources, command: StatusCommand) -> ExitCode {
    tell(sources.admin().map(|admin| status::run(&admin, command)))
}

/// Goes on showing how a running server is.
fn watch(sources: &Sources, command: TopCommand) -> ExitCode {
    tell(sources.admin().map(|admin| top::run(&admin, command)))
}

/// Prints what came of a call of a running server; its exit code.
fn tell(outcome: Result<ctl::Outcome, config::ConfigError>) -> ExitCode {
    match outcome {
        Ok(outcome) => {
            // A reader that has gone (`| head`) is no failure of what was asked.
            let _ = std::io::stdout().write_all(outcome.stdout.as_bytes());
            let _ = std::io::stderr().write_all(outcome.stderr.as_bytes());
            ExitCode::from(outcome.code)
        }
        Err(error) => {
            eprintln!("canvas-cluster: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The database of the configuration; a URL that can't be one is refused by name before anything starts.
fn database_url(config: &Config) -> Result<DatabaseUrl, Failure> {
    worker::replica_urls(config).map_err(|why| Failure(EXIT_USAGE, why))?;
    match &config.database {
        Database::Embedded { path } => Ok(DatabaseUrl::Sqlite(path.clone())),
        Database::Url(url) => DatabaseUrl::parse(url.expose())
            .map_err(|error| Failure(EXIT_USAGE, format!("database_url: {error}"))),
    }
}

/// Becomes the workers' user, if there is one and root has started this: what is made shall be that user's.
fn drop_privileges(config: &Config) -> Result<(), String> {
    match config.user.is_some() && privileges::may_become_user(config).is_ok() {
        true => privileges::hand_over_folder(config).and_then(|()| privileges::drop(config)),
        false => Ok(()),
    }
}

/// Shows the host's limits, raises them, or prints files that do.
fn tune_host(what: Tune, config: &Config) -> Result<(), Failure> {
    let needs = master::limits::needs_of(config);
    match what {
        Tune::PrintSysctl => print!("{}", tune::sysctl_file(&needs)),
        Tune::PrintLimits => print!("{}", tune::limits_file(&needs)),
        Tune::Check | Tune::Apply => {
            let mut code = EXIT_UNMET;
            if what == Tune::Apply {
                code = EXIT_SYSTEM;
                let (changes, failures) = master::limits::apply(config);
                for Change { name, from, to } in changes {
                    println!("{name}: raised from {from} to {to}");
                }
                for (name, error) in failures {
                    println!("{name}: can't be raised: {error}");
                }
            }
            let found = master::limits::check(config);
            print!("{}", tune::report(&found));
            let short = found
                .iter()
                .filter(|finding| finding.verdict == Verdict::Short)
                .count();
            if short > 0 {
                return Err(Failure(
                    code,
                    format!("{short} limits of the host are too low for this configuration"),
                ));
            }
        }
    }
    Ok(())
}

/// Fills the table and says what was done.
fn fill(database: &DatabaseUrl, options: SeedOptions) -> Result<(), String> {
    let mode = match options.how {
        Fill::IfEmpty => seed::Mode::Fill,
        Fill::Append => seed::Mode::Append,
        Fill::Truncate => seed::Mode::Truncate,
    };
    let rows = u32::try_from(options.rows).map_err(|_| "that many rows have no ids".to_owned())?;
    let streams = u32::try_from(options.connections).unwrap_or(u32::MAX);
    let done = seed::run_with_progress(database, rows, mode, streams)
        .map_err(|error| error.to_string())?;
    println!(
        "{} shoes from {} on in {:.1} s",
        done.rows,
        done.first_shoe_id,
        done.total.as_secs_f64()
    );
    Ok(())
}
