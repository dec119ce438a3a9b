//! Collects raw values with their origin: flags and environment once, when the process starts; the file and the
//! credentials each time a configuration is loaded. `main` makes a [`Sources`] through [`super::parse`] and loads
//! it; the master loads it again on SIGHUP.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::layers::{Given, Layered, Origin};
use super::resolve::{admin, control_socket, resolve};
use super::settings::{PREFIX, Setting};
use super::table::SETTINGS;
use super::{Admin, Config, ConfigError, ControlSocket, LogFormat, files, toml_file};

/// The variables that we read beside our own.
const SURROUNDINGS: [&str; 6] = [
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "HOME",
    "CREDENTIALS_DIRECTORY",
];

/// Everything a configuration is made from, captured when the process started. Loading it again reads the file, the
/// secrets and the CPU quota again; flags and environment stay.
#[derive(Clone)]
pub struct Sources {
    pub(super) args: Vec<OsString>,
    pub(super) flags: Vec<Given>,
    pub(super) env: Environment,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

impl Sources {
    /// The command line as given, program name first and secrets included: for a re-exec, never for a log.
    pub fn args(&self) -> &[OsString] {
        &self.args
    }

    /// Reads the file, the credentials and the secrets, and makes a [`Config`] that has passed every check.
    ///
    /// # Errors
    /// All that is wrong with the configuration, each with the name of the setting and where it was given.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut problems = Vec::new();
        let (given, open_file) = self.gather(&mut problems);
        let layered = Layered::read(given, &mut problems);
        if problems.is_empty() {
            resolve(layered, &self.env, open_file.as_deref())
        } else {
            Err(ConfigError { problems })
        }
    }

    /// Where the master of this configuration takes commands. Whatever else is wrong with it does not matter: a server
    /// whose file has a mistake must still be reached.
    ///
    /// # Errors
    /// The socket itself is named wrongly.
    pub fn control_socket(&self) -> Result<ControlSocket, ConfigError> {
        let layered = self.read_only(&["control_socket"])?;
        Ok(control_socket(&layered.values, &self.env))
    }

    /// Where a server of this configuration is asked how it is; here, too, nothing else matters.
    ///
    /// # Errors
    /// The listener, or the control socket that it is beside, is named wrongly.
    pub fn admin(&self) -> Result<Admin, ConfigError> {
        let layered = self.read_only(&["control_socket", "admin"])?;
        let beside = control_socket(&layered.values, &self.env);
        Ok(admin(&layered.values, &beside))
    }

    /// These settings and no others.
    fn read_only(&self, keys: &[&str]) -> Result<Layered, ConfigError> {
        let (mut given, _) = self.gather(&mut Vec::new());
        given.retain(|given| keys.contains(&given.setting.key));
        let mut problems = Vec::new();
        let layered = Layered::read(given, &mut problems);
        if problems.is_empty() {
            Ok(layered)
        } else {
            Err(ConfigError { problems })
        }
    }

    /// How the log is to be written until the configuration is loaded. Whatever is wrong with that does not matter.
    pub fn log_format(&self) -> LogFormat {
        let (mut given, _) = self.gather(&mut Vec::new());
        given.retain(|given| given.setting.key == "log_format");
        Layered::read(given, &mut Vec::new()).values.log_format
    }

    /// All that is given, not yet read, and the file if every user of the host can read it.
    fn gather(&self, problems: &mut Vec<String>) -> (Vec<Given>, Option<PathBuf>) {
        let mut given = self.flags.clone();
        given.extend(self.env.given(problems));
        given.extend(self.env.credentials());
        let mut open_file = None;
        if let Some(named) = strongest_file(&given) {
            let (path, may_be_missing) = file_of(&named.value);
            match files::read(&path) {
                _ if may_be_missing && files::is_missing(&path) => {}
                Ok(file) => {
                    given.extend(toml_file::given(&path, &file.text, problems));
                    open_file = file.open_to_others.then_some(path);
                }
                Err(why) => problems.push(format!("{}: {why}", named.origin.name(named.setting))),
            }
        }
        (given, open_file)
    }
}

