//! A scrape of `/metrics`, by row.

use std::collections::HashMap;
use std::fmt;

/// Values by row as it stands in the text: `corelane_shed_total{shard="0",reason="lane_full"}`.
#[derive(Debug, Clone, Default)]
pub struct Metrics(pub HashMap<String, f64>);

impl Metrics {
    pub(super) fn parse(text: &str) -> Self {
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        let row = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(rows.filter_map(row).collect())
    }

    /// The sum over all shards and labels.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_of(name, "")
    }

    /// The sum of the rows whose labels contain `label`, such as `code="12"`.
    #[must_use]
    pub fn sum_of(&self, name: &str, label: &str) -> f64 {
        let mut rows = self.rows(name).peekable();
        assert!(rows.peek().is_some(), "/metrics has no {name}");
        rows.filter(|(row, _)| row.contains(label)).map(|(_, value)| value).sum()
    }

    fn rows(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(move |(row, value)| {
            let rest = row.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with('{')).then_some((row.as_str(), *value))
        })
    }
}

/// Everything that is not zero, one row a line.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<_> = self.0.iter().filter(|(_, value)| **value != 0.0).collect();
        rows.sort_by_key(|(row, _)| *row);
        rows.iter().try_for_each(|(row, value)| writeln!(f, "  {row} {value}"))
    }
}
