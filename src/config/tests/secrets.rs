//! Secrets: where they come from, who may write, and that they never show.

use super::*;

#[test]
fn a_url_comes_from_the_strongest_of_itself_its_file_and_a_credential() {
    let url = |case: &Case| match case.load().unwrap().database {
        Database::Url(url) => url.expose().to_owned(),
        Database::Embedded { .. } => panic!("embedded"),
    };
    let case = Case::new()
        .file("database_url = \"sqlite:file\"")
        .credential("database-url", "sqlite:credential\n");
    assert_eq!(url(&case), "sqlite:credential");
    let config = case.load().unwrap();
    assert_eq!(
        shown(&config, "database_url"),
        ("sqlite:credential".into(), "credential database-url".into())
    );

    let case = case.env("CANVAS_DATABASE_URL", "sqlite:env");
    assert_eq!(url(&case), "sqlite:env");
    let (value, _) = shown(&case.load().unwrap(), "database_url_file");
    assert!(
        value.ends_with("(not read, CANVAS_DATABASE_URL is stronger)"),
        "{value}"
    );

    let path = case.lay("url", "sqlite:flag");
    let case = case.args(&["--database-url-file", path.to_str().unwrap()]);
    assert_eq!(url(&case), "sqlite:flag");
    let case = case.args(&["--database-url=sqlite:both"]);
    assert_eq!(
        case.problem(),
        "--database-url and --database-url-file are both given; give one of them"
    );
}

#[test]
fn writes_are_never_open_to_the_world_by_accident() {
    let token = "0123456789abcdef";
    for open in [
        "0.0.0.0:1",
        "[::]:1",
        "10.0.0.1:1",
        "127.0.0.1:1,[::ffff:10.0.0.1]:1",
    ] {
        let problem = Case::new().args(&["--listen", open]).problem();
        assert!(
            problem.starts_with("--listen: ") && problem.contains("--write-token-file"),
            "{problem}"
        );
        assert!(problem.contains("--allow-anonymous-writes"), "{problem}");

        let config = Case::new()
            .args(&["--listen", open, "--allow-anonymous-writes"])
            .load()
            .unwrap();
        assert!(matches!(config.writes, Writes::Anonymous));
        let config = Case::new()
            .args(&["--listen", open])
            .credential("write-token", token)
            .load()
            .unwrap();
        assert!(matches!(&config.writes, Writes::Token(secret) if secret.expose() == token));
    }
    for closed in [
        "127.8.8.8:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "127.0.0.1:0,[::1]:0",
    ] {
        let config = Case::new().args(&["--listen", closed]).load().unwrap();
        assert!(matches!(config.writes, Writes::LoopbackOnly), "{closed}");
    }
    let case = Case::new()
        .args(&["--allow-anonymous-writes"])
        .credential("write-token", token);
    assert!(
        case.problem()
            .contains("credential write-token and --allow-anonymous-writes contradict")
    );
    let case = Case::new()
        .env("CANVAS_ALLOW_ANONYMOUS_WRITES", "yes")
        .args(&["--allow-anonymous-writes=false"]);
    assert!(matches!(case.load().unwrap().writes, Writes::LoopbackOnly));
}

#[test]
fn a_bad_token_is_refused_unseen() {
    for (token, says) in [
        ("canary\n", "6 bytes long; it needs 16 to 1024"),
        ("", "0 bytes long"),
        ("canary-canary canary", "not visible ASCII"),
        ("canary-canary-1\n\n", "not visible ASCII"),
        ("canary-canary-cänary", "not visible ASCII"),
    ] {
        let problem = Case::new().credential("write-token", token).problem();
        assert!(
            problem.starts_with("credential write-token: /") && problem.contains(says),
            "{problem}"
        );
        assert!(!problem.contains("canary-"), "{problem}");
    }
    let case = Case::new().credential("write-token", "0123456789abcdef");
    let path = case.folder.path().join("credentials/write-token");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(case.problem().contains("chmod o-rwx"));
}

