//! How bad clients ended, by persona.

use std::collections::BTreeMap;
use std::fmt;

use super::Persona;

/// How the server ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A close frame with this code.
    Close(u16),
    /// A close frame without a code.
    Codeless,
    /// An HTTP answer with this status.
    Status(u16),
    /// Without a word.
    Silent,
    /// With bytes that are neither HTTP nor WebSocket.
    Garbled,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(code) => write!(f, "close {code}"),
            Self::Codeless => f.write_str("a close frame without a code"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Silent => f.write_str("no word"),
            Self::Garbled => f.write_str("bytes without a meaning"),
        }
    }
}

/// What became of the clients of one persona.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub opened: u64,
    /// Those that nobody has ended.
    pub left: u64,
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

    pub(super) fn never_ended(&mut self, persona: Persona) {
        self.0[persona as usize].left += 1;
    }

    #[must_use]
    pub fn of(&self, persona: Persona) -> &Row {
        &self.0[persona as usize]
    }

    /// What is not as documented, a sentence for each; nothing if some of each persona were ended,
    /// and all as they deserve.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for persona in Persona::ALL {
            let (label, row, deserved) = (persona.label(), self.of(persona), persona.deserves());
            for (end, count) in row.ends.iter().filter(|(end, _)| **end != deserved) {
                faults.push(format!("{label}: {count} were ended by {end}, not by {deserved}"));
            }
            if row.left > 0 {
                let left = row.left;
                faults.push(format!("{label}: {left} were not ended in time by {deserved}"));
            }
            if row.left == 0 && row.ends.is_empty() {
                faults.push(format!("{label}: there was none; let them come for longer"));
            }
        }
        faults
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>8} {:>8}  ended by", "persona", "opened", "left")?;
        for persona in Persona::ALL {
            let row = self.of(persona);
            let ends = row.ends.iter().map(|(end, count)| format!("{end} × {count}"));
            let ends = ends.collect::<Vec<_>>().join(", ");
            let ends = if ends.is_empty() { "nothing" } else { &ends };
            writeln!(f, "{:<20} {:>8} {:>8}  {ends}", persona.label(), row.opened, row.left)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_documented() -> Tally {
        let mut tally = Tally::default();
        for persona in Persona::ALL {
            tally.opened(persona);
            tally.ended(persona, persona.deserves());
        }
        tally
    }

    #[test]
    fn ends_as_documented_are_no_faults() {
        assert!(as_documented().faults().is_empty());
    }

    #[test]
    fn another_end_is_a_fault_that_names_both() {
        for other in [End::Silent, End::Close(1000), End::Status(503), End::Codeless] {
            let mut tally = as_documented();
            tally.ended(Persona::Flooder, other);
            let expected = format!("flooder: 1 were ended by {other}, not by close 4003");
            assert_eq!(tally.faults(), [expected]);
        }
    }

    #[test]
    fn one_that_is_left_is_a_fault_whatever_became_of_the_others() {
        let mut tally = as_documented();
        tally.never_ended(Persona::SlowReader);
        assert_eq!(tally.faults(), ["slow reader: 1 were not ended in time by close 1013"]);
    }

    #[test]
    fn nobody_at_all_is_a_fault() {
        assert_eq!(Tally::default().faults().len(), Persona::ALL.len());
    }

    #[test]
    fn the_table_says_how_each_was_ended() {
        let mut tally = as_documented();
        tally.ended(Persona::OneByte, End::Silent);
        let table = tally.to_string();
        let row = table.lines().find(|line| line.starts_with("one byte")).unwrap();
        assert!(row.ends_with("status 408 × 1, no word × 1"), "{row}");
    }
}
