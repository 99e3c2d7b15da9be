//! Where spans are sent: the address of an OpenTelemetry collector.

use std::fmt;

use super::shape::{Raw, Shape};
use super::upstream::{Upstream, parse_authority};

/// What a collector serves traces under, if its address names no path.
const TRACES_PATH: &str = "/v1/traces";

/// A collector that speaks OTLP over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    pub address: Upstream,
    pub path: String,
}

/// The whole URL.
impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

/// A [`Collector`].
pub(super) struct CollectorUrl;

impl Shape for CollectorUrl {
    type Value = Collector;

    fn expects(&self) -> String {
        "\"http://host:port\", with a path if it is not \"/v1/traces\" (no TLS)".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Collector> {
        let rest = raw.words()?.strip_prefix("http://")?;
        let (authority, path) = match rest.find('/') {
            Some(at) if &rest[at..] != "/" => rest.split_at(at),
            Some(at) => (&rest[..at], TRACES_PATH),
            None => (rest, TRACES_PATH),
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/?".contains(c);
        let address = parse_authority(authority)?;
        path.chars().all(legal).then(|| Collector { address, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<String> {
        CollectorUrl.accept(Raw::Text(text)).map(|collector| collector.to_string())
    }

    #[test]
    fn a_collector_without_a_path_has_the_usual_one() {
        let usual = Some("http://otel.internal:4318/v1/traces".to_owned());
        assert_eq!(parsed("http://otel.internal:4318"), usual);
        assert_eq!(parsed("http://otel.internal:4318/"), usual);
        assert_eq!(parsed("http://[::1]:1/a?b=c").as_deref(), Some("http://[::1]:1/a?b=c"));
    }

    #[test]
    fn what_cannot_be_posted_to_is_refused() {
        for text in [
            "https://a:443",
            "http://a",
            "http://a:0",
            "http://:4318",
            "http://a b:4318",
            "http://a:4318/b c",
            "http://a:4318/b#c",
            "http://a:4318/<b>",
            "http://user@a:4318",
            "otel:4318",
            "",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_a_url(text in "http://[a-zA-Z0-9._-]{1,12}:[0-9]{1,5}(/[ -~]{0,12})?") {
            if let Some(url) = parsed(&text) {
                let url: Result<hyper::Uri, _> = url.parse();
                prop_assert!(url.is_ok(), "{text}: {url:?}");
            }
        }
    }
}
