//! What stands behind the `?` of a request: only what the route knows, each once unless it says
//! otherwise.

use std::fmt::Display;
use std::str::FromStr;

use super::problem::Problem;

/// The parameters of one request.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Refuses parameters that are not among `known`.
    pub(super) fn read(raw: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs = form_urlencoded::parse(raw.unwrap_or_default().as_bytes()).into_owned();
        let pairs: Vec<_> = pairs.collect();
        match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Problem::bad_request(format!(
                "unknown parameter {name:?}: known here are {}",
                known.join(", ")
            ))),
            None => Ok(Self(pairs)),
        }
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let value = values.next();
        match values.next() {
            Some(_) => Err(Problem::bad_request(format!("{name} stands more than once"))),
            None => Ok(value),
        }
    }

    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        self.one(name)?.map(|text| parse(name, text)).transpose()
    }
}

/// `text` as what it is to be; `name` is for the refusal.
pub(super) fn parse<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|reason| Problem::bad_request(format!("{name} = {text:?}: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_and_what_stands_twice_is_refused() {
        let query = Query::read(Some("a=1&b=x%20y&a=2"), &["a", "b"]).unwrap();
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.one("b").unwrap(), Some("x y"));
        assert!(query.one("a").unwrap_err().detail.contains("more than once"));
        assert_eq!(query.parsed::<u64>("c").unwrap(), None);
        assert!(query.parsed::<u64>("b").unwrap_err().detail.contains("\"x y\""));
        let unknown = Query::read(Some("a=1&limt=3"), &["a", "limit"]).unwrap_err();
        assert!(unknown.detail.contains("\"limt\"") && unknown.detail.contains("a, limit"));
        assert!(Query::read(None, &[]).unwrap().one("a").unwrap().is_none());
    }
}
