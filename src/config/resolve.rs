//! Makes a `Config` of well-formed values: reads the secrets that they name, fills in what depends on the host, and
//! checks the settings against each other. Called by `sources`, the last step of loading.

use std::path::{Path, PathBuf};

use super::kind::{Kind, Scheme, check_replicas, show_path};
use super::layers::{Layered, Origin};
use super::redis_url::{self, Topology};
use super::secret::{Secret, holds_secret, redact_url, redact_urls};
use super::settings::{Setting, find};
use super::sources::Environment;
use super::table::SETTINGS;
use super::values::Values;
use super::{
    Account, Admin, AdminAddress, Config, ConfigError, ControlSocket, Database, Listen, Redis,
    Workers, Writes, account, cpus, files, value,
};

/// Length of a write token in bytes: long enough not to be guessed, short enough for a head.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 16..=1024;

/// The last folder that is tried for the state, the one that the FHS names.
const SYSTEM_STATE: &str = "/var/lib/canvas-cluster";

/// The last folder that is tried for the control socket, the one that the FHS names.
const SYSTEM_RUNTIME: &str = "/run/canvas-cluster";

/// The control socket inside its folder.
const CONTROL: &str = "control.sock";

/// The admin listener's socket beside it.
const ADMIN: &str = "admin.sock";

/// The embedded database inside the state directory.
const EMBEDDED: &str = "canvas-cluster.sqlite3";

/// `open_file` is the configuration file if every user of the host can read it.
pub(super) fn resolve(
    mut layered: Layered,
    env: &Environment,
    open_file: Option<&Path>,
) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let database = keep(choose_url(&layered, Urls::Database), &mut problems);
    let replicas = keep(choose_url(&layered, Urls::Replicas), &mut problems);
    let redis = keep(choose_url(&layered, Urls::Redis), &mut problems);
    let token = keep(read_token(&layered), &mut problems);
    let user = keep(find_account(&layered), &mut problems);
    check_writes(&layered, &mut problems);
    check_order(&layered, &mut problems);
    check_admin(&layered, &mut problems);
    check_prefix(&layered, redis.as_ref(), &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }

    let state_dir = layered
        .values
        .state_dir
        .clone()
        .unwrap_or_else(|| default_state_dir(env));
    let control_socket = control_socket(&layered.values, env);
    let admin = admin(&layered.values, &control_socket);
    let workers = layered
        .values
        .workers
        .map_or_else(|| Workers::Auto(cpus::available()), Workers::Fixed);
    let settings = describe(
        &mut layered,
        &Computed {
            workers,
            state_dir: &state_dir,
            control_socket: &control_socket,
            admin: &admin,
            database: &database,
            replicas: &replicas,
            redis: &redis,
            token: &token,
        },
    );
    let warnings = [&database, &replicas, &redis]
        .into_iter()
        .flatten()
        .filter_map(|chosen| warn_of(chosen, open_file))
        .collect();
    let values = layered.values;
    Ok(Config {
        workers,
        listen: values.listen,
        trusted_proxies: values.trusted_proxies,
        database: match database {
            Some(chosen) => Database::Url(chosen.secret),
            None => Database::Embedded {
                path: state_dir.join(EMBEDDED),
            },
        },
        database_read_urls: replicas.map_or(Vec::new(), |chosen| {
            let urls = chosen.secret.expose().split_whitespace();
            urls.map(Secret::new).collect()
        }),
        max_replica_lag: values.max_replica_lag,
        database_pooler: values.database_pooler,
        l1_bytes: values.l1_bytes,
        l1_ttl: values.l1_ttl,
        redis: redis.map(|chosen| Redis {
            url: chosen.secret,
            prefix: values.redis_prefix,
            ttl: values.redis_ttl,
        }),
        writes: match (token, values.allow_anonymous_writes) {
            (Some(chosen), _) => Writes::Token(chosen.secret),
            (None, true) => Writes::Anonymous,
            (None, false) => Writes::LoopbackOnly,
        },
        state_dir,
        control_socket,
        admin,
        lanes: values.lanes,
        request_timeout: values.request_timeout,
        drain_timeout: values.drain_timeout,
        drain_delay: values.drain_delay,
        roll_pause: values.roll_pause,
        boot_timeout: values.boot_timeout,
        hang_timeout: values.hang_timeout,
        max_requests: values.max_requests,
        max_worker_rss: values.max_worker_rss,
        tune_host: values.tune_host,
        seccomp: values.seccomp,
        database_notify: values.database_notify,
        user,
        log_level: values.log_level,
        log_format: values.log_format,
        slow_request: values.slow_request,
        trace_sql: values.trace_sql,
        server_timing: values.server_timing,
        access_log: values.access_log,
        access_log_format: values.access_log_format,
        cache_max_age: values.cache_max_age,
        cors_origins: values.cors_origins,
        api_docs: values.api_docs,
        frame_ancestors: values.frame_ancestors,
        static_dir: values.static_dir,
        loaderio_token: values.loaderio_token,
        limits: values.limits,
        warnings,
        settings,
    })
}

