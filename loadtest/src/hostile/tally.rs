//! How bad clients ended, by persona.

use std::collections::BTreeMap;
use std::fmt;

use super::Persona;

/// How the server ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A close frame with this code.
    Close(u16),
    /// An HTTP answer with this status.
    Status(u16),
    /// Without a word.
    Silent,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(code) => write!(f, "close {code}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Silent => f.write_str("no word"),
        }
    }
}

/// What became of the clients of one persona.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub opened: u64,
    /// When the time was up.
    pub open: u64,
    pub ends: BTreeMap<End, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally([Row; Persona::ALL.len()]);

impl Tally {
    pub(super) fn opened(&mut self, persona: Persona) {
        self.0[persona as usize].opened += 1;
    }

    pub(super) fn ended(&mut self, persona: Persona, end: End) {
        *self.0[persona as usize].ends.entry(end).or_default() += 1;
    }

    pub(super) fn left_open(&mut self, persona: Persona) {
        self.0[persona as usize].open += 1;
    }

    #[must_use]
    pub fn of(&self, persona: Persona) -> &Row {
        &self.0[persona as usize]
    }

    /// Whether somebody of each persona was ended, and nobody otherwise than documented.
    #[must_use]
    pub fn is_as_documented(&self) -> bool {
        Persona::ALL.iter().all(|persona| self.of(*persona).ends.keys().eq([&persona.deserves()]))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>8} {:>8}  ended by", "persona", "opened", "open")?;
        for persona in Persona::ALL {
            let row = self.of(persona);
            let ends = row.ends.iter().map(|(end, count)| format!("{end} × {count}"));
            let ends = ends.collect::<Vec<_>>().join(", ");
            let ends = if ends.is_empty() { "nobody was".to_owned() } else { ends };
            writeln!(f, "{:<20} {:>8} {:>8}  {ends}", persona.label(), row.opened, row.open)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_documented_and_all_of_it_is_as_documented() {
        let mut good = Tally::default();
        for persona in Persona::ALL {
            assert!(!good.is_as_documented(), "{persona:?} is missing");
            good.ended(persona, persona.deserves());
        }
        assert!(good.is_as_documented());
        for other in [End::Silent, End::Close(1000), End::Status(503)] {
            let mut tally = good.clone();
            tally.ended(Persona::Flooder, other);
            assert!(!tally.is_as_documented(), "{other}");
        }
    }
}
