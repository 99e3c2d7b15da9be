//! The name that was probably meant.

/// The closest of `known` to `written`, if it is close enough to be a slip of the pen.
pub(super) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(written, name), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// About two slips in a name of five letters.
const LIKENESS_MIN: f64 = 0.6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let known = ["address", "backlog"];
        assert_eq!(nearest("adress", known), Some("address"));
        assert_eq!(nearest("blacklog", known), Some("backlog"));
        assert_eq!(nearest("colour", known), None);
    }
}
