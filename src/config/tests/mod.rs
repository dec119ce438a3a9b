//! What holds for every row of the table: precedence, defaults, completeness. The other files test refusals, secrets
//! and the command line with the same `Case`.

mod command_line;
mod refusals;
mod secrets;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::kind::{Kind, Scheme};
use super::settings::{Preset, Setting};
use super::table::SETTINGS;
use super::*;

/// A command line, an environment and a folder for files.
struct Case {
    folder: tempfile::TempDir,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = ("HOME".into(), folder.path().into());
        Case {
            folder,
            args: vec!["canvas-cluster".into()],
            env: vec![home],
        }
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(OsString::from));
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Lays a file that only its owner can read.
    fn lay(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Gives a configuration file.
    fn file(self, text: &str) -> Self {
        let path = self.lay("x.toml", text);
        self.env("CANVAS_CONFIG", path.to_str().unwrap())
    }

    /// Gives a systemd credential.
    fn credential(mut self, name: &str, text: &str) -> Self {
        self.lay(&format!("credentials/{name}"), text);
        let folder = self.folder.path().join("credentials");
        self.env
            .push(("CREDENTIALS_DIRECTORY".into(), folder.into()));
        self
    }

    fn parse(&self) -> Result<(Mode, Sources), Exit> {
        parse(self.args.clone(), self.env.clone())
    }

    fn load(&self) -> Result<Config, ConfigError> {
        self.parse().unwrap().1.load()
    }

    /// The one problem of a case that must fail.
    fn problem(&self) -> String {
        let error = self.load().unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
        error.to_string()
    }
}

/// Value and origin of one setting.
fn shown(config: &Config, key: &str) -> (String, String) {
    let (_, value, origin) = config
        .describe()
        .into_iter()
        .find(|(known, ..)| known == key)
        .unwrap();
    (value, origin)
}

/// Three values that the setting takes, different from each other and from the default, as `describe` shows them.
fn samples(case: &Case, setting: &Setting) -> [String; 3] {
    let Preset::Value(default) = setting.default else {
        return [1, 2, 3].map(|n| match setting.kind {
            Kind::Url {
                scheme: Scheme::Database,
                ..
            } => format!("sqlite:/tmp/{n}.db"),
            Kind::Url {
                scheme: Scheme::Redis,
                ..
            } => format!("redis://127.0.0.{n}/"),
            Kind::Urls { .. } => format!("postgres://replica{n}/d"),
            Kind::Networks { .. } => format!("10.0.{n}.0/24"),
            Kind::Admin { .. } => ["127.0.0.1:2", "unix:/x.sock", "none"][n - 1].to_owned(),
            Kind::Origins { .. } => format!("https://shop{n}.example"),
            Kind::LoaderioToken { .. } => format!("loaderio-{n}"),
            // Users and groups that hosts have.
            Kind::Name { .. } => ["root", "daemon", "bin"][n - 1].to_owned(),
            _ => {
                let text = match setting.key {
                    "database_url_file" => "sqlite:x.db",
                    "database_read_url_file" => "postgres://replica/d",
                    "redis_url_file" => "redis://h",
                    "write_token_file" => "0123456789abcdef",
                    _ => "",
                };
                case.lay(&n.to_string(), text).to_str().unwrap().to_owned()
            }
        });
    };
    [1_usize, 2, 3].map(|n| match &setting.kind {
        Kind::Workers { .. } => n.to_string(),
        Kind::Count { .. } => (value::count(default).unwrap() + n).to_string(),
        Kind::Size { .. } => value::show_size(value::size(default).unwrap() + n),
        Kind::Time { .. } => {
            value::show_duration(value::duration(default).unwrap() + Duration::from_secs(n as u64))
        }
        Kind::Switch { .. } => ["true", "false", "true"][n - 1].to_owned(),
        Kind::Listen { .. } => format!("127.0.0.1:{n}"),
        Kind::AccessLog { .. } => ["-", "/tmp/a.log", "b.log"][n - 1].to_owned(),
        Kind::AccessFormat { .. } => ["json", "combined", "json"][n - 1].to_owned(),
        Kind::LogFormat { .. } => ["json", "logfmt", "text"][n - 1].to_owned(),
        Kind::ServerTiming { .. } => ["asked", "always", "asked"][n - 1].to_owned(),
        Kind::ApiDocs { .. } => ["admin", "none", "public"][n - 1].to_owned(),
        Kind::LogLevel { .. } => ["error", "warn", "debug"][n - 1].to_owned(),
        Kind::Prefix { .. } => format!("p{n}:"),
        Kind::Ancestors { .. } => ["none", "*", "https://shop.example"][n - 1].to_owned(),
        Kind::Path { .. }
        | Kind::SecretFile { .. }
        | Kind::ControlSocket { .. }
        | Kind::Admin { .. }
        | Kind::Url { .. }
        | Kind::Urls { .. }
        | Kind::Networks { .. }
        | Kind::Name { .. }
        | Kind::LoaderioToken { .. }
        | Kind::Origins { .. } => {
            unreachable!("has no default value")
        }
    })
}

