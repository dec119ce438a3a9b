//! What is refused, and by which name: bad values, unknown names, types that don't fit, settings that contradict.

use super::*;

#[test]
fn bad_values_are_refused_by_name_and_origin() {
    let says = "\"x\" is not a number of workers (1 to 1024, or auto)";
    assert_eq!(
        Case::new().args(&["--workers", "x"]).problem(),
        format!("--workers: {says}")
    );
    assert_eq!(
        Case::new().env("CANVAS_WORKERS", "x").problem(),
        format!("CANVAS_WORKERS: {says}")
    );
    let case = Case::new().file("workers = \"x\"");
    let path = case.folder.path().join("x.toml");
    assert_eq!(
        case.problem(),
        format!("workers in {}: {says}", path.display())
    );

    for (key, bad, says) in [
        ("workers", "0", "1 to 1024"),
        ("workers", "1025", "1 to 1024"),
        ("lanes", "65", "1 to 64"),
        ("max_fields", "129", "1 to 128"),
        (
            "max_body",
            "1025KiB",
            "\"1025KiB\" is not a size (1KiB to 1MiB)",
        ),
        (
            "redis_ttl",
            "999ms",
            "\"999ms\" is not a duration (1s to 30d)",
        ),
        ("request_timeout", "forever", "a duration (10ms to 5m)"),
        ("log_level", "trace", "error, warn, info or debug"),
        ("listen", "localhost:1121", "localhost is a name"),
        ("allow_anonymous_writes", "maybe", "true or false"),
        ("redis_prefix", "a b", "visible ASCII"),
        ("database_url", "mysql://h/db", "sqlite:PATH, postgres://"),
        ("database_url", "sqlite:", "is not a database URL"),
        (
            "redis_url",
            "rediss://h/#insecure",
            "always checks the certificate",
        ),
        ("redis_url", "http://h", "is not a Redis URL"),
        ("redis_url", "redis://h/notanumber", "is not a Redis URL"),
        (
            "database_url_file",
            "postgres://h/db",
            "takes the name of a file",
        ),
    ] {
        let problem = Case::new()
            .args(&[&format!("--{}={bad}", key.replace('_', "-"))])
            .problem();
        assert!(problem.contains(says), "{key}: {problem}");
    }
    let problem = Case::new()
        .args(&["--redis-url=redis+cluster://h", "--redis-prefix=a{b"])
        .problem();
    assert!(problem.starts_with("--redis-prefix: a brace"), "{problem}");
    // A bad value under a good one is a mistake all the same, and all mistakes come at once.
    let error = Case::new()
        .env("CANVAS_LANES", "0")
        .args(&["--lanes=2", "--workers=x"])
        .load()
        .unwrap_err();
    assert_eq!(error.problems().len(), 2, "{error}");
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known() {
    let problem = Case::new().file("max-body = 5").problem();
    assert!(
        problem.starts_with("max-body in /")
            && problem.ends_with("no such setting; did you mean max_body?"),
        "{problem}"
    );
    assert!(
        Case::new()
            .file("config = \"x\"")
            .problem()
            .contains("this very file")
    );
    assert!(
        Case::new()
            .file("[limits]\nmax_body = 5")
            .problem()
            .contains("top level")
    );
    assert!(
        Case::new()
            .file("zzz = 1")
            .problem()
            .ends_with("no such setting")
    );
    assert_eq!(
        Case::new().env("CANVAS_WORKER", "1").problem(),
        "CANVAS_WORKER: no such setting; did you mean CANVAS_WORKERS?"
    );
    // The common prefix makes no two names alike.
    assert_eq!(
        Case::new().env("CANVAS_FOO", "1").problem(),
        "CANVAS_FOO: no such setting"
    );
    let problem = Case::new().env("CANVAS_WRITE_TOKEN", "canary").problem();
    assert!(
        problem.ends_with("did you mean CANVAS_WRITE_TOKEN_FILE?"),
        "{problem}"
    );
    let Err(Exit::Usage(text)) = Case::new().args(&["--worker", "1"]).parse() else {
        panic!()
    };
    assert!(
        text.contains("'--worker'") && text.contains("'--workers'"),
        "{text}"
    );
}

#[test]
fn service_links_of_kubernetes_are_no_settings() {
    let mut case = Case::new();
    for (name, value) in [
        ("CANVAS_SERVICE_HOST", "10.0.0.1"),
        ("CANVAS_SERVICE_PORT", "80"),
        ("CANVAS_SERVICE_PORT_HTTP", "80"),
        ("CANVAS_PORT", "tcp://10.0.0.1:80"),
        ("CANVAS_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("CANVAS_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("CANVAS_CLUSTER_SERVICE_HOST", "10.0.0.1"),
        ("CANVAS_CLUSTER_PORT_80_TCP_PROTO", "tcp"),
        ("CANVAS_LANES", ""),
    ] {
        case = case.env(name, value);
    }
    assert_eq!(
        shown(&case.load().unwrap(), "lanes"),
        ("4".into(), "default".into())
    );
    assert!(
        Case::new()
            .env("CANVAS_PORT", "8080")
            .problem()
            .starts_with("CANVAS_PORT: no such setting")
    );
}

#[test]
fn the_file_takes_toml_types_where_they_fit() {
    let text = "workers = 3\nlisten = [\"127.0.0.1:1\", \"[::1]:2\"]\nmax_body = 2048\nrequest_timeout = 3\nallow_anonymous_writes = true";
    let config = Case::new().file(text).load().unwrap();
    assert_eq!(
        (config.workers, config.listen.len(), config.limits.max_body),
        (Workers::Fixed(3), 2, 2048)
    );
    assert!(
        matches!(config.writes, Writes::Anonymous)
            && config.request_timeout == Duration::from_secs(3)
    );
    for (bad, says) in [
        ("workers = 1.5", "a float is not a number of workers"),
        ("state_dir = 5", "an integer is not a path"),
        ("listen = [1]", "an array of something else than strings"),
        ("workers = -1", "\"-1\" is not a number of workers"),
        ("[workers]", "a table is not a number of workers"),
        (
            "workers = 1\nworkers = 2",
            "line 2, column 1: duplicate key",
        ),
    ] {
        let problem = Case::new().file(bad).problem();
        assert!(problem.contains(says), "{bad}: {problem}");
    }
    let problem = Case::new().args(&["--config=/nonexistent.toml"]).problem();
    assert!(
        problem.starts_with("--config: can't read /nonexistent.toml: No such file"),
        "{problem}"
    );
}

#[test]
fn settings_are_checked_against_each_other() {
    let problem = Case::new().args(&["--request-timeout=40s"]).problem();
    assert!(
        problem.starts_with("--request-timeout: 40s is longer than drain_timeout (30s)"),
        "{problem}"
    );
    let problem = Case::new().env("CANVAS_MAX_REQUEST_LINE", "20k").problem();
    assert!(
        problem.starts_with("CANVAS_MAX_REQUEST_LINE: 20KiB is larger than max_head (16KiB)"),
        "{problem}"
    );
}

#[test]
fn what_is_not_utf8_is_refused_by_name() {
    let bad = || OsString::from_vec(b"\xff".to_vec());
    let mut case = Case::new();
    case.args.extend(["--redis-prefix".into(), bad()]);
    assert_eq!(
        case.problem(),
        "--redis-prefix: the value is not valid UTF-8"
    );
    let mut case = Case::new();
    case.env.push(("CANVAS_LISTEN".into(), bad()));
    assert_eq!(
        case.problem(),
        "CANVAS_LISTEN: the value is not valid UTF-8"
    );
    let mut case = Case::new();
    case.env
        .push((OsString::from_vec(b"CANVAS_\xff".to_vec()), "x".into()));
    assert!(case.problem().contains("no such setting"));
    let mut case = Case::new();
    case.args.push(bad());
    assert_eq!(case.parse().unwrap_err().code(), EXIT_USAGE);
    // Paths need not be UTF-8.
    let mut case = Case::new();
    case.args.extend(["--state-dir".into(), bad()]);
    assert_eq!(case.load().unwrap().state_dir, Path::new(&bad()));
}
