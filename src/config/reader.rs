//! Reading one table: for each key the strongest layer that sets it (flag, variable, file,
//! default), its place for later errors, and the keys that nobody knows.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::TABLES;
use super::key::{Key, Table};
use super::nearest::nearest;
use super::problem::{Origin, Problem};
use super::shape::{Raw, Shape};
use super::shown::{Shown, Written};
use super::unsupported::Unsupported;

/// What may override the file: flags as `table.key`, and variables.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub flags: Vec<(String, String)>,
    pub environment: BTreeMap<String, String>,
}

/// Collected while reading: what is wrong, and where each value came from.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) problems: Vec<Problem>,
    places: BTreeMap<String, Origin>,
    /// Every key as it was written.
    written: BTreeMap<String, Written>,
}

impl Notes {
    pub(super) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Where the value of `path` (`session.server_salt`, `role.0.endpoints.2`) came from.
    pub(super) fn origin(&self, path: &str) -> Origin {
        self.places.get(path).cloned().unwrap_or(Origin::Default)
    }

    pub(super) fn place(&mut self, path: String, origin: Origin) {
        self.places.insert(path, origin);
    }

    pub(super) fn shown(&self) -> Shown {
        Shown::new(&self.written)
    }
}

/// One table of the file, or its absence.
pub(super) struct Reader<'a> {
    /// `listen.public`, `service.0`.
    path: String,
    /// Rows are set by the file alone.
    overrides: Option<&'a Overrides>,
    table: Option<&'a DeTable<'a>>,
    /// Of the table's header.
    header: Range<usize>,
    notes: &'a mut Notes,
}

impl<'a> Reader<'a> {
    pub(super) fn once(
        path: &str,
        overrides: &'a Overrides,
        table: Option<&'a Spanned<DeValue<'a>>>,
        notes: &'a mut Notes,
    ) -> Self {
        let header = table.map_or(0..0, Spanned::span);
        let table = table.and_then(|value| value.get_ref().as_table());
        Self { path: path.to_owned(), overrides: Some(overrides), table, header, notes }
    }

    pub(super) fn row(
        path: String,
        header: Range<usize>,
        table: &'a DeTable<'a>,
        notes: &'a mut Notes,
    ) -> Self {
        notes.place(path.clone(), Origin::File(header.clone()));
        Self { path, overrides: None, table: Some(table), header, notes }
    }

    /// The value of the declared key `name`; `None` when a problem was reported.
    pub(super) fn key<S: Shape>(
        &mut self,
        table: &Table,
        name: &'static str,
        shape: &S,
    ) -> Option<S::Value> {
        let key = table.key(name).expect("the macro declares keys and reads them together");
        let default;
        let (raw, origin) = if let Some((text, origin)) = self.overridden(table, key) {
            (Raw::Text(text), origin)
        } else if let Some(value) = self.table.and_then(|written| written.get(name)) {
            (Raw::Toml(value), Origin::File(value.span()))
        } else if key.is_required() {
            let message =
                format!("[[{}]] lacks `{name}`: expected {}", table.name, shape.expects());
            self.notes.report(Problem::new(Origin::File(self.header.clone()), message));
            return None;
        } else {
            default = DeValue::parse(key.default).expect("defaults are TOML literals");
            (Raw::Toml(&default), Origin::Default)
        };
        self.note_places(name, raw, &origin);
        let written = Written::new(raw, &origin, shape.is_secret());
        self.notes.written.insert(format!("{}.{name}", self.path), written);
        match shape.parse(raw) {
            Ok(value) => Some(value),
            Err(mismatch) => {
                let found = mismatch.found.map(|found| format!(", found {found}"));
                let found = found.unwrap_or_default();
                let message =
                    format!("`{}.{name}`: expected {}{found}", self.path, mismatch.expected);
                let origin = match (origin, mismatch.span) {
                    (Origin::File(_), Some(span)) => Origin::File(span),
                    (origin, _) => origin,
                };
                self.notes.report(Problem::new(origin, message));
                None
            }
        }
    }

