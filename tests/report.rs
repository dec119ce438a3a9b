//! README claims nothing that was not measured: its figures are those of the report, and the report those of the results.

use std::path::Path;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The numbers of a text, as they are written: with commas between thousands and a point before parts.
fn figures(text: &str) -> Vec<&str> {
    text.split(|letter: char| !letter.is_ascii_digit() && letter != ',' && letter != '.')
        .map(|word| word.trim_matches([',', '.']))
        .filter(|word| !word.is_empty())
        .collect()
}

#[test]
fn every_figure_of_the_readme_is_in_the_report() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("<!-- measured").expect("where it begins");
    let (block, _) = rest
        .split_once("<!-- /measured -->")
        .expect("where it ends");
    let claimed = figures(block);
    assert!(claimed.len() > 10, "README tells no figures: {block}");
    let report = read("benches/REPORT.md");
    let measured = figures(&report);
    for figure in claimed {
        assert!(
            measured.contains(&figure),
            "README's {figure} is not in the report; `benches/run report` makes both of the results"
        );
    }
}

#[test]
fn the_pictures_are_there() {
    let report = read("benches/REPORT.md");
    let named: Vec<&str> = report
        .split("](plots/")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect();
    assert!(!named.is_empty(), "no picture is named");
    for name in named {
        let drawing = read(&format!("benches/plots/{name}"));
        assert!(drawing.contains("<svg"), "{name} is no picture");
    }
}
