//! `docs/STATEMENTS.md` against the code: the tests that it names are there, and its numbers are
//! numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../docs/STATEMENTS.md");

/// One row of a table.
#[derive(Debug)]
struct Row<'a> {
    number: &'a str,
    tests: Vec<&'a str>,
    remark: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim);
    let mut rows = Vec::new();
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = cells(line).collect();
        let [number, statement, tests, remark] = cells[..] else {
            panic!("a row has four cells: {line}")
        };
        if number == "number" || number == "---" {
            continue;
        }
        assert!(!statement.is_empty(), "{number} states nothing");
        let tests = if tests == "–" { Vec::new() } else { tests.split("<br>").collect() };
        rows.push(Row { number, tests, remark });
    }
    rows
}

/// The files that the module `path` of a crate may be written in, inline modules included.
fn files_of(source: &Path, modules: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for inline in 0..=1 {
        let Some(inner) = modules.get(..modules.len() - inline) else { continue };
        let folder: PathBuf = inner.iter().fold(source.to_owned(), |path, name| path.join(name));
        files.push(folder.with_extension("rs"));
        files.push(folder.join("mod.rs"));
    }
    files
}

/// Where the test of a reference must stand, and its name. `` `corelane module::tests::name` ``,
/// `` `corelane-shard …` ``, or `` `tests/file.rs name` ``.
fn place_of(reference: &str) -> Option<(Vec<PathBuf>, &str)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (place, name) = reference.strip_prefix('`')?.strip_suffix('`')?.split_once(' ')?;
    if place.starts_with("tests/") {
        return Some((vec![root.join(place)], name));
    }
    let source = match place {
        "corelane" => root.join("src"),
        "corelane-shard" => root.join("shard/src"),
        _ => return None,
    };
    let modules: Vec<_> = name.split("::").collect();
    let (name, modules) = modules.split_last()?;
    Some((files_of(&source, modules), name))
}

/// Whether `source` has a test function of that name that every run runs.
fn has_test(source: &str, name: &str) -> bool {
    let declared = format!("fn {name}(");
    source.match_indices(&declared).any(|(at, _)| {
        let before = source[..at].trim_end();
        // Attributes may stand between, such as a reason why it is expected to panic.
        let lines = before.lines().rev().map(str::trim);
        let attributes: Vec<_> = lines.take_while(|line| line.starts_with("#[")).collect();
        let ignored = attributes.iter().any(|line| line.starts_with("#[ignore"));
        attributes.contains(&"#[test]") && !ignored
    })
}

#[test]
fn every_test_that_is_named_exists() {
    let mut sources = BTreeMap::new();
    let mut missing = Vec::new();
    let rows = rows();
    assert!(rows.len() > 300, "{} rows", rows.len());
    for Row { number, tests, .. } in &rows {
        for reference in tests {
            let Some((files, name)) = place_of(reference) else {
                missing.push(format!("{number}: {reference} is no reference"));
                continue;
            };
            let found = files.iter().any(|file| {
                let source = sources
                    .entry(file.clone())
                    .or_insert_with(|| fs::read_to_string(file).unwrap_or_default());
                has_test(source, name)
            });
            if !found {
                missing.push(format!("{number}: {reference} is not there"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn no_number_stands_twice_and_each_belongs_to_its_section() {
    let mut seen = BTreeSet::new();
    let mut last = ("", 0);
    for row in rows() {
        assert!(seen.insert(row.number), "{} stands twice", row.number);
        let (section, number) = row.number.rsplit_once('-').expect("a section and a number");
        let number: u32 = number.parse().expect("a number");
        assert!(section != last.0 || number > last.1, "{} is out of order", row.number);
        last = (section, number);
    }
}

#[test]
fn a_statement_without_a_test_says_why() {
    for row in rows().iter().filter(|row| row.tests.is_empty()) {
        let reasons = ["not built", "not on one node", "no test"];
        let says_why = reasons.iter().any(|reason| row.remark.starts_with(reason));
        assert!(says_why, "{}: {:?}", row.number, row.remark);
    }
}
