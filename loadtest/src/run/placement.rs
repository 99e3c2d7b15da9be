//! On which shard a session lives, as the gateway's metrics tell, and who can be paired with whom.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::RunError;
use crate::scenario::Placement;
use crate::wire::handshake::Address;

const PATIENCE: Duration = Duration::from_secs(5);

/// The gateway's admin listener.
pub(crate) struct Admin {
    address: Address,
}

/// Sessions of each shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sessions(BTreeMap<String, u64>);

impl Admin {
    pub(crate) fn new(address: &Address) -> Self {
        Self { address: address.clone() }
    }

    pub(crate) fn sessions(&self) -> Result<Sessions, RunError> {
        let text = self.metrics().map_err(|source| RunError::Io {
            what: format!("http://{}/metrics", self.address.authority),
            source,
        })?;
        Sessions::parse(&text).ok_or_else(|| RunError::Placement {
            cause: format!("{} has no corelane_sessions for each shard", self.address.authority),
        })
    }

    fn metrics(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address.socket, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let host = &self.address.authority;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Sessions {
    fn parse(text: &str) -> Option<Self> {
        let of_shard = |line: &str| {
            let rest = line.strip_prefix("corelane_sessions{shard=\"")?;
            let (shard, count) = rest.split_once("\"} ")?;
            Some((shard.to_owned(), count.trim().parse().ok()?))
        };
        let shards: BTreeMap<_, _> = text.lines().filter_map(of_shard).collect();
        (!shards.is_empty()).then_some(Self(shards))
    }

    /// The shard that has one more than in `before`, if that is the only difference.
    pub(crate) fn risen_since(&self, before: &Self) -> Option<String> {
        let mut risen = self.0.iter().filter(|&(shard, count)| before.0.get(shard) != Some(count));
        let (shard, &count) = risen.next()?;
        let one_more = before.0.get(shard).copied().unwrap_or(0) + 1 == count;
        (one_more && risen.next().is_none()).then(|| shard.clone())
    }
}

/// Pairs as `wanted` says, and those left over: the ones of the fullest shards last.
pub(crate) fn pair(shards: &[&str], wanted: Placement) -> (Vec<(usize, usize)>, Vec<usize>) {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, shard) in shards.iter().enumerate() {
        members.entry(shard).or_default().push(at);
    }
    let mut groups: Vec<Vec<usize>> = members.into_values().collect();
    let mut pairs = Vec::new();
    if wanted == Placement::CrossShard {
        loop {
            groups.sort_by_key(Vec::len);
            let [.., next, fullest] = groups.as_mut_slice() else {
                break;
            };
            let (Some(&one), Some(&other)) = (next.last(), fullest.last()) else {
                break;
            };
            next.pop();
            fullest.pop();
            pairs.push((one, other));
        }
    } else {
        for group in &mut groups {
            while let [.., one, other] = group[..] {
                pairs.push((one, other));
                group.truncate(group.len() - 2);
            }
        }
    }
    (pairs, groups.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "HTTP/1.1 200 OK\r\n\r\n# TYPE corelane_sessions gauge\n\
        corelane_sessions{shard=\"0\"} 3\ncorelane_sessions{shard=\"1\"} 10\n\
        corelane_sessions_total{shard=\"0\"} 9\n";

    #[test]
    fn a_session_shows_on_its_shard() {
        let before = Sessions::parse(METRICS).unwrap();
        let after = Sessions::parse(&METRICS.replace(" 10", " 11")).unwrap();
        assert_eq!(after.risen_since(&before), Some("1".to_owned()));
        assert_eq!(before.risen_since(&before), None);
        let both = Sessions::parse(&METRICS.replace(" 10", " 11").replace(" 3", " 4")).unwrap();
        assert_eq!(both.risen_since(&before), None);
        assert_eq!(Sessions::parse("HTTP/1.1 404 Not Found\r\n\r\n"), None);
    }

    #[test]
    fn pairs_are_as_wanted() {
        let shards = ["0", "1", "0", "0", "1", "2", "0", "0"];
        let (pairs, surplus) = pair(&shards, Placement::SameShard);
        assert!(pairs.iter().all(|&(one, other)| shards[one] == shards[other]));
        assert_eq!((pairs.len(), surplus.len()), (3, 2));
        let (pairs, surplus) = pair(&shards, Placement::CrossShard);
        assert!(pairs.iter().all(|&(one, other)| shards[one] != shards[other]));
        assert_eq!((pairs.len(), surplus.len()), (3, 2));
        assert!(surplus.iter().all(|&at| shards[at] == "0"));
    }

    #[test]
    fn one_shard_has_no_pairs_across() {
        assert_eq!(pair(&["0", "0"], Placement::CrossShard), (vec![], vec![0, 1]));
    }
}
