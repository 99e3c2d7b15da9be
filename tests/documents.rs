//! The documents against each other: links lead somewhere, and what SECURITY.md relies on is there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn document(name: &str) -> String {
    read(&root().join("docs").join(name))
}

/// Every document that people read.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("loadtest/README.md")];
    for folder in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            found.push(entry.expect("an entry").path());
        }
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    found
}

/// Text outside of blocks of code.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// As a page of the document names its headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut followed = 0;
    let mut broken = Vec::new();
    for path in documents() {
        let text = prose(&read(&path));
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = path.parent().expect("a folder");
            let target = if file.is_empty() { path.clone() } else { folder.join(file) };
            let leads = target.exists()
                && (anchor.is_empty()
                    || anchors(&prose(&read(&target))).iter().any(|known| known == anchor));
            if !leads {
                broken.push(format!("{}: {link}", path.display()));
            }
            followed += 1;
        }
    }
    assert!(followed > 50, "{followed} links");
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Everything between backticks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The section of one table of CONFIGURATION.md.
fn table<'a>(configuration: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = configuration.split_once(&format!("\n## `[{name}]`\n"))?;
    Some(rest.split_once("\n## ").map_or(rest, |(section, _)| section))
}

#[test]
fn what_the_threat_model_names_is_a_key_or_a_metric() {
    let (security, configuration) = (document("SECURITY.md"), document("CONFIGURATION.md"));
    let operations = document("OPERATIONS.md");
    let tables = configuration.lines().filter_map(|line| {
        line.strip_prefix("## `[")?.split(']').next().filter(|name| !name.starts_with('['))
    });
    let tables: Vec<_> = tables.collect();
    let (mut keys, mut metrics) = (0, 0);
    for span in code_spans(&prose(&security)) {
        if let Some(metric) = span.strip_prefix("corelane_") {
            let name = metric.split('{').next().unwrap_or(metric);
            let name = name.strip_suffix("_total").unwrap_or(name);
            let listed = [format!("`corelane_{name}`"), format!("`corelane_{name}{{")];
            let counted = format!("corelane_{name}_total");
            let known = listed.iter().chain([&counted]).any(|name| operations.contains(name));
            assert!(known, "{span} is not in OPERATIONS.md");
            metrics += 1;
        }
        let inside =
            |name: &&&str| span.strip_prefix(**name).is_some_and(|key| key.starts_with('.'));
        if let Some(name) = tables.iter().filter(inside).max_by_key(|name| name.len()) {
            let key = &span[name.len() + 1..];
            let row = format!("\n| `{key}` |");
            let known = table(&configuration, name).is_some_and(|section| section.contains(&row));
            assert!(known, "{span} is not in CONFIGURATION.md");
            keys += 1;
        }
    }
    assert!(keys >= 10 && metrics >= 12, "{keys} keys, {metrics} metrics");
}
