//! What the table becomes: the files of `sysctl.d/` and `limits.d/`, README's table, and the report of `tune --check`.

use super::table::{InFile, Place, ROWS, Row, Unit};
use super::{Finding, Needs, Verdict};

/// Columns that a comment may take.
const WIDTH: usize = 120;

const SYSCTL_HEAD: &str = "Kernel settings for a host that serves thousands of connections a second, as `canvas-cluster tune \
    --print sysctl.d` writes them. Install in /etc/sysctl.d, then `sysctl --system`. A line lowers what is higher already: \
    `canvas-cluster tune --check` tells which ones a host needs.";

const LIMITS_HEAD: &str = "Open files for canvas-cluster when a login user starts it and not systemd (whose unit has \
    LimitNOFILE=), as `canvas-cluster tune --print limits.d` writes them. Install in /etc/security/limits.d. Each \
    connection is one: the seed's service ran out of them at 3,500 requests a second.";

/// The file for /etc/sysctl.d (sysctl.d(5)): generous values for any host, more where these needs ask for more.
pub fn sysctl_file(needs: &Needs) -> String {
    let mut text = comment(SYSCTL_HEAD);
    for row in ROWS.iter().filter(|row| row.place == Place::Sysctl) {
        if let Some(amount) = amount_in_file(row, needs) {
            let Row {
                name, why, harm, ..
            } = row;
            let said = comment(&format!("{}. Without: {harm}.", capital(why)));
            text += &format!("\n{said}{name} = {}\n", row.value(amount, None));
        }
    }
    text
}

/// The file for /etc/security/limits.d (limits.conf(5)).
pub fn limits_file(needs: &Needs) -> String {
    let mut text = comment(LIMITS_HEAD);
    for row in ROWS.iter().filter(|row| row.place == Place::OpenFiles) {
        if let Some(amount) = amount_in_file(row, needs) {
            for kind in ["soft", "hard"] {
                text += &format!("*    {kind}    {}    {amount}\n", row.name);
            }
        }
    }
    text
}

fn amount_in_file(row: &Row, needs: &Needs) -> Option<u64> {
    let needed = row.needed(needs);
    match row.in_file {
        InFile::AtLeast(floor) => Some(needed.max(floor)),
        InFile::Beyond(usual) => Some(needed).filter(|needed| *needed > usual),
    }
}

/// README's table: each limit, what needs it, and what happens beyond it.
pub fn readme_table() -> String {
    let mut table = String::from("| limit | what needs it | beyond it |\n| --- | --- | --- |\n");
    for Row {
        name, why, harm, ..
    } in ROWS
    {
        table += &format!(
            "| `{name}` | {} | {harm} |\n",
            why.replace("--max-connections", "`--max-connections`")
        );
    }
    table
}

/// A line for each limit (name, what was found, what is wanted, the result), then a sentence for each that is too low.
pub fn report(findings: &[Finding]) -> String {
    let lines: Vec<[String; 4]> = findings.iter().map(columns).collect();
    let head = ["limit", "found", "wanted", "result"].map(str::to_owned);
    let mut text = String::new();
    let width = |column: usize| {
        let widest = lines.iter().chain([&head]).map(|line| line[column].len());
        widest.max().unwrap_or_default()
    };
    let [name_width, found_width, wanted_width] = [width(0), width(1), width(2)];
    for [name, found, wanted, result] in [&head].into_iter().chain(&lines) {
        text += &format!(
            "{name:name_width$}  {found:>found_width$}  {wanted:>wanted_width$}  {result}\n"
        );
    }
    for complaint in findings
        .iter()
        .filter_map(|finding| finding.complaint.as_ref())
    {
        text += &format!("\n{complaint}\n");
    }
    text
}

fn columns(finding: &Finding) -> [String; 4] {
    let result = match finding.verdict {
        Verdict::Met => "ok".to_owned(),
        Verdict::Short => "too low".to_owned(),
        Verdict::Unknown => "can't be read".to_owned(),
        Verdict::Idle(because) => format!("has no effect: {because}"),
    };
    [
        finding.row.name.to_owned(),
        finding.found.clone().unwrap_or_else(|| "-".to_owned()),
        match finding.row.unit {
            Unit::Number => finding.wanted.to_string(),
            Unit::Ports => format!("{} ports", finding.wanted),
        },
        result,
    ]
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// Breaks a text into comment lines.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &format!("{line}\n");
            line = String::from("#");
        }
        line += &format!(" {word}");
    }
    lines + &line + "\n"
}