    /// Refuses every key that is neither in `table` nor one of the `nested` arrays.
    pub(super) fn refuse_others(&mut self, table: &Table, nested: &[&str]) {
        let Some(written) = self.table else { return };
        for (name, value) in written {
            let text: &str = name.get_ref();
            if table.key(text).is_some() || nested.contains(&text) {
                continue;
            }
            if let (Some(key), "session") = (Unsupported::by_name(text), table.name) {
                let shown = Raw::Toml(value).shown();
                if !key.is_default(&shown) {
                    self.notes.report(Problem::new(Origin::File(value.span()), key.message()));
                }
                continue;
            }
            let origin = Origin::File(name.span());
            let message = format!("unknown key `{text}` in [{}]", table.name);
            let problem = Problem::new(origin, message);
            self.notes.report(match suggest(text, table, nested) {
                Some(help) => problem.help(help),
                None => problem,
            });
        }
    }

    /// The rows of the array `name` in this table, with where each stands.
    pub(super) fn rows(&mut self, name: &str) -> Vec<(Range<usize>, &'a DeTable<'a>)> {
        let path = format!("{}.{name}", self.path);
        match self.table.and_then(|written| written.get(name)) {
            Some(value) => rows(&path, value, self.notes),
            None => Vec::new(),
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn notes(&mut self) -> &mut Notes {
        self.notes
    }

    fn overridden(&self, table: &Table, key: &Key) -> Option<(&'a str, Origin)> {
        let overrides = self.overrides?;
        let path = table.path(key);
        if let Some((_, text)) = overrides.flags.iter().rev().find(|(name, _)| *name == path) {
            return Some((text, Origin::Flag));
        }
        let variable = table.variable(key)?;
        let text = overrides.environment.get(&variable)?;
        Some((text, Origin::Variable(variable)))
    }

    fn note_places(&mut self, name: &str, raw: Raw<'_>, origin: &Origin) {
        let path = format!("{}.{name}", self.path);
        let elements = if matches!(raw, Raw::Toml(_)) { raw.items() } else { None };
        for (index, element) in elements.unwrap_or_default().iter().enumerate() {
            let origin = match (origin, element.span()) {
                (Origin::File(_), Some(span)) => Origin::File(span),
                (origin, _) => origin.clone(),
            };
            self.notes.place(format!("{path}.{index}"), origin);
        }
        self.notes.place(path, origin.clone());
    }
}

/// The tables of an array; anything else in its place is reported.
pub(super) fn rows<'a>(
    path: &str,
    value: &'a Spanned<DeValue<'a>>,
    notes: &mut Notes,
) -> Vec<(Range<usize>, &'a DeTable<'a>)> {
    let expected = |span| {
        Problem::new(Origin::File(span), format!("`{path}`: expected tables, written [[{path}]]"))
    };
    let Some(array) = value.get_ref().as_array() else {
        notes.report(expected(value.span()));
        return Vec::new();
    };
    let mut tables = Vec::with_capacity(array.len());
    for row in array.iter() {
        match row.get_ref().as_table() {
            Some(table) => tables.push((row.span(), table)),
            None => notes.report(expected(row.span())),
        }
    }
    tables
}

fn suggest(written: &str, table: &Table, nested: &[&str]) -> Option<String> {
    let variable = format!("CONNECT_{}", written.to_ascii_uppercase());
    for other in TABLES {
        for key in other.keys {
            if key.protocol_variable == Some(&variable)
                || (key.name == written && other.name != table.name)
            {
                return Some(format!("it is `{}` in [{}]", key.name, other.name));
            }
        }
    }
    let known = table.keys.iter().map(|key| key.name).chain(nested.iter().copied());
    nearest(written, known).map(|name| format!("did you mean `{name}`?"))
}
