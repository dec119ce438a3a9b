//! Where settings come from, which one wins, and how a wrong one is refused: by its name, with exit code 100.

use crate::support::{Backend, Canvas, Dir};

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let backend = Backend::sqlite();
    let file = backend
        .dir
        .write("config.toml", "workers = 2\nlisten = \"127.0.0.1:0\"\n");
    let announced = |canvas: Canvas| {
        let mut server = canvas.launch_as_it_is();
        server.wait_until_ready();
        assert_eq!(server.workers().len(), server.announced_workers());
        server.announced_workers()
    };
    let from_file = || backend.canvas().arg("--config").arg(&file);
    assert_eq!(announced(from_file()), 2);
    assert_eq!(announced(backend.canvas().env("CANVAS_CONFIG", &file)), 2);
    assert_eq!(announced(from_file().env("CANVAS_WORKERS", "3")), 3);
    assert_eq!(
        announced(from_file().env("CANVAS_WORKERS", "3").workers(1)),
        1
    );
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(announced(from_file().args(["--workers", "auto"])), cpus);
}

/// A call that must fail. Should it serve instead, it does so on a free port and not on everybody's default.
fn refused(dir: &Dir) -> Canvas {
    Canvas::new(dir.path()).env("CANVAS_LISTEN", "127.0.0.1:0")
}

#[test]
fn a_wrong_flag_is_refused_by_name() {
    let dir = Dir::new();
    for (arguments, named) in [
        (&["--wrokers", "3"][..], "--wrokers"),
        (&["--workers", "many"], "--workers"),
        (&["--workers", "0"], "--workers"),
        (&["--workers", "-1"], "-1"),
        (&["--workers"], "--workers"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--listen", "127.0.0.1:70000"], "--listen"),
        (&["--database-url", "nonsense"], "--database-url"),
        (&["--redis-url", "http://127.0.0.1/"], "--redis-url"),
        (
            &["--config", "/nowhere/config.toml"],
            "/nowhere/config.toml",
        ),
        (&["--request-timeout", "soon"], "--request-timeout"),
        (&["frobnicate"], "frobnicate"),
        (&["seed", "--rows", "some"], "--rows"),
    ] {
        refused(&dir)
            .args(arguments.iter().copied())
            .run()
            .expect(100)
            .naming(&[named]);
    }
}

#[test]
fn a_wrong_variable_is_refused_by_name() {
    let dir = Dir::new();
    for (name, value) in [
        ("CANVAS_WORKERS", "many"),
        ("CANVAS_WORKERS", "0"),
        ("CANVAS_LISTEN", "nowhere"),
        ("CANVAS_WROKERS", "3"),
        ("CANVAS_ALLOW_ANONYMOUS_WRITES", "perhaps"),
    ] {
        refused(&dir)
            .env(name, value)
            .run()
            .expect(100)
            .naming(&[name]);
    }
}

#[test]
fn a_wrong_key_of_the_file_is_refused_by_name() {
    let dir = Dir::new();
    for (text, named) in [
        ("wrokers = 3\n", "wrokers"),
        ("workers = \"many\"\n", "workers"),
        ("workers = 0\n", "workers"),
        ("workers = 1.5\n", "workers"),
        ("workers = 2\nworkers = 3\n", "line 2"),
        ("listen = 1121\n", "listen"),
        ("[server]\nworkers = 2\n", "server"),
        ("workers = \n", "line 1"),
        ("config = \"other.toml\"\n", "config"),
    ] {
        let file = dir.write("canvas.toml", text);
        for command in [&[][..], &["check"]] {
            let canvas = refused(&dir)
                .args(command.iter().copied())
                .arg("--config")
                .arg(&file);
            canvas.run().expect(100).naming(&[named, "canvas.toml"]);
        }
    }
}

#[test]
fn a_file_with_a_hyphen_before_it_may_be_missing_and_nothing_else() {
    let dir = Dir::new();
    let path = dir.path().join("canvas.toml");
    let optional = format!("-{}", path.display());
    let check = |file: &str| {
        let canvas = refused(&dir).arg("check").env("CANVAS_CONFIG", file);
        canvas.run()
    };
    check(&optional).expect(0);
    check(path.to_str().unwrap()).expect(100);
    // What is there counts.
    dir.write("canvas.toml", "wrokers = 3\n");
    check(&optional).expect(100).naming(&["wrokers"]);
    std::fs::remove_file(&path).unwrap();
    // A link that leads nowhere is there, and somebody's mistake.
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    check(&optional).expect(100).naming(&["canvas.toml"]);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let dir = Dir::new();
    let file = dir.write("canvas.toml", "wrokers = 3\n");
    let canvas = refused(&dir)
        .arg("--config")
        .arg(file)
        .env("CANVAS_LISTEN", "nowhere");
    canvas
        .args(["--redis-url", "nonsense"])
        .run()
        .expect(100)
        .naming(&["wrokers", "CANVAS_LISTEN", "--redis-url"]);
}

#[test]
fn check_binds_nothing_and_changes_nothing() {
    let backend = Backend::sqlite();
    let server = backend.serve(2);
    let workers = server.workers();
    let check = || {
        backend
            .canvas()
            .arg("check")
            .args(["--listen", &server.address().to_string()])
    };
    check().run().expect(0);
    check()
        .args(["--workers", "many"])
        .run()
        .expect(100)
        .naming(&["--workers"]);
    for _ in 0..8 {
        server.get("/healthz").expect(200);
    }
    assert_eq!(server.workers(), workers);
    let dir = Dir::new();
    let canvas = Canvas::new(dir.path()).arg("check");
    let data_home = canvas.data_home();
    canvas.run().expect(0);
    assert!(!data_home.exists(), "check made files");
}

#[test]
fn help_and_version_are_told() {
    let dir = Dir::new();
    let help = Canvas::new(dir.path()).arg("--help").run().expect(0);
    for word in [
        "--workers",
        "--listen",
        "--database-url",
        "--redis-url",
        "--config",
        "migrate",
        "seed",
        "check",
    ] {
        assert!(
            help.stdout.contains(word),
            "{word} is not in the help: {}",
            help.stdout
        );
    }
    let version = Canvas::new(dir.path()).arg("--version").run().expect(0);
    assert!(
        version.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{version:?}"
    );
}

#[test]
fn the_readme_holds_the_table_of_settings() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme
        .split_once("<!-- settings: ")
        .expect("the table's beginning");
    let (table, _) = rest
        .split_once("<!-- /settings -->")
        .expect("the table's end");
    let (_, table) = table.split_once("-->\n").expect("the end of the comment");
    let expected = canvas_cluster::config::readme_table();
    assert!(
        table.trim() == expected.trim(),
        "README's settings are out of step; this belongs between its marks:\n{expected}"
    );
}

#[test]
fn the_program_prints_its_own_pages() {
    let dir = Dir::new();
    for (page, holds) in [
        ("man", ".TH CANVAS"),
        ("config", "# workers = "),
        ("bash", "COMPREPLY="),
        ("zsh", "#compdef canvas-cluster"),
        ("fish", "complete -c canvas-cluster"),
    ] {
        let ended = Canvas::new(dir.path()).args(["print", page]).run();
        let printed = ended.output();
        assert!(printed.contains(holds), "{page}: {printed}");
        assert!(printed.contains("workers"), "{page}");
        let names_commands = page != "config";
        assert_eq!(printed.contains("upgrade"), names_commands, "{page}");
        ended.expect(0);
    }
    Canvas::new(dir.path())
        .args(["print", "poem"])
        .run()
        .expect(100)
        .naming(&["poem"]);
}
