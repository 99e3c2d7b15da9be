//! Where another node takes links.

use std::fmt;

use super::shape::{Raw, Shape};
use super::upstream::{Upstream, parse_authority};

/// What a node takes links under, if its address names no path.
const LINKS_PATH: &str = "/connect/broadcast";

/// The internal listener of a node, as its peers reach it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeUrl {
    pub address: Upstream,
    pub path: String,
}

impl NodeUrl {
    /// `ws://host:port[/path]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("ws://")?;
        let (authority, path) = match rest.find('/') {
            Some(at) if &rest[at..] != "/" => rest.split_at(at),
            Some(at) => (&rest[..at], LINKS_PATH),
            None => (rest, LINKS_PATH),
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c);
        let address = parse_authority(authority)?;
        path.chars().all(legal).then(|| Self { address, path: path.to_owned() })
    }
}

/// The whole URL.
impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.address, self.path)
    }
}

/// A [`NodeUrl`].
pub(super) struct NodeAddress;

impl Shape for NodeAddress {
    type Value = NodeUrl;

    fn expects(&self) -> String {
        "\"ws://host:port\", with a path if it is not \"/connect/broadcast\" (no TLS)".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<NodeUrl> {
        NodeUrl::parse(raw.words()?)
    }
}

/// A [`NodeUrl`], or none.
pub(super) struct NodeAddressOrNone;

impl Shape for NodeAddressOrNone {
    type Value = Option<NodeUrl>;

    fn expects(&self) -> String {
        format!("{}, or \"off\"", NodeAddress.expects())
    }

    /// The protocol's variable says nothing where the protocol's key is unset.
    fn accept(&self, raw: Raw<'_>) -> Option<Option<NodeUrl>> {
        match raw.words()? {
            "" => Some(None),
            word if word.eq_ignore_ascii_case("off") => Some(None),
            _ => NodeAddress.accept(raw).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<String> {
        NodeUrl::parse(text).map(|url| url.to_string())
    }

    #[test]
    fn a_node_without_a_path_has_the_usual_one() {
        let usual = Some("ws://node-a:5012/connect/broadcast".to_owned());
        assert_eq!(parsed("ws://node-a:5012"), usual);
        assert_eq!(parsed("ws://node-a:5012/"), usual);
        assert_eq!(parsed("ws://node-a:5012/connect/broadcast"), usual);
        assert_eq!(parsed("ws://[::1]:1/a/b").as_deref(), Some("ws://[::1]:1/a/b"));
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        for text in [
            "wss://a:443",
            "http://a:1",
            "ws://a",
            "ws://a:0",
            "ws://:1",
            "ws://a b:1",
            "ws://a:1/b c",
            "ws://a:1/b?c",
            "ws://a:1/b#c",
            "a:1",
            "",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_a_url(text in "ws://[a-zA-Z0-9._-]{1,12}:[0-9]{1,5}(/[ -~]{0,12})?") {
            if let Some(url) = parsed(&text) {
                let uri: Result<hyper::Uri, _> = url.parse();
                prop_assert!(uri.is_ok(), "{text}: {uri:?}");
                prop_assert_eq!(parsed(&url), Some(url));
            }
        }
    }
}
