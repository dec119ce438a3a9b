//! What people read about the settings: README's table, the options of the man page, the example file. All come from
//! the settings table. Called by tests that hold the documents to it, and by packaging. Pure.

use super::kind::Kind;
use super::settings::{Group, Preset, Setting};
use super::table::SETTINGS;

/// README's table of settings, in Markdown.
pub fn readme_table() -> String {
    let mut table = String::from(
        "| Flag | Environment | Key | Default | What it sets |\n| --- | --- | --- | --- | --- |\n",
    );
    for setting in SETTINGS {
        let key = if setting.in_file() {
            format!("`{}`", setting.key)
        } else {
            String::new()
        };
        let default = match setting.default {
            Preset::Value(text) => format!("`{text}`"),
            Preset::None { means, .. } => means.to_owned(),
        };
        let cells = [
            format!("`{}`", usage(setting)),
            format!("`{}`", setting.env()),
            key,
            default,
            setting.about(),
        ];
        table += &format!(
            "| {} |\n",
            cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
        );
    }
    table
}

/// The options part of the man page, in roff: one `.SS` per group, one `.TP` per setting (man(7)).
pub fn man_options() -> String {
    let mut page = String::new();
    for (group, settings) in grouped() {
        page += &format!(".SS {}\n", roff(group.title()));
        for setting in settings {
            let value = roff(setting.value_name);
            page += &match setting.kind {
                Kind::Switch { .. } => {
                    format!(".TP\n\\fB{}\\fR[=\\fI{value}\\fR]\n", roff(&setting.flag()))
                }
                _ => format!(".TP\n\\fB{}\\fR \\fI{value}\\fR\n", roff(&setting.flag())),
            };
            let key = if setting.in_file() {
                format!(", key {}", setting.key)
            } else {
                String::new()
            };
            page += &format!(
                "{}.\nTakes {}.\nDefault: {}.\nEnvironment: {}{key}.\n",
                roff(setting.help),
                roff(&setting.kind.takes()),
                roff(setting.default_text()),
                roff(&setting.env()),
            );
        }
    }
    page
}

/// A configuration file with every key commented out, at its default or at an example.
pub fn example_toml() -> String {
    let mut file = String::from(
        "# canvas-cluster: every setting, commented out. A flag (--key) beats the environment (CANVAS_KEY), which\n\
         # beats a systemd credential, which beats this file. Read again on SIGHUP; check it with\n\
         # `canvas-cluster check --config FILE`. Times: 500ms, 2s, 1m30s, 1h. Sizes: 65536, 64KiB, 1MiB.\n",
    );
    for (group, settings) in grouped() {
        file += &format!("\n# ---- {} ----\n", group.title());
        for setting in settings.filter(|setting| setting.in_file()) {
            let about = format!("{}. Default: {}.", setting.about(), setting.default_text());
            file += &format!(
                "\n{}# {} = {}\n",
                comment(&about),
                setting.key,
                toml_value(setting)
            );
        }
    }
    file
}

fn grouped() -> impl Iterator<Item = (Group, impl Iterator<Item = &'static Setting>)> {
    let groups = [
        Group::Process,
        Group::Database,
        Group::Cache,
        Group::Redis,
        Group::Writes,
        Group::Responses,
        Group::Limits,
    ];
    groups.into_iter().map(|group| {
        (
            group,
            SETTINGS
                .iter()
                .filter(move |setting| setting.group == group),
        )
    })
}

/// `--workers N|auto`
fn usage(setting: &Setting) -> String {
    match setting.kind {
        Kind::Switch { .. } => setting.flag(),
        _ => format!("{} {}", setting.flag(), setting.value_name),
    }
}

/// The default, or the example, as TOML writes it.
fn toml_value(setting: &Setting) -> String {
    let text = match setting.default {
        Preset::Value(text) => text,
        Preset::None { example, .. } => example,
    };
    match setting.kind {
        Kind::Count { .. } | Kind::Switch { .. } => text.to_owned(),
        Kind::Listen { .. } | Kind::Networks { .. } | Kind::Origins { .. } => {
            format!("[\"{text}\"]")
        }
        // No text of the table needs an escape; a test reads each back.
        _ => format!("\"{text}\""),
    }
}

/// Breaks a text into comment lines of at most 100 columns.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > 100 {
            lines += &format!("{line}\n");
            line = String::from("#");
        }
        line += &format!(" {word}");
    }
    lines + &line + "\n"
}

/// Escapes what roff would take for a command: backslashes, hyphens, and a dot or quote that opens a line.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_has_one_row_per_setting() {
        let table = readme_table();
        assert_eq!(table.lines().count(), SETTINGS.len() + 2);
        assert!(
            table
                .lines()
                .all(|line| line.replace("\\|", "").matches('|').count() == 6),
            "{table}"
        );
        assert!(
            table.contains(r"| `--workers N\|auto` | `CANVAS_WORKERS` | `workers` | `auto` |"),
            "{table}"
        );
        assert!(
            table.contains("| `--config FILE` | `CANVAS_CONFIG` |  | no file |"),
            "{table}"
        );
    }

    #[test]
    fn man_page_has_every_flag_and_no_stray_command() {
        let page = man_options();
        for setting in SETTINGS {
            assert!(
                page.contains(&format!("\\fB{}\\fR", roff(&setting.flag()))),
                "{}",
                setting.key
            );
        }
        assert!(
            page.lines()
                .filter(|line| line.starts_with('.'))
                .all(|l| l == ".TP" || l.starts_with(".SS ")),
            "{page}"
        );
    }

    #[test]
    fn example_says_every_key_and_changes_nothing() {
        let example = example_toml();
        assert!(example.parse::<toml::Table>().unwrap().is_empty());
        assert!(
            example.lines().all(|line| line.chars().count() <= 120),
            "{example}"
        );
        for setting in SETTINGS.iter().filter(|setting| setting.in_file()) {
            let line = example.lines().find_map(|line| {
                line.strip_prefix(&format!("# {} = ", setting.key)[..])
                    .map(|_| line)
            });
            let mut problems = Vec::new();
            let path = std::path::Path::new("x.toml");
            let given =
                super::super::toml_file::given(path, &line.expect(setting.key)[2..], &mut problems);
            super::super::layers::Layered::read(given, &mut problems);
            assert!(problems.is_empty(), "{problems:?}");
        }
    }
}