#[test]
fn every_row_obeys_flag_over_environment_over_file_over_default() {
    for setting in SETTINGS {
        let mut case = Case::new();
        if setting.key == "group" {
            case = case.env("CANVAS_USER", "root");
        }
        let [from_file, from_env, from_flag] = samples(&case, setting);
        let origin = |case: &Case| {
            shown(
                &case
                    .load()
                    .unwrap_or_else(|e| panic!("{}: {e}", setting.key)),
                setting.key,
            )
        };
        let default = setting.default_text();

        let (value, of) = origin(&case);
        assert_eq!(of, "default", "{}", setting.key);
        match (&setting.kind, &setting.default) {
            (Kind::Workers { .. }, _) => assert!(value.ends_with(" (auto)"), "{value}"),
            (Kind::Time { .. }, _) => assert_eq!(value::duration(&value), value::duration(default)),
            (_, Preset::Value(_)) => assert_eq!(value, default, "{}", setting.key),
            (_, Preset::None { .. }) if setting.key == "state_dir" => {
                assert!(value.ends_with(".local/share/canvas-cluster"))
            }
            (_, Preset::None { .. }) if setting.key == "control_socket" => {
                assert_eq!(value, "/run/canvas-cluster/control.sock")
            }
            (_, Preset::None { .. }) if setting.key == "admin" => {
                assert_eq!(value, "unix:/run/canvas-cluster/admin.sock")
            }
            (_, Preset::None { means, .. }) => assert_eq!(value, format!("({means})")),
        }

        let case = if setting.in_file() {
            let case = case.file(&format!("{} = \"{from_file}\"", setting.key));
            let path = case
                .folder
                .path()
                .join("x.toml")
                .to_str()
                .unwrap()
                .to_owned();
            assert_eq!(origin(&case), (from_file, path), "{}", setting.key);
            case
        } else {
            case
        };
        let case = case.env(&setting.env(), &from_env);
        assert_eq!(origin(&case), (from_env, setting.env()));

        let case = case.args(&[&format!("{}={from_flag}", setting.flag())]);
        assert_eq!(origin(&case), (from_flag, setting.flag()));
    }
}

#[test]
fn every_row_is_complete_and_unlike_the_others() {
    let mut keys = BTreeSet::new();
    for setting in SETTINGS {
        assert!(keys.insert(setting.key), "{} twice", setting.key);
        assert!(
            setting.help.len() > 10 && !setting.help.ends_with('.'),
            "{}",
            setting.key
        );
        assert!(
            !setting.value_name.is_empty() && !setting.default_text().is_empty(),
            "{}",
            setting.key
        );
        assert!(
            setting
                .key
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
            "{}",
            setting.key
        );
        if let Preset::Value(text) = setting.default {
            setting
                .kind
                .read(text.as_ref(), &mut values::Values::blank())
                .expect(setting.key);
        }
    }
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = Case::new().load().unwrap();
    assert_eq!(
        config.listen,
        [Listen {
            address: "127.0.0.1:1121".parse().unwrap(),
            proxied: false
        }]
    );
    assert!(matches!(config.workers, Workers::Auto(1..)));
    assert!(
        matches!(&config.database, Database::Embedded { path } if path.starts_with(&config.state_dir))
    );
    assert!(config.redis.is_none() && matches!(config.writes, Writes::LoopbackOnly));
    assert_eq!(
        (config.lanes, config.log_level),
        (4, log::LevelFilter::Info)
    );
    let seconds = Duration::from_secs;
    assert_eq!(
        (
            config.request_timeout,
            config.drain_timeout,
            config.boot_timeout
        ),
        (seconds(2), seconds(30), seconds(30))
    );
    let limits = LimitsConfig {
        max_request_line: 8 << 10,
        max_head: 16 << 10,
        max_fields: 64,
        max_body: 64 << 10,
        head_timeout: seconds(10),
        min_body_rate: 256,
        keepalive_timeout: seconds(75),
        write_timeout: seconds(30),
        max_connections: 20_000,
    };
    assert_eq!(config.limits, limits);
    let redis = Case::new()
        .args(&["--redis-url", "redis://h"])
        .load()
        .unwrap()
        .redis
        .unwrap();
    assert_eq!(
        (redis.prefix.as_str(), redis.ttl),
        ("canvas-cluster:", seconds(3600))
    );
}

