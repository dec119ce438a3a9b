//! What a setting is: a row of the table in `table`, and the names that are made from its key. Called by all of
//! `config`.

use super::kind::Kind;
use super::table::SETTINGS;

/// One setting.
pub(super) struct Setting {
    /// The key in the file, in snake_case. Flag and variable are made from it, so the three can't differ.
    pub(super) key: &'static str,
    /// What stands for the value in help: `N`, `FILE`.
    pub(super) value_name: &'static str,
    pub(super) default: Preset,
    pub(super) group: Group,
    /// What it sets, one sentence without a full stop.
    pub(super) help: &'static str,
    pub(super) kind: Kind,
}

/// What holds when nothing is given.
pub(super) enum Preset {
    /// This text, read like any other.
    Value(&'static str),
    /// No value of its own: what that means, and a value for the example file.
    None {
        means: &'static str,
        example: &'static str,
    },
}

/// Where a setting stands in help and README.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Group {
    Process,
    Database,
    Cache,
    Redis,
    Writes,
    Responses,
    Limits,
}

impl Group {
    /// The heading in help, man page and example file.
    pub(super) fn title(self) -> &'static str {
        match self {
            Group::Process => "Process",
            Group::Database => "Database",
            Group::Cache => "Workers' own cache",
            Group::Redis => "Redis",
            Group::Writes => "Writes",
            Group::Responses => "Responses",
            Group::Limits => "Limits of a connection",
        }
    }
}

impl Setting {
    /// `--state-dir`
    pub(super) fn flag(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// `CANVAS_STATE_DIR`
    pub(super) fn env(&self) -> String {
        format!("{PREFIX}{}", self.key.to_ascii_uppercase())
    }

    /// Whether it may stand in the file: all but the name of the file itself.
    pub(super) fn in_file(&self) -> bool {
        self.key != "config"
    }

    /// Whether the value itself is secret (a file that holds a secret isn't).
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Url { .. } | Kind::Urls { .. })
    }

    /// The systemd credential that stands for this setting, `database-url` for `database_url_file`.
    pub(super) fn credential(&self) -> Option<String> {
        let held = self.key.strip_suffix("_file")?;
        matches!(self.kind, Kind::SecretFile { .. }).then(|| held.replace('_', "-"))
    }

    /// What it sets, and its range: "Time an answer stays in Redis (1s to 30d)".
    pub(super) fn about(&self) -> String {
        let range = self
            .kind
            .range()
            .map_or_else(String::new, |range| format!(" ({range})"));
        format!("{}{range}", self.help)
    }

    /// The default in words.
    pub(super) fn default_text(&self) -> &'static str {
        match self.default {
            Preset::Value(text) => text,
            Preset::None { means, .. } => means,
        }
    }
}

/// What all our environment variables start with.
pub(super) const PREFIX: &str = "CANVAS_";

/// The row with this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}