#[test]
fn secrets_never_show() {
    const CANARY: &str = "hunter2canary";
    let url = format!("postgres://u:{CANARY}@h/db");
    let redis = format!("redis://:{CANARY}@h/0");
    let token = format!("{CANARY}{CANARY}");
    let no_canary = |what: &str, text: String| assert!(!text.contains(CANARY), "{what}: {text}");

    // Where they belong.
    let good = [
        Case::new().args(&["--database-url", &url, "--redis-url", &redis]),
        Case::new()
            .env("CANVAS_DATABASE_URL", &url)
            .env("CANVAS_REDIS_URL", &redis),
        Case::new().file(&format!(
            "database_url = \"{url}\"\nredis_url = \"{redis}\""
        )),
        Case::new()
            .credential("database-url", &url)
            .credential("redis-url", &redis)
            .credential("write-token", &token),
    ];
    for case in good {
        fs::set_permissions(case.folder.path(), Permissions::from_mode(0o700)).unwrap();
        let file = case.folder.path().join("x.toml");
        if file.exists() {
            fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        }
        let (_, sources) = case.parse().unwrap();
        no_canary("sources", format!("{sources:?}"));
        let config = sources.load().unwrap();
        assert!(matches!(&config.database, Database::Url(secret) if secret.expose() == url));
        assert_eq!(config.warnings.len(), if file.exists() { 2 } else { 0 });
        no_canary(
            "config",
            format!("{config:?} {config:#?} {:?}", config.describe()),
        );
    }

    // Where they don't: every setting in every place, and files that don't parse.
    let wrong = [
        url.clone(),
        format!("u:{CANARY}@h"),
        format!("redis://{CANARY}@h"),
        format!("mysql://u:{CANARY}@h\n"),
    ];
    for text in &wrong {
        for setting in SETTINGS {
            let quoted = format!("{} = {text:?}", setting.key);
            let cases = [
                Case::new().args(&[&format!("{}={text}", setting.flag())]),
                Case::new().env(&setting.env(), text),
                Case::new().file(&quoted),
            ];
            for case in cases {
                match case.parse() {
                    Ok((_, sources)) => match sources.load() {
                        Ok(config)
                            if matches!(
                                setting.kind,
                                Kind::Path { .. }
                                    | Kind::ControlSocket { .. }
                                    | Kind::AccessLog { .. }
                                    | Kind::Prefix { .. }
                            ) =>
                        {
                            // A path or prefix is not secret by itself; a URL in its place is hidden all the same.
                            if matches!(setting.kind, Kind::Path { .. }) && text.contains("://") {
                                no_canary(setting.key, format!("{:?}", config.describe()));
                            }
                        }
                        Ok(config) => no_canary(setting.key, format!("{config:?}")),
                        Err(error)
                            if matches!(setting.kind, Kind::Path { .. })
                                && !text.contains("://") =>
                        {
                            drop(error)
                        }
                        Err(error) => no_canary(setting.key, format!("{error} {error:?}")),
                    },
                    Err(exit) => no_canary(setting.key, exit.to_string()),
                }
            }
        }
    }
    for text in [
        format!("database_url = {url}"),
        format!("database_url = \"{url}"),
        format!("database_url = \"{url}\\q\""),
        format!("database_url = '{url}' '{CANARY}'"),
        format!("database_url {url}"),
        url.clone(),
        format!("\"{url}\" = 1"),
        format!("{CANARY}\u{7} = 1"),
        format!("[{url}]"),
        format!("database_url = [\"{url}\"]"),
        format!("database_url = {{ url = \"{url}\" }}"),
        format!("workers = 1\nworkers = \"{url}\""),
    ] {
        no_canary(
            &text,
            Case::new().file(&text).load().unwrap_err().to_string(),
        );
    }
    for args in [
        vec!["--databse-url", &url],
        vec!["--databse-url=postgres://u:hunter2canary@h"],
        vec![&url[..]],
        vec!["seed", "--rows", &url],
        vec!["seed", "--rows=5", &url],
        vec!["--database-url", &url, "--database-url", &url],
        vec!["--database-url", &url, "--nonsense"],
        vec!["check", "--redis-url", &redis, &redis],
        vec!["--redis-url=redis://:hunter2canary@h/", "nonsense"],
    ] {
        match Case::new().args(&args).parse() {
            Err(Exit::Usage(text)) => no_canary("usage", text),
            other => panic!("{args:?}: {other:?}"),
        }
    }
}