/// The file that is named, and whether it may be missing: then a `-` stands before it, as in systemd's `EnvironmentFile=`.
fn file_of(named: &OsStr) -> (PathBuf, bool) {
    match named.as_bytes().strip_prefix(b"-") {
        Some(path) => (OsStr::from_bytes(path).into(), true),
        None => (named.into(), false),
    }
}

fn strongest_file(given: &[Given]) -> Option<Given> {
    given
        .iter()
        .filter(|given| given.setting.key == "config")
        .max_by_key(|given| given.origin.rank())
        .cloned()
}

/// The part of the environment that concerns us.
#[derive(Clone)]
pub(super) struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    pub(super) fn capture(env: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let ours = |name: &OsStr| {
            name.as_bytes().starts_with(PREFIX.as_bytes())
                || SURROUNDINGS.iter().any(|other| name == *other)
        };
        let mut kept: Vec<_> = env.into_iter().filter(|(name, _)| ours(name)).collect();
        kept.sort();
        Environment(kept)
    }

    /// The variable, unless it is unset or empty.
    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value.as_os_str()).filter(|value| !value.is_empty())
    }

    /// Our variables. An empty one counts as not given, as `X=${Y}` in a unit or compose file leaves it behind.
    fn given(&self, problems: &mut Vec<String>) -> Vec<Given> {
        let mut given = Vec::new();
        for (name, value) in self
            .0
            .iter()
            .filter(|(name, _)| name.as_bytes().starts_with(PREFIX.as_bytes()))
        {
            match SETTINGS
                .iter()
                .find(|setting| name == setting.env().as_str())
            {
                Some(_) if value.is_empty() => {}
                Some(setting) => given.push(Given {
                    setting,
                    origin: Origin::Environment,
                    value: value.clone(),
                }),
                None if is_service_link(name, value) => {}
                None => {
                    let name = name.to_string_lossy();
                    let near = suggest(&name[PREFIX.len()..], Setting::env);
                    problems.push(format!("{}: no such setting{near}", name.escape_debug()));
                }
            }
        }
        given
    }

    /// What systemd's `LoadCredential=` and `SetCredential=` put into $CREDENTIALS_DIRECTORY under our names.
    fn credentials(&self) -> Vec<Given> {
        let Some(folder) = self.get("CREDENTIALS_DIRECTORY").map(Path::new) else {
            return Vec::new();
        };
        let named = SETTINGS
            .iter()
            .filter_map(|setting| Some((setting, folder.join(setting.credential()?))));
        named
            .filter(|(_, path)| files::exists(path))
            .map(|(setting, path)| Given {
                setting,
                origin: Origin::Credential,
                value: path.into(),
            })
            .collect()
    }
}

/// Whether Kubernetes set the variable for a Service whose name starts with `canvas` (`CANVAS_SERVICE_HOST`,
/// `CANVAS_CLUSTER_PORT_80_TCP=tcp://10.0.0.1:80`). A plain `CANVAS_PORT=8080` is somebody's mistake, not a link.
fn is_service_link(name: &OsStr, value: &OsStr) -> bool {
    let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
        return false;
    };
    let is_port = name.ends_with("_PORT") && value.contains("://");
    let is_protocol = ["_TCP", "_UDP", "_SCTP"]
        .iter()
        .any(|protocol| name.contains(protocol));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || is_port
        || (name.contains("_PORT_") && is_protocol)
        || name.starts_with("CANVAS_SERVICE_")
}

/// "; did you mean `x`?" for the setting whose key is nearest to a mistyped one, as `name` writes it, or nothing if none
/// is near.
pub(super) fn suggest(key: &str, name: impl Fn(&Setting) -> String) -> String {
    const NEAR: f64 = 0.8;
    let key = key.to_ascii_lowercase().replace('-', "_");
    let likeness = |setting: &Setting| strsim::jaro_winkler(&key, setting.key);
    let nearest = SETTINGS
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|setting| likeness(setting) >= NEAR) {
        Some(setting) => format!("; did you mean {}?", name(setting)),
        None => String::new(),
    }
}
