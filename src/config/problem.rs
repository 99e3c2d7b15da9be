//! What is wrong with a configuration, where, and what would be right.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Bytes of the file.
    File(Range<usize>),
    /// An environment variable.
    Variable(String),
    /// A command line flag.
    Flag,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub help: Option<String>,
    pub origin: Origin,
}

impl Problem {
    pub(super) fn new(origin: Origin, message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, origin }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn span(&self) -> Option<Range<usize>> {
        match &self.origin {
            Origin::File(span) => Some(span.clone()),
            Origin::Default | Origin::Variable(_) | Origin::Flag => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Variable(name) => write!(f, "variable {name}: {}", self.message),
            Origin::Flag => write!(f, "command line: {}", self.message),
            Origin::Default | Origin::File(_) => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span()?;
        let label = LabeledSpan::at(span, "here");
        Some(Box::new(std::iter::once(label)))
    }
}

/// Every problem of one configuration, with the text that they point into.
pub struct Refused {
    source: NamedSource<String>,
    problems: Vec<Problem>,
}

impl Refused {
    pub(super) fn new(name: &str, text: &str, problems: Vec<Problem>) -> Self {
        Self { source: NamedSource::new(name, without_secrets(text)), problems }
    }

    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// One line each, `file:line:column: message (help)`, for logs.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.problems.iter().map(|problem| {
            let place = match problem.span() {
                Some(span) => {
                    let (line, column) = line_and_column(self.source.inner(), span.start);
                    format!("{}:{line}:{column}: ", self.source.name())
                }
                None => String::new(),
            };
            let help = problem.help.as_ref().map(|help| format!(" ({help})"));
            format!("{place}{problem}{}", help.unwrap_or_default())
        })
    }
}

/// Keys whose values a report must not quote, not even as the line beside an error.
const SECRET_KEYS: [&str; 3] = ["server_salt", "service_token", "librdkafka"];

/// Tables that hold secrets under names of others' choosing.
const SECRET_TABLE: &str = "kafka.librdkafka";

/// The same text byte for byte, but with stars from the `=` of a secret key to the line's end, and for
/// the lines of a secret table.
fn without_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_secret_table = false;
    for line in text.split_inclusive('\n') {
        let is_header = line.trim_start().starts_with('[');
        if is_header {
            in_secret_table = line.contains(SECRET_TABLE);
        }
        let named = SECRET_KEYS.iter().filter_map(|key| line.find(key)).min();
        let value = named.and_then(|at| Some(at + line[at..].find('=')? + 1));
        let value = if in_secret_table && !is_header { Some(0) } else { value };
        let (shown, hidden) = line.split_at(value.unwrap_or(line.len()));
        out.push_str(shown);
        for c in hidden.chars() {
            match c {
                '\r' | '\n' | ' ' => out.push(c),
                _ => out.extend(std::iter::repeat_n('*', c.len_utf8())),
            }
        }
    }
    out
}

/// Both count from 1; columns are characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("the configuration has a problem"),
            count => write!(f, "the configuration has {count} problems"),
        }
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lines()).finish()
    }
}

impl std::error::Error for Refused {}

impl Diagnostic for Refused {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}
