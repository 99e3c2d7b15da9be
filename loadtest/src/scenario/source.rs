//! Where scenarios come from: a file, or one that is built in; overrides from the command line; and
//! mistakes shown with the line that they are on.

use std::fs;
use std::path::Path;

use miette::{Diagnostic, LabeledSpan, NamedSource};
use thiserror::Error;
use toml_edit::{DocumentMut, Item, Table, Value};

use super::check::{self, Finding};
use super::file::File;
use super::{Builtin, Scenario};

/// A scenario could not be taken. All mistakes that were found at once are in it.
#[derive(Debug, Error, Diagnostic)]
pub enum Refused {
    #[error("{message}")]
    #[diagnostic(help("{help}"))]
    NotFound { message: String, help: String },
    #[error("--set {setting}: {message}")]
    Setting { setting: String, message: String },
    #[error("the scenario has {}", how_many(.mistakes))]
    Mistakes {
        #[related]
        mistakes: Vec<Mistake>,
    },
}

fn how_many(mistakes: &[Mistake]) -> String {
    match mistakes.len() {
        1 => "a mistake".to_owned(),
        count => format!("{count} mistakes"),
    }
}

/// One mistake with its place in the text.
#[derive(Debug, Error)]
#[error("{place}: {message}")]
pub struct Mistake {
    /// `FILE:LINE:COLUMN`
    pub place: String,
    pub message: String,
    help: Option<String>,
    text: NamedSource<String>,
    label: LabeledSpan,
}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(self.label.clone())))
    }
}

/// The scenario that `name` means: a built-in one, or the file at that path. `settings` are
/// `KEY=VALUE` with dotted keys, applied in order before anything is checked; setting
/// `arrival.mode` empties the table `arrival` first, because each mode has keys of its own.
pub fn load(name: &str, settings: &[String]) -> Result<Scenario, Refused> {
    let path = Path::new(name);
    let (label, text) = match Builtin::find(name) {
        Some(builtin) => (format!("built-in {name}"), builtin.text.to_owned()),
        None => (name.to_owned(), read(path)?),
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&label, &text, settings, folder)
}

fn read(path: &Path) -> Result<String, Refused> {
    fs::read_to_string(path).map_err(|error| {
        let name = path.display().to_string();
        let near = Builtin::all()
            .iter()
            .map(|builtin| (strsim::jaro_winkler(builtin.name, &name), builtin.name))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let help = match near {
            Some((_, known)) => format!("there is a built-in scenario {known}"),
            None => "`corelane-loadtest list` shows the built-in scenarios".to_owned(),
        };
        Refused::NotFound {
            message: format!("{name} is no built-in scenario, and no file: {error}"),
            help,
        }
    })
}

/// The scenario of `text`, which is called `label` in messages; files that it names are looked for
/// in `folder`.
pub(super) fn parse(
    label: &str,
    text: &str,
    settings: &[String],
    folder: &Path,
) -> Result<Scenario, Refused> {
    let mut label = label.to_owned();
    let mut text = text.to_owned();
    if !settings.is_empty() {
        let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            let span = error.span().unwrap_or(0..0);
            refused(&label, &text, vec![Finding { span, message: error.message().to_owned() }])
        })?;
        for setting in settings {
            set(&mut document, setting)
                .map_err(|message| Refused::Setting { setting: setting.clone(), message })?;
        }
        text = document.to_string();
        label.push_str(" with --set");
    }
    let file: File = toml::from_str(&text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        refused(&label, &text, vec![Finding { span, message: error.message().to_owned() }])
    })?;
    let mut read_offsets = |name: &str| read_offsets(&folder.join(name));
    let mut scenario = check::scenario(file, &mut read_offsets)
        .map_err(|findings| refused(&label, &text, findings))?;
    scenario.tls.ca = scenario.tls.ca.map(|ca| folder.join(ca));
    Ok(scenario)
}

/// Applies one `KEY=VALUE`. A value that is not TOML is taken as a string.
fn set(document: &mut DocumentMut, setting: &str) -> Result<(), String> {
    let (key, value) = setting.split_once('=').ok_or("write it as KEY=VALUE")?;
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().filter(|last| !last.is_empty()).ok_or("the key is empty")?;
    let value = value.trim();
    let value = value.parse::<Value>().unwrap_or_else(|_| Value::from(value));
    let mut table = document.as_table_mut();
    for part in path {
        table = table
            .entry(part)
            .or_insert(Item::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("`{part}` is not a table"))?;
        if part == "arrival" && last == "mode" {
            table.clear();
        }
    }
    table.insert(last, Item::Value(value));
    Ok(())
}

fn refused(label: &str, text: &str, findings: Vec<Finding>) -> Refused {
    let mistakes = findings.into_iter().map(|finding| mistake(label, text, finding)).collect();
    Refused::Mistakes { mistakes }
}

fn mistake(label: &str, text: &str, finding: Finding) -> Mistake {
    let before = &text[..finding.span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |end| end + 1) + 1;
    Mistake {
        place: format!("{label}:{line}:{column}"),
        help: nearest(&finding.message),
        message: finding.message,
        text: NamedSource::new(label, text.to_owned()),
        label: LabeledSpan::at(finding.span, "here"),
    }
}

/// For "unknown field `x`, expected one of `y`, `z`": the name that was probably meant.
fn nearest(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let (likeness, name) = quoted
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > 0.7).then(|| format!("did you mean `{name}`?"))
}

/// Offsets in nanoseconds, one a line, ascending.
fn read_offsets(path: &Path) -> Result<Vec<u64>, String> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let mut offsets = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let offset: u64 = line.parse().map_err(|_| {
            format!("{name}:{}: {line:?} is not a number of nanoseconds", number + 1)
        })?;
        if offsets.last().is_some_and(|&last| last > offset) {
            return Err(format!("{name}:{}: offsets must ascend", number + 1));
        }
        offsets.push(offset);
    }
    if offsets.is_empty() {
        return Err(format!("{name} has no offsets"));
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests;