/// The value, or nothing and one problem more.
fn keep<T>(result: Result<Option<T>, String>, problems: &mut Vec<String>) -> Option<T> {
    result.unwrap_or_else(|why| {
        problems.push(why);
        None
    })
}

/// The user as whom workers run, looked up.
fn find_account(layered: &Layered) -> Result<Option<Account>, String> {
    let name = |key: &str| layered.origin(row(key)).name(row(key));
    let group = match &layered.values.group {
        Some(group) => {
            let gid = account::gid(group).map_err(|why| format!("{}: {why}", name("group")))?;
            Some(gid)
        }
        None => None,
    };
    match &layered.values.user {
        Some(user) => account::find(user, group)
            .map(Some)
            .map_err(|why| format!("{}: {why}", name("user"))),
        None if group.is_some() => Err(format!("{}: takes --user as well", name("group"))),
        None => Ok(None),
    }
}

/// A secret, and the setting and origin that it comes from.
struct Chosen {
    secret: Secret,
    setting: &'static Setting,
    origin: Origin,
}

/// What has URLs, given themselves or in a file.
#[derive(Clone, Copy)]
enum Urls {
    Database,
    Replicas,
    Redis,
}

impl Urls {
    fn check(self, text: &str) -> Result<(), String> {
        match self {
            Urls::Database => Scheme::Database.check(text),
            Urls::Replicas => check_replicas(text),
            Urls::Redis => Scheme::Redis.check(text),
        }
    }
}

/// The URL given itself or in a file, whichever is stronger; both at one level are a mistake.
fn choose_url(layered: &Layered, urls: Urls) -> Result<Option<Chosen>, String> {
    let values = &layered.values;
    let (url_key, file_key, url, path) = match urls {
        Urls::Database => (
            "database_url",
            "database_url_file",
            &values.database_url,
            &values.database_url_file,
        ),
        Urls::Replicas => (
            "database_read_url",
            "database_read_url_file",
            &values.database_read_url,
            &values.database_read_url_file,
        ),
        Urls::Redis => (
            "redis_url",
            "redis_url_file",
            &values.redis_url,
            &values.redis_url_file,
        ),
    };
    let (url_setting, file_setting) = (row(url_key), row(file_key));
    let (url_origin, file_origin) = (layered.origin(url_setting), layered.origin(file_setting));
    let direct = |url: &Secret| Chosen {
        secret: url.clone(),
        setting: url_setting,
        origin: url_origin.clone(),
    };
    match (url, path) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) if url_origin.rank() == file_origin.rank() => {
            let (one, other) = (url_origin.name(url_setting), file_origin.name(file_setting));
            Err(format!(
                "{one} and {other} are both given; give one of them"
            ))
        }
        (Some(url), None) => Ok(Some(direct(url))),
        (Some(url), Some(_)) if url_origin.rank() > file_origin.rank() => Ok(Some(direct(url))),
        (_, Some(path)) => {
            let secret = read_secret(layered, file_setting, path, |text| urls.check(text))?;
            Ok(Some(Chosen {
                secret,
                setting: file_setting,
                origin: file_origin.clone(),
            }))
        }
    }
}

fn read_token(layered: &Layered) -> Result<Option<Chosen>, String> {
    let setting = row("write_token_file");
    let Some(path) = &layered.values.write_token_file else {
        return Ok(None);
    };
    let secret = read_secret(layered, setting, path, check_token)?;
    Ok(Some(Chosen {
        secret,
        setting,
        origin: layered.origin(setting).clone(),
    }))
}

fn read_secret(
    layered: &Layered,
    setting: &Setting,
    path: &Path,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Secret, String> {
    let name = layered.origin(setting).name(setting);
    let text = files::read_secret(path).map_err(|why| format!("{name}: {why}"))?;
    check(&text).map_err(|why| format!("{name}: {}: {why}", show_path(path)))?;
    Ok(Secret::new(text))
}

fn check_token(token: &str) -> Result<(), String> {
    if !TOKEN_LENGTH.contains(&token.len()) {
        let (from, to) = (TOKEN_LENGTH.start(), TOKEN_LENGTH.end());
        return Err(format!(
            "the token is {} bytes long; it needs {from} to {to}",
            token.len()
        ));
    }
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(
            "the token has a byte that is not visible ASCII (a space, or a second line?)"
                .to_owned(),
        );
    }
    Ok(())
}

