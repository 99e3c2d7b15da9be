//! Names that nobody declared, in every layer: tables, variables, flags. Unknown keys inside a
//! known table are found by its `Reader`.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::TABLES;
use super::key::{Occurs, Table};
use super::nearest::nearest;
use super::problem::{Origin, Problem};
use super::reader::Notes;
use super::unsupported::{UNSUPPORTED, Unsupported};

/// Variables of our prefix that are no keys: arguments of the command line.
const OTHER_VARIABLES: [&str; 2] = ["CORELANE_CONFIG", "CORELANE_TOKEN"];

pub(super) fn is_ours(variable: &str) -> bool {
    variable.starts_with("CORELANE_") || variable.starts_with("CONNECT_")
}

/// Follows a dotted path of table names.
pub(super) fn find<'a>(root: &'a DeTable<'a>, path: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    let (parents, last) = path.rsplit_once('.').map_or((None, path), |(p, l)| (Some(p), l));
    let table = match parents {
        Some(parents) => find(root, parents)?.get_ref().as_table()?,
        None => root,
    };
    table.get(last)
}

pub(super) fn refuse_unknown_tables(root: &DeTable<'_>, notes: &mut Notes) {
    let first = |table: &Table| table.name.split('.').next().unwrap_or(table.name);
    let known: BTreeSet<&str> = TABLES.iter().map(first).collect();
    refuse_tables_other_than(&known, "", root, notes);
    let listen = root.get("listen").and_then(|value| value.get_ref().as_table());
    if let Some(listen) = listen {
        refuse_tables_other_than(
            &BTreeSet::from(["public", "tls", "internal", "admin"]),
            "listen.",
            listen,
            notes,
        );
    }
    let once = TABLES.iter().filter(|table| table.occurs == Occurs::Once);
    for path in once.map(|table| table.name).chain(["listen"]) {
        if let Some(value) = find(root, path).filter(|value| !value.get_ref().is_table()) {
            let message = format!("`{path}`: expected a table, written [{path}]");
            notes.report(Problem::new(Origin::File(value.span()), message));
        }
    }
}

fn refuse_tables_other_than(
    known: &BTreeSet<&str>,
    prefix: &str,
    written: &DeTable<'_>,
    notes: &mut Notes,
) {
    for name in written.keys() {
        let text: &str = name.get_ref();
        if known.contains(text) {
            continue;
        }
        let message = format!("unknown table or key `{prefix}{text}`");
        let problem = Problem::new(Origin::File(name.span()), message);
        notes.report(match nearest(text, known.iter().copied()) {
            Some(name) => problem.help(format!("did you mean [{prefix}{name}]?")),
            None => problem,
        });
    }
}

pub(super) fn refuse_unknown_variables(environment: &BTreeMap<String, String>, notes: &mut Notes) {
    let keys = TABLES.iter().flat_map(|table| table.keys.iter().map(move |key| (table, key)));
    let mut known: Vec<String> = keys.filter_map(|(table, key)| table.variable(key)).collect();
    known.extend(OTHER_VARIABLES.map(str::to_owned));
    let unsupported = UNSUPPORTED.iter();
    let names: Vec<String> =
        unsupported.map(|key| format!("CONNECT_{}", key.name.to_ascii_uppercase())).collect();
    for (name, value) in environment {
        if !is_ours(name) || known.contains(name) {
            continue;
        }
        let origin = Origin::Variable(name.clone());
        if let Some(key) = Unsupported::by_variable(name) {
            if !key.is_default(value) {
                notes.report(Problem::new(origin, key.message()));
            }
            continue;
        }
        let problem = Problem::new(origin, "no key has this variable");
        let candidates = known.iter().chain(&names).map(String::as_str);
        notes.report(match nearest(name, candidates) {
            Some(name) => problem.help(format!("did you mean `{name}`?")),
            None => problem,
        });
    }
}

pub(super) fn refuse_unknown_flags(flags: &[(String, String)], notes: &mut Notes) {
    let once = TABLES.iter().filter(|table| table.occurs == Occurs::Once);
    let known: Vec<String> =
        once.flat_map(|table| table.keys.iter().map(|key| table.path(key))).collect();
    for (name, _) in flags {
        if !known.contains(name) {
            let problem = Problem::new(Origin::Flag, format!("no key is called `{name}`"));
            notes.report(match nearest(name, known.iter().map(String::as_str)) {
                Some(name) => problem.help(format!("did you mean `{name}`?")),
                None => problem,
            });
        }
    }
}
