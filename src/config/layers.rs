//! Layers of raw values: what was given, where, and which one counts. Flag beats environment beats systemd
//! credential beats file beats default. Called by `sources`, which collects the layers, and by `resolve`. Pure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::kind::show_path;
use super::settings::{Preset, Setting};
use super::table::SETTINGS;
use super::values::Values;

/// Where a value comes from, the weakest first: the order of the variants is the precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File(PathBuf),
    Credential,
    Environment,
    Flag,
}

impl Origin {
    /// How strong the origin is: of two values the one of higher rank counts.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File(_) => 1,
            Origin::Credential => 2,
            Origin::Environment => 3,
            Origin::Flag => 4,
        }
    }

    /// The setting as the user wrote it there: what an error message starts with.
    pub(super) fn name(&self, setting: &Setting) -> String {
        match self {
            Origin::Default => setting.key.to_owned(),
            Origin::File(path) => format!("{} in {}", setting.key, show_path(path)),
            Origin::Credential => {
                format!("credential {}", setting.credential().unwrap_or_default())
            }
            Origin::Environment => setting.env(),
            Origin::Flag => setting.flag(),
        }
    }

    /// The origin as `canvas-cluster check` shows it beside the key.
    pub(super) fn show(&self, setting: &Setting) -> String {
        match self {
            Origin::Default => "default".to_owned(),
            Origin::File(path) => show_path(path),
            Origin::Credential | Origin::Environment | Origin::Flag => self.name(setting),
        }
    }
}

/// A value as it was given, not yet read. `Debug` doesn't show it.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    pub(super) origin: Origin,
    pub(super) value: OsString,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = ***", self.origin.name(self.setting))
    }
}

/// The values that count, and where each comes from.
pub(super) struct Layered {
    pub(super) values: Values,
    origins: BTreeMap<&'static str, Origin>,
}

impl Layered {
    /// Reads the defaults and then all of `given`, from weak to strong, so that the strongest stays. Weaker values
    /// are read too: a bad one is a mistake even where another covers it.
    pub(super) fn read(mut given: Vec<Given>, problems: &mut Vec<String>) -> Self {
        let mut layered = Layered {
            values: Values::blank(),
            origins: BTreeMap::new(),
        };
        given.extend(SETTINGS.iter().filter_map(default_of));
        given.sort_by_key(|given| given.origin.rank());
        for Given {
            setting,
            origin,
            value,
        } in given
        {
            match setting.kind.read(&value, &mut layered.values) {
                Ok(()) => {
                    layered.origins.insert(setting.key, origin);
                }
                Err(why) => problems.push(format!("{}: {why}", origin.name(setting))),
            }
        }
        layered
    }

    /// Where the value of this setting comes from.
    pub(super) fn origin(&self, setting: &Setting) -> &Origin {
        self.origins.get(setting.key).unwrap_or(&Origin::Default)
    }
}

fn default_of(setting: &'static Setting) -> Option<Given> {
    match setting.default {
        Preset::Value(text) => Some(Given {
            setting,
            origin: Origin::Default,
            value: text.into(),
        }),
        Preset::None { .. } => None,
    }
}
