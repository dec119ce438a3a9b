//! What people read about the settings: README's table, the options of the man page, the example file. All come from
//! the settings table. Called by tests that hold the documents to it, and by packaging. Pure.

use clap::Command;

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

/// Signals to the master: their names, what it does, and what becomes of requests. README has the same in more words.
const SIGNALS: [(&str, &str, &str); 7] = [
    (
        "HUP",
        "Reads the configuration again and replaces the workers, a tenth of them at a time; the first one tries it.",
        "None is lost. A configuration that is wrong, or with which workers don't get ready, is not taken, or taken back.",
    ),
    (
        "TERM, QUIT",
        "Stops within the drain time-out; a second one stops at once.",
        "What waits and what is in flight is answered.",
    ),
    ("INT", "Stops at once.", "What is in flight is cut off."),
    ("USR1", "Opens the access log anew.", "None is touched."),
    (
        "USR2",
        "Upgrades: becomes the program that its file now holds, with the same pid, sockets and counters, and replaces the \
         workers as HUP does. A new program that can't take over is refused, and everything stays as it is.",
        "None is lost.",
    ),
    (
        "TTIN, TTOU",
        "Goes on with one worker more, or one fewer, until the next HUP.",
        "None is lost.",
    ),
    ("WINCH", "Is ignored.", "None is touched."),
];

/// The manual page in section 8, in roff (man(7)).
pub fn man_page(command: &Command) -> String {
    let mut page = format!(
        ".TH CANVAS\\-CLUSTER 8 \"\" \"canvas\\-cluster {}\" \"System Manager's Manual\"\n\
         .SH NAME\ncanvas\\-cluster \\- serve a product page's images from every core of one host\n\
         .SH SYNOPSIS\n.B canvas\\-cluster\n[\\fIOPTION\\fR ...]\n.br\n.B canvas\\-cluster\n\\fICOMMAND\\fR [\\fIOPTION\\fR ...]\n\
         .SH DESCRIPTION\n\
         A master process owns the listening sockets and starts a worker per CPU. Each worker answers requests for the\n\
         rows of a table of shoe images, from its own memory, from Redis, or from PostgreSQL, CouchDB or SQLite.\n\
         Without a database URL it serves an SQLite file that it makes itself, filled with a demo catalogue.\n\
         .SH COMMANDS\nWithout a command it serves.\n",
        roff(env!("CARGO_PKG_VERSION"))
    );
    for subcommand in command.get_subcommands() {
        page += &man_command(subcommand, subcommand.get_name());
    }
    page += ".SH OPTIONS\nEach is a flag, an environment variable and a key of the configuration file. A flag beats the \
             variable, which beats a systemd credential, which beats the file.\n";
    page += &man_options();
    page += ".SH SIGNALS\n";
    for (names, does, requests) in SIGNALS {
        page += &format!(
            ".TP\n\\fB{}\\fR\n{}\nRequests: {}\n",
            roff(names),
            roff(does),
            roff(requests)
        );
    }
    page += "A worker that gets TERM or QUIT itself finishes once another one has taken its place; it ignores the others.\n\
             .SH WORKERS\nEach slot has a worker. One that dies is replaced at once, and then ever more slowly, unless nobody else serves. A slot\n\
             whose workers don't get\n\
             ready five times in a row is degraded: the log says so once, ctl status and the status line name it, the others\n\
             serve for it, and it is tried on, down to twice a minute.\n\
             .SH EXIT STATUS\n\
             .TP\n\\fB0\\fR\nAn orderly end.\n\
             .TP\n\\fB1\\fR\ntune --check has found a limit that is too low; status, fewer workers than should serve.\n\
             .TP\n\\fB100\\fR\nThe command line or the configuration is wrong.\n\
             .TP\n\\fB111\\fR\nThe system or the database is in the way; what ctl asked for was tried in vain.\n\
             .TP\n\\fB112\\fR\nctl, status or top has reached no server.\n\
             .SH SEE ALSO\n.BR systemctl (1),\n.BR journalctl (1),\n.BR sysctl.d (5)\n";
    page
}

/// A command, its arguments, and the commands below it.
fn man_command(command: &Command, name: &str) -> String {
    let about = command.get_about().map(ToString::to_string);
    let mut page = format!(
        ".TP\n\\fB{}\\fR\n{}.\n",
        roff(name),
        roff(&about.unwrap_or_default())
    );
    // An argument that commands below take too is told here alone.
    let below = command.get_subcommands().next().is_some();
    for argument in command.get_arguments() {
        let Some(help) = argument.get_help() else {
            continue;
        };
        if argument.is_global_set() && !below {
            continue;
        }
        let name = match argument.get_long() {
            Some(long) => format!("--{long}"),
            None => argument.get_id().to_string().to_uppercase(),
        };
        page += &format!(
            ".RS\n.TP\n\\fB{}\\fR\n{}.\n.RE\n",
            roff(&name),
            roff(&help.to_string())
        );
    }
    for subcommand in command.get_subcommands() {
        let name = format!("{name} {}", subcommand.get_name());
        page += &format!(".RS\n{}.RE\n", man_command(subcommand, &name));
    }
    page
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
        _ if setting.kind.separator().is_some() => format!("[\"{text}\"]"),
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
            table.contains("| `--config [-]FILE` | `CANVAS_CONFIG` |  | no file |"),
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
    fn the_manual_has_every_command_and_signal_and_only_macros_of_man_7() {
        let page = man_page(&crate::config::command());
        for subcommand in crate::config::command().get_subcommands() {
            let name = format!("\\fB{}\\fR", subcommand.get_name());
            assert!(page.contains(&name), "{name}");
            for below in subcommand.get_subcommands() {
                let name = format!("\\fB{} {}\\fR", subcommand.get_name(), below.get_name());
                assert!(page.contains(&name), "{name}");
            }
        }
        assert_eq!(page.matches("\\fB\\-\\-json\\fR").count(), 2);
        let opened = page.lines().filter(|line| *line == ".RS").count();
        assert_eq!(page.lines().filter(|line| *line == ".RE").count(), opened);
        for (names, _, _) in SIGNALS {
            assert!(page.contains(names), "{names}");
        }
        assert!(page.contains("\\fB\\-\\-rows\\fR") && page.contains("\\fBPAGE\\fR"));
        let known = ["TH", "SH", "SS", "TP", "B", "BR", "br", "RS", "RE"];
        for line in page.lines().filter(|line| line.starts_with('.')) {
            let name = line[1..].split(' ').next().unwrap_or_default();
            assert!(known.contains(&name), "{line}");
        }
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
