//! Where Redis, or its Sentinels, are: one URL or several of one scheme and database.

use super::shape::{Mismatch, Raw, Shape};
use super::upstream::{Upstream, parse_authority};

/// What all URLs of `redis.url` say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisServers {
    pub tls: bool,
    pub database: u32,
    pub servers: Vec<Upstream>,
}

/// [`RedisServers`], a list or a text with commas; or the word `off`.
pub(super) struct RedisUrls;

impl Shape for RedisUrls {
    type Value = Option<RedisServers>;

    fn expects(&self) -> String {
        "\"off\" or \"redis://host:port\" or \"rediss://host:port\", each with a database as in \"/1\" if it is \
         not 0; several of one kind in a list, each once, or with commas; user and password have keys \
         of their own"
            .into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Option<RedisServers>> {
        if raw.words().is_some_and(|word| word.eq_ignore_ascii_case("off")) {
            return Some(None);
        }
        let texts: Vec<&str> = match raw.words() {
            Some(text) => text.split(',').map(str::trim).collect(),
            None => raw.items()?.into_iter().map(Raw::words).collect::<Option<_>>()?,
        };
        let mut found: Option<RedisServers> = None;
        for text in texts {
            let RedisServers { tls, database, servers } = one(text)?;
            let all = found.get_or_insert(RedisServers { tls, database, servers: Vec::new() });
            let [server] = <[Upstream; 1]>::try_from(servers).ok()?;
            if (all.tls, all.database) != (tls, database) || all.servers.contains(&server) {
                return None;
            }
            all.servers.push(server);
        }
        found.map(Some)
    }

    /// What was written is not shown: people put passwords into URLs.
    fn parse(&self, raw: Raw<'_>) -> Result<Option<RedisServers>, Mismatch> {
        let hidden = || Mismatch { span: raw.span(), expected: self.expects(), found: None };
        self.accept(raw).ok_or_else(hidden)
    }
}

fn one(text: &str) -> Option<RedisServers> {
    let (tls, rest) = match text.strip_prefix("rediss://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("redis://")?),
    };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let database = match database {
        "" => 0,
        digits => digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?,
    };
    Some(RedisServers { tls, database, servers: vec![parse_authority(authority)?] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(bool, u32, Vec<String>)> {
        let RedisServers { tls, database, servers } = RedisUrls.accept(Raw::Text(text))??;
        Some((tls, database, servers.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn several_servers_of_one_kind_are_one_value() {
        let both = vec!["a:1".to_owned(), "[::1]:2".to_owned()];
        assert_eq!(parsed("redis://a:1"), Some((false, 0, vec!["a:1".into()])));
        assert_eq!(parsed("rediss://a:1/3, rediss://[::1]:2/3"), Some((true, 3, both)));
    }

    #[test]
    fn what_does_not_belong_together_and_what_holds_a_password_is_refused() {
        for text in [
            "",
            "redis://",
            "redis://a",
            "a:1",
            "http://a:1",
            "redis://:hush@a:1",
            "redis://user:hush@a:1",
            "redis://a:1/x",
            "redis://a:1/+1",
            "redis://a:1,rediss://b:2",
            "redis://a:1/0,redis://b:2/1",
            "redis://a:1,redis://a:1",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
        let told = RedisUrls.parse(Raw::Text("redis://:hush@a:1")).unwrap_err();
        assert!(!format!("{told:?}").contains("hush"));
    }
}
