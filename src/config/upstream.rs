//! Addresses of backends as they are configured: parsed, not resolved.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::shape::{Raw, Shape};

/// The path that a link dials when its address names none.
pub const LINK_PATH: &str = "/corelane-link";

/// Where one backend listens; names are resolved on the control core.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Upstream {
    Name { host: String, port: u16 },
    Socket(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Socket(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a backend is spoken to; all addresses of a service agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Link { path: String },
}

/// One element of `service.addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddress {
    pub scheme: Scheme,
    pub upstream: Upstream,
}

impl ServiceAddress {
    /// What a request names as its host.
    #[must_use]
    pub fn authority(&self) -> String {
        match &self.upstream {
            Upstream::Unix(_) => "localhost".to_owned(),
            other => other.to_string(),
        }
    }

    /// `http://host:port`, `link://host:port[/path]`, `http+unix:/file`, `link+unix:/file[:/path]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(authority) = text.strip_prefix("http://") {
            let authority = authority.strip_suffix('/').unwrap_or(authority);
            return Some(Self { scheme: Scheme::Http, upstream: parse_authority(authority)? });
        }
        if let Some(rest) = text.strip_prefix("link://") {
            let (authority, path) = match rest.find('/') {
                Some(at) if &rest[at..] != "/" => (&rest[..at], &rest[at..]),
                Some(at) => (&rest[..at], LINK_PATH),
                None => (rest, LINK_PATH),
            };
            return Some(Self { scheme: link(path)?, upstream: parse_authority(authority)? });
        }
        if let Some(file) = text.strip_prefix("http+unix:") {
            return Some(Self { scheme: Scheme::Http, upstream: parse_file(file)? });
        }
        let rest = text.strip_prefix("link+unix:")?;
        let (file, path) = match rest.split_once(":/") {
            Some((file, _)) => (file, &rest[file.len() + 1..]),
            None => (rest, LINK_PATH),
        };
        Some(Self { scheme: link(path)?, upstream: parse_file(file)? })
    }
}

fn link(path: &str) -> Option<Scheme> {
    let legal = |c: char| c.is_ascii_graphic() && c != '#';
    path.chars().all(legal).then(|| Scheme::Link { path: path.to_owned() })
}

pub(super) fn parse_authority(text: &str) -> Option<Upstream> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() != 0).then_some(Upstream::Socket(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    let name = !host.is_empty() && host.len() <= 253 && host.chars().all(legal) && !numeric;
    (name && host.parse::<Ipv6Addr>().is_err())
        .then(|| Upstream::Name { host: host.to_owned(), port })
}

fn parse_file(text: &str) -> Option<Upstream> {
    // The kernel's `sun_path` holds 107 bytes and a zero.
    let legal = text.starts_with('/') && text.len() <= 107 && !text.contains(char::is_control);
    legal.then(|| Upstream::Unix(PathBuf::from(text)))
}

pub(super) struct Url;

impl Shape for Url {
    type Value = ServiceAddress;

    fn expects(&self) -> String {
        "\"http://host:port\", \"http+unix:/file\", \"link://host:port\" or \"link+unix:/file\" \
         (no TLS towards backends)"
            .into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<ServiceAddress> {
        ServiceAddress::parse(raw.words()?)
    }
}

/// An absolute URL that is fetched, without credentials or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(String);

impl HttpUrl {
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) struct WebAddress;

impl Shape for WebAddress {
    type Value = HttpUrl;

    fn expects(&self) -> String {
        "a URL such as \"https://login.example/keys\" or \"http://127.0.0.1:8081/keys\"".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<HttpUrl> {
        let text = raw.words()?;
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
        let (authority, _) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let legal = |c: char| c.is_ascii_graphic() && !"#\"<>\\^`{|}".contains(c);
        let host = authority.parse::<axum::http::uri::Authority>().ok()?;
        let whole = !host.host().is_empty() && !authority.contains('@') && text.chars().all(legal);
        (whole && text.len() <= 2048).then(|| HttpUrl(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> ServiceAddress {
        ServiceAddress::parse(text).unwrap()
    }

    fn link_path(text: &str) -> String {
        match parsed(text).scheme {
            Scheme::Link { path } => path,
            Scheme::Http => panic!("{text} is no link"),
        }
    }

    #[test]
    fn hosts_addresses_and_files_are_told_apart() {
        let name = Upstream::Name { host: "demo.internal".into(), port: 80 };
        assert_eq!(parsed("http://demo.internal:80").upstream, name);
        assert_eq!(parsed("http://demo.internal:80/").upstream, name);
        let socket = |text: &str| Upstream::Socket(text.parse().unwrap());
        assert_eq!(parsed("http://[::1]:81").upstream, socket("[::1]:81"));
        assert_eq!(parsed("link://10.0.0.1:82/x").upstream, socket("10.0.0.1:82"));
        assert_eq!(parsed("http+unix:/run/a.sock").upstream, Upstream::Unix("/run/a.sock".into()));
    }

    #[test]
    fn a_link_without_path_dials_the_usual_one() {
        for text in ["link://a:1", "link://a:1/", "link+unix:/run/a.sock"] {
            assert_eq!(link_path(text), LINK_PATH, "{text}");
        }
        assert_eq!(link_path("link://a:1/other/path"), "/other/path");
        assert_eq!(link_path("link+unix:/run/a.sock:/other"), "/other");
        let unix = parsed("link+unix:/run/a.sock:/other").upstream;
        assert_eq!(unix, Upstream::Unix("/run/a.sock".into()));
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        for text in [
            "https://a:443",
            "links://a:1",
            "ws://a:1",
            "http://a",
            "http://:80",
            "http://a:0",
            "http://a:99999",
            "http://a:80/base",
            "http://a b:80",
            "http://1.2.3:80",
            "http://::1:80",
            "http+unix:relative.sock",
            "link+unix:",
            "demo:80",
            "",
        ] {
            assert_eq!(ServiceAddress::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_fetched_is_named_whole() {
        let accepts = |text: &str| WebAddress.accept(Raw::Text(text)).is_some();
        for good in ["http://a", "https://a.b:8443/x?y=z", "http://[::1]:81/", "http://127.0.0.1:1"]
        {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "ftp://a",
            "http://",
            "http:///x",
            "https://u:p@a/",
            "http://a/#f",
            "http://a/ b",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }

    #[test]
    fn a_unix_backend_is_addressed_as_localhost() {
        assert_eq!(parsed("http+unix:/run/a.sock").authority(), "localhost");
        assert_eq!(parsed("http://[::1]:81").authority(), "[::1]:81");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(http|link)?(://|\\+unix:)?.{0,40}") {
            drop(ServiceAddress::parse(&text));
        }
    }
}
