//! The command line: subcommands, help, exit codes.

use super::*;

#[test]
fn subcommands_take_all_flags_before_and_after() {
    let seed = |rows, how, connections| {
        Mode::Seed(SeedOptions {
            rows,
            how,
            connections,
        })
    };
    for (args, mode) in [
        (&[][..], Mode::Serve),
        (&["migrate"], Mode::Migrate { notify: false }),
        (
            &["migrate", "--with-notify"],
            Mode::Migrate { notify: true },
        ),
        (&["check", "--lanes=2"], Mode::Check),
        (
            &["seed", "--rows", "5", "--lanes", "2"],
            seed(5, Fill::IfEmpty, 4),
        ),
        (
            &["--lanes", "2", "seed", "--rows", "5", "--append"],
            seed(5, Fill::Append, 4),
        ),
        (
            &["seed", "--rows=5", "--truncate", "--connections=8"],
            seed(5, Fill::Truncate, 8),
        ),
    ] {
        let (parsed, sources) = Case::new().args(args).parse().unwrap();
        assert_eq!(parsed, mode, "{args:?}");
        let lanes = if args.iter().any(|arg| arg.contains("lanes")) {
            2
        } else {
            4
        };
        assert_eq!(sources.load().unwrap().lanes, lanes, "{args:?}");
    }
    let config = Case::new()
        .args(&["--listen=127.0.0.1:1", "--listen=127.0.0.1:2,[::1]:3"])
        .load()
        .unwrap();
    assert_eq!(config.listen.len(), 3);
}

#[test]
fn usage_errors_exit_100_and_help_exits_0() {
    for (args, says) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["--workers"], "--workers"),
        (&["--workers=1", "--workers=2"], "--workers"),
        (
            &["--workers=1", "check", "--workers=2"],
            "--workers is given twice",
        ),
        (&["seed"], "--rows"),
        (
            &["seed", "--rows=0"],
            "--rows: \"0\" is not a number of rows (1 to 2147483647)",
        ),
        (
            &["seed", "--rows=5", "--connections=x"],
            "--connections: \"x\"",
        ),
        (
            &["seed", "--rows=5", "--append", "--truncate"],
            "--truncate",
        ),
    ] {
        let exit = Case::new().args(args).parse().unwrap_err();
        assert_eq!(exit.code(), EXIT_USAGE, "{args:?}");
        assert!(exit.to_string().contains(says), "{args:?}: {exit}");
    }
    for args in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["seed", "--help"],
        &["help", "seed"],
    ] {
        assert_eq!(
            Case::new().args(args).parse().unwrap_err().code(),
            0,
            "{args:?}"
        );
    }
    let help = Case::new()
        .args(&["--help"])
        .parse()
        .unwrap_err()
        .to_string();
    for setting in SETTINGS {
        assert!(
            help.contains(&setting.flag()) && help.contains(&setting.env()),
            "{}",
            setting.key
        );
    }
    assert!(
        help.contains("Limits of a connection:") && help.contains("Exit codes"),
        "{help}"
    );
    command().debug_assert();
}
