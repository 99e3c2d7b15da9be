//! `docs/CONFIGURATION.md` says what the tables say. To write it anew after a change of theirs:
//! `WRITE_REFERENCE=1 cargo test -p corelane --lib the_reference`

use std::fmt::Write as _;

use super::*;
use crate::config::unsupported::UNSUPPORTED;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md");

const PREFACE: &str = "# Configuration

<!-- Made from the key tables in src/config: a test keeps it equal. -->

One file, `corelane.toml`, named by `-c` or `CORELANE_CONFIG`. For each key the strongest layer wins:
default, then the file, then the environment variable, then a flag (`--set table.key=value`). Lists
are comma-separated in a variable or flag. Unknown keys are refused with the nearest name;
`corelane check -c FILE` reports every problem of a file at once, with its line. File names count from
the folder of the configuration file.

*live*: a reload (SIGHUP) takes the change, no connection is closed. *restart*: a reload that changes
the key is refused by name, and everything stays as it was.

Durations have a unit (us, ms, s, m, h, d), sizes may have one (KiB, MiB, GiB). `corelane config
defaults` prints the same as a complete commented file.

The limits that follow from these keys, and what happens at each, are in
[OPERATIONS.md](OPERATIONS.md).
";

fn reference() -> String {
    let mut out = PREFACE.to_owned();
    for table in TABLES {
        let (name, fourth) = match table.occurs {
            Occurs::Once => (format!("[{}]", table.name), "variable"),
            Occurs::Each => (format!("[[{}]]", table.name), "example"),
        };
        push(&mut out, format_args!("\n## `{name}`\n\n{}\n", one_line(table.doc)));
        push(&mut out, format_args!("| key | default | {fourth} | reload | meaning |"));
        push(&mut out, format_args!("| --- | --- | --- | --- | --- |"));
        for key in table.keys {
            write_row(&mut out, table, key);
        }
    }
    write_unsupported(&mut out);
    out
}

const UNSUPPORTED_PREFACE: &str = "
## Keys of the protocol that cannot be set

A deployment that comes from another gateway may keep them in `[session]`, or their variables, as long as
they stand at their default. At any other value they are refused by name and with this reason.

| key | default | variable | why |
| --- | --- | --- | --- |
";

fn write_unsupported(out: &mut String) {
    out.push_str(UNSUPPORTED_PREFACE);
    for key in UNSUPPORTED {
        let default = if key.default.is_empty() { "unset".to_owned() } else { code(key.default) };
        let (name, reason) = (key.name, cell(key.reason));
        let variable = name.to_ascii_uppercase();
        push(out, format_args!("| `{name}` | {default} | `CONNECT_{variable}` | {reason} |"));
    }
}

fn write_row(out: &mut String, table: &Table, key: &Key) {
    let default = if key.is_required() { "required".to_owned() } else { code(key.default) };
    let fourth = table.variable(key).map_or_else(|| code(key.example), |name| code(&name));
    let (doc, expects) = (one_line(key.doc), (key.expects)());
    writeln!(
        out,
        "| `{}` | {default} | {fourth} | {} | {} Value: {}. |",
        key.name,
        key.reload.label(),
        cell(&doc),
        cell(&expects)
    )
    .expect("writing to a String cannot fail");
}

fn one_line(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn code(text: &str) -> String {
    format!("`{}`", cell(text))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn the_reference_says_what_the_tables_say() {
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(REFERENCE, reference()).unwrap();
    }
    let written = std::fs::read_to_string(REFERENCE).unwrap();
    assert_eq!(written, reference(), "see the first lines of this file");
}

#[test]
fn the_reload_table_says_of_every_key_whether_it_is_live() {
    let table = reload_table();
    let facts = |path: &str| {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(path));
        line.unwrap_or_else(|| panic!("no {path}")).split_whitespace().skip(1).collect::<Vec<_>>()
    };
    assert_eq!(facts("limits.fragments_max"), ["live", "CORELANE_LIMITS_FRAGMENTS_MAX"]);
    assert_eq!(facts("session.server_salt"), ["restart", "CONNECT_SERVER_SALT"]);
    let keys: usize = TABLES.iter().map(|table| table.keys.len()).sum();
    assert_eq!(table.lines().count(), keys);
}