/// Writes are never open to the world by accident. Who connects to a proxied address does so for others.
fn check_writes(layered: &Layered, problems: &mut Vec<String>) {
    let values = &layered.values;
    let name = |key: &str| layered.origin(row(key)).name(row(key));
    if values.allow_anonymous_writes && values.write_token_file.is_some() {
        problems.push(format!(
            "{} and {} contradict each other: with a token, writes are not anonymous; give one of them",
            name("write_token_file"),
            name("allow_anonymous_writes"),
        ));
    }
    let public: Vec<String> = values
        .listen
        .iter()
        .filter(|listen| listen.proxied || !value::is_loopback(&listen.address))
        .map(Listen::to_string)
        .collect();
    if !public.is_empty() && !values.allow_anonymous_writes && values.write_token_file.is_none() {
        problems.push(format!(
            "{}: {} can be reached from other hosts, where everyone could change the data with POST, PUT and DELETE; \
             give --write-token-file FILE, so that writers must show the token in it, \
             or --allow-anonymous-writes to let everyone write",
            name("listen"),
            public.join(", "),
        ));
    }
}

/// What the server does is not told to the world by accident, nor where its clients ask.
fn check_admin(layered: &Layered, problems: &mut Vec<String>) {
    let values = &layered.values;
    let Admin::At(AdminAddress::Tcp(address)) = &values.admin else {
        return;
    };
    let name = layered.origin(row("admin")).name(row("admin"));
    if !value::is_loopback(address) && !values.allow_remote_admin {
        problems.push(format!(
            "{name}: {address} can be reached from other hosts, where everyone could read the metrics and the status; give an \
             address of loopback or unix:FILE, or --allow-remote-admin to let everyone read them"
        ));
    }
    let public = |listen: &Listen| listen.address == *address && address.port() != 0;
    if values.listen.iter().any(public) {
        problems.push(format!(
            "{name}: {address} is an address of --listen too; give another port"
        ));
    }
}

/// In a cluster, what stands between braces decides where a key is.
fn check_prefix(layered: &Layered, redis: Option<&Chosen>, problems: &mut Vec<String>) {
    let url = redis.and_then(|chosen| redis_url::parse(chosen.secret.expose()).ok());
    let is_cluster = url.is_some_and(|url| matches!(url.topology, Topology::Cluster));
    if is_cluster && layered.values.redis_prefix.contains(['{', '}']) {
        problems.push(format!(
            "{}: a brace in it would keep a cluster from spreading the keys; leave braces out",
            layered
                .origin(row("redis_prefix"))
                .name(row("redis_prefix")),
        ));
    }
}

/// Pairs of settings that make no sense the other way round.
fn check_order(layered: &Layered, problems: &mut Vec<String>) {
    let values = &layered.values;
    let name = |key: &str| layered.origin(row(key)).name(row(key));
    if values.request_timeout > values.drain_timeout {
        problems.push(format!(
            "{}: {} is longer than drain_timeout ({}), so a reload would cut off requests that may still be answered",
            name("request_timeout"),
            value::show_duration(values.request_timeout),
            value::show_duration(values.drain_timeout),
        ));
    }
    if values.drain_delay > values.drain_timeout {
        problems.push(format!(
            "{}: {} is longer than drain_timeout ({}), which idle connections have afterwards as well",
            name("drain_delay"),
            value::show_duration(values.drain_delay),
            value::show_duration(values.drain_timeout),
        ));
    }
    if values.database_pooler && values.database_notify {
        problems.push(format!(
            "{} and {} contradict each other: a pooler in transaction mode forgets who listens; give --database-url the server itself \
             and leave the pooler out, or do without hearing of writes made past this server",
            name("database_notify"),
            name("database_pooler"),
        ));
    }
    if values.limits.max_request_line > values.limits.max_head {
        problems.push(format!(
            "{}: {} is larger than max_head ({}), which the request line is part of",
            name("max_request_line"),
            value::show_size(values.limits.max_request_line),
            value::show_size(values.limits.max_head),
        ));
    }
}

