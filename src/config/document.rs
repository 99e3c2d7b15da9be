//! The key tables as text: the complete commented file, and what a reload can change.

use std::fmt::Write as _;

use super::TABLES;
use super::key::{Key, Occurs, Table};

/// A file that says nothing but the defaults, with every key explained.
#[must_use]
pub fn defaults_file() -> String {
    let mut out = String::from(
        "# corelane.toml: every key with its default. Delete what you do not change.\n\
         # Precedence: default < this file < environment variable < command line flag.\n\
         # Durations have a unit (us, ms, s, m, h, d), sizes may have one (KiB, MiB, GiB).\n\
         # Tables in [[double brackets]] may stand many times; they are examples here.\n\
         # live: SIGHUP applies a change, no connection is closed. restart: needs a new process.\n",
    );
    for table in TABLES {
        write_table(&mut out, table);
    }
    out
}

/// One line per key, `path  live|restart  variable`, in the order of the file.
#[must_use]
pub fn reload_table() -> String {
    let mut out = String::new();
    for table in TABLES {
        for key in table.keys {
            let path = match table.occurs {
                Occurs::Once => table.path(key),
                Occurs::Each => format!("[[{}]] {}", table.name, key.name),
            };
            let variable = table.variable(key).unwrap_or_default();
            let line = format!("  {path:<52} {:<8} {variable}", key.reload.label());
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

fn write_table(out: &mut String, table: &Table) {
    out.push('\n');
    comment(out, table.doc);
    match table.occurs {
        Occurs::Once => push(out, format_args!("[{}]", table.name)),
        Occurs::Each => push(out, format_args!("#[[{}]]", table.name)),
    }
    for key in table.keys {
        comment(out, key.doc);
        push(out, format_args!("# {}", facts(table, key)));
        match table.occurs {
            Occurs::Once => push(out, format_args!("{} = {}", key.name, key.default)),
            Occurs::Each => push(out, format_args!("#{} = {}", key.name, key.example)),
        }
    }
}

fn facts(table: &Table, key: &Key) -> String {
    let required = if key.is_required() { "required, " } else { "" };
    let variable = table.variable(key).map(|name| format!(" {name}.")).unwrap_or_default();
    format!("({required}{}; {}.{variable})", key.reload.label(), (key.expects)())
}

/// Doc lines keep the blank that stands in front of them.
fn comment(out: &mut String, doc: &str) {
    for line in doc.lines() {
        push(out, format_args!("#{line}"));
    }
}

fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests;