#[test]
fn the_state_directory_is_systemds_then_xdgs_then_the_systems() {
    let of = |env: &[(&str, &str)]| {
        let env = env.iter().map(|(name, value)| (name.into(), value.into()));
        parse([OsString::from("c")], env)
            .unwrap()
            .1
            .load()
            .unwrap()
            .state_dir
    };
    let home = ("HOME", "/home/u");
    assert_eq!(
        of(&[
            ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"),
            ("XDG_DATA_HOME", "/x"),
            home
        ]),
        Path::new("/var/lib/a")
    );
    assert_eq!(
        of(&[("XDG_DATA_HOME", "/x"), home]),
        Path::new("/x/canvas-cluster")
    );
    assert_eq!(
        of(&[("XDG_DATA_HOME", "relative"), home]),
        Path::new("/home/u/.local/share/canvas-cluster")
    );
    assert_eq!(of(&[]), Path::new("/var/lib/canvas-cluster"));
}

#[test]
fn the_control_socket_is_found_whatever_else_is_wrong() {
    let of = |args: &[&str], env: &[(&str, &str)]| {
        let env = env.iter().map(|(name, value)| (name.into(), value.into()));
        let args = args.iter().map(OsString::from);
        parse([OsString::from("c")].into_iter().chain(args), env)
            .unwrap()
            .1
            .control_socket()
    };
    let usual = |places: &[&str]| ControlSocket::Usual(places.iter().map(PathBuf::from).collect());
    let system = "/run/canvas-cluster/control.sock";
    assert_eq!(of(&[], &[]).unwrap(), usual(&[system]));
    let folders = [
        ("RUNTIME_DIRECTORY", "/run/a:/run/b"),
        ("XDG_RUNTIME_DIR", "/run/user/7"),
    ];
    assert_eq!(
        of(&[], &folders).unwrap(),
        usual(&[
            "/run/a/control.sock",
            "/run/user/7/canvas-cluster/control.sock",
            system
        ])
    );
    let relative = [("RUNTIME_DIRECTORY", "a"), ("XDG_RUNTIME_DIR", "b")];
    assert_eq!(of(&[], &relative).unwrap(), usual(&[system]));
    let named = ["--control-socket", "/x", "--workers", "many"];
    assert_eq!(
        of(&named, &folders).unwrap(),
        ControlSocket::At("/x".into())
    );
    assert_eq!(
        of(
            &["--control-socket", "none", "--config", "/nowhere"],
            &folders
        )
        .unwrap(),
        ControlSocket::Off
    );
    assert!(of(&["--control-socket", ""], &[]).is_err());
}

#[test]
fn the_admin_listener_is_beside_the_control_socket_if_nobody_says_another_place() {
    let of = |args: &[&str]| {
        let args = args.iter().map(OsString::from);
        let env = [(
            OsString::from("XDG_RUNTIME_DIR"),
            OsString::from("/run/user/7"),
        )];
        let parsed = parse([OsString::from("c")].into_iter().chain(args), env);
        parsed.unwrap().1.admin()
    };
    let usual = |places: &[&str]| Admin::Usual(places.iter().map(PathBuf::from).collect());
    assert_eq!(
        of(&[]).unwrap(),
        usual(&[
            "/run/user/7/canvas-cluster/admin.sock",
            "/run/canvas-cluster/admin.sock"
        ])
    );
    assert_eq!(
        of(&["--control-socket", "/x/y.sock", "--workers", "many"]).unwrap(),
        usual(&["/x/admin.sock"])
    );
    assert_eq!(of(&["--control-socket", "none"]).unwrap(), Admin::Off);
    assert_eq!(of(&["--admin", "none"]).unwrap(), Admin::Off);
    assert_eq!(
        of(&["--control-socket", "none", "--admin", "[::1]:7"]).unwrap(),
        Admin::At(AdminAddress::Tcp("[::1]:7".parse().unwrap()))
    );
    assert_eq!(
        of(&["--admin", "unix:y.sock"]).unwrap(),
        Admin::At(AdminAddress::Unix("y.sock".into()))
    );
    assert!(of(&["--admin", "unix:"]).is_err());
}

#[test]
fn loading_again_reads_file_and_secrets_again() {
    let case = Case::new()
        .file("lanes = 5")
        .credential("write-token", "0123456789abcdef");
    let (_, sources) = case.parse().unwrap();
    assert_eq!(sources.load().unwrap().lanes, 5);
    case.lay("x.toml", "lanes = 6");
    case.lay("credentials/write-token", "fedcba9876543210");
    let config = sources.load().unwrap();
    assert_eq!(config.lanes, 6);
    assert!(
        matches!(config.writes, Writes::Token(secret) if secret.expose() == "fedcba9876543210")
    );
    case.lay("x.toml", "lanes = 0");
    assert!(sources.load().is_err());
}