/// systemd's folder (the first of several), else the XDG data folder, else the system's. The XDG specification asks to
/// ignore relative paths.
fn default_state_dir(env: &Environment) -> PathBuf {
    let systemd = env
        .get("STATE_DIRECTORY")
        .and_then(|folders| std::env::split_paths(folders).next());
    let absolute = |name| {
        env.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    systemd
        .or_else(|| Some(absolute("XDG_DATA_HOME")?.join("canvas-cluster")))
        .or_else(|| Some(absolute("HOME")?.join(".local/share/canvas-cluster")))
        .unwrap_or_else(|| PathBuf::from(SYSTEM_STATE))
}

/// The socket that was named, or the usual places: systemd's folder for the service, the user's, the system's.
pub(super) fn control_socket(values: &Values, env: &Environment) -> ControlSocket {
    let ControlSocket::Usual(_) = values.control_socket else {
        return values.control_socket.clone();
    };
    let absolute = |path: PathBuf| Some(path).filter(|path| path.is_absolute());
    let systemd = env
        .get("RUNTIME_DIRECTORY")
        .and_then(|folders| std::env::split_paths(folders).next())
        .and_then(absolute);
    let users = env
        .get("XDG_RUNTIME_DIR")
        .and_then(|folder| absolute(folder.into()))
        .map(|folder| folder.join("canvas-cluster"));
    let mut places: Vec<PathBuf> = [systemd, users, Some(SYSTEM_RUNTIME.into())]
        .into_iter()
        .flatten()
        .map(|folder| folder.join(CONTROL))
        .collect();
    places.dedup();
    ControlSocket::Usual(places)
}

/// The admin listener that was named, or a socket beside the control socket.
pub(super) fn admin(values: &Values, control_socket: &ControlSocket) -> Admin {
    let Admin::Usual(_) = values.admin else {
        return values.admin.clone();
    };
    let beside = |path: &PathBuf| path.with_file_name(ADMIN);
    match control_socket {
        ControlSocket::Off => Admin::Off,
        ControlSocket::At(path) => Admin::Usual(vec![beside(path)]),
        ControlSocket::Usual(places) => Admin::Usual(places.iter().map(beside).collect()),
    }
}

/// What the values alone don't tell.
struct Computed<'a> {
    workers: Workers,
    state_dir: &'a Path,
    control_socket: &'a ControlSocket,
    admin: &'a Admin,
    database: &'a Option<Chosen>,
    replicas: &'a Option<Chosen>,
    redis: &'a Option<Chosen>,
    token: &'a Option<Chosen>,
}

/// Each setting as `check` prints it: key, value in force, origin.
fn describe(layered: &mut Layered, computed: &Computed<'_>) -> Vec<(String, String, String)> {
    let chosen = [
        computed.database,
        computed.replicas,
        computed.redis,
        computed.token,
    ];
    let mut rows = Vec::new();
    for setting in SETTINGS {
        let origin = layered.origin(setting).show(setting);
        let given = setting.kind.show(&mut layered.values);
        let source = chosen
            .iter()
            .copied()
            .flatten()
            .find(|chosen| stands_for(setting, chosen.setting));
        let (shown, origin) = match (setting.key, given, source) {
            ("workers", _, _) => (computed.workers.to_string(), origin),
            ("state_dir", _, _) => (show_path(computed.state_dir), origin),
            ("control_socket", None, _) => match computed.control_socket {
                ControlSocket::Usual(places) if !places.is_empty() => {
                    (show_path(&places[0]), origin)
                }
                _ => ("none".to_owned(), origin),
            },
            ("admin", None, _) => match computed.admin {
                Admin::Usual(places) if !places.is_empty() => {
                    (format!("{}{}", value::UNIX, show_path(&places[0])), origin)
                }
                _ => ("none".to_owned(), origin),
            },
            // The URL that counts, wherever it stood.
            (_, _, Some(source)) if setting.is_secret() => (
                match setting.kind {
                    Kind::Urls { .. } => redact_urls(source.secret.expose()),
                    _ => redact_url(source.secret.expose()),
                },
                source.origin.show(source.setting),
            ),
            (_, Some(path), Some(source)) if source.setting.key != setting.key => (
                format!(
                    "{path} (not read, {} is stronger)",
                    source.origin.name(source.setting)
                ),
                origin,
            ),
            (_, given, _) => (
                given.unwrap_or_else(|| format!("({})", setting.default_text())),
                origin,
            ),
        };
        rows.push((setting.key.to_owned(), shown, origin));
    }
    rows
}

/// Whether the two settings are two ways to give the same secret.
fn stands_for(setting: &Setting, source: &Setting) -> bool {
    let stem = |setting: &Setting| setting.key.trim_end_matches("_file").to_owned();
    matches!(
        setting.kind,
        Kind::Url { .. } | Kind::Urls { .. } | Kind::SecretFile { .. }
    ) && stem(setting) == stem(source)
}

fn warn_of(chosen: &Chosen, open_file: Option<&Path>) -> Option<String> {
    let Origin::File(file) = &chosen.origin else {
        return None;
    };
    let holds = chosen.setting.is_secret()
        && match chosen.setting.kind {
            Kind::Urls { .. } => chosen.secret.expose().split_whitespace().any(holds_secret),
            _ => holds_secret(chosen.secret.expose()),
        };
    (holds && open_file == Some(file)).then(|| {
        let (key, file) = (chosen.setting.key, show_path(file));
        format!("{key} in {file} holds a password that every user of this host can read; run `chmod o-rwx {file}`, or move it to {key}_file")
    })
}

/// A row that this file names by its key.
fn row(key: &str) -> &'static Setting {
    find(key).expect("resolve names only keys of the table")
}
