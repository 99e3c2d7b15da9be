//! Which address of a service a call goes to. Pure: state is given, an index comes back.

use std::hash::{Hash as _, Hasher as _};

use siphasher::sip::SipHasher24;

use crate::id::SessionId;
use crate::snapshot::Address;

/// The address with the fewest calls in flight, for HTTP. `in_flight` holds one entry per address,
/// `None` where the breaker refuses. Among equals the first at or after `turn` wins, so that a
/// rotating `turn` spreads the calls of a quiet service.
#[must_use]
pub fn least_in_flight(
    in_flight: impl ExactSizeIterator<Item = Option<usize>>,
    turn: usize,
) -> Option<usize> {
    let addresses = in_flight.len().max(1);
    let distance = |at: usize| (at + addresses - turn % addresses) % addresses;
    let allowed = in_flight.enumerate().filter_map(|(at, calls)| Some((calls?, distance(at), at)));
    allowed.min().map(|(_, _, at)| at)
}

/// Where sessions live, for links: the address with the highest weight for the session. A lost
/// address moves its own sessions alone, a new one takes only its share, and the order in which
/// addresses are listed does not matter. Made anew for each list of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// One per address.
    keys: Box<[u64]>,
}

impl Rendezvous {
    #[must_use]
    pub fn new(addresses: &[Address]) -> Self {
        Self { keys: addresses.iter().map(key_of).collect() }
    }

    /// What the session's address offers, among the addresses that offer something.
    #[must_use]
    pub fn place<T>(
        &self,
        session: SessionId,
        mut offer: impl FnMut(usize) -> Option<T>,
    ) -> Option<T> {
        let offers = self.keys.iter().enumerate().filter_map(|(at, key)| Some((*key, offer(at)?)));
        let best = offers.max_by_key(|(key, _)| (weight(session, *key), *key));
        best.map(|(_, offer)| offer)
    }
}

/// The same in every process: nodes and shards agree on a session's address.
fn key_of(address: &Address) -> u64 {
    let mut hash = SipHasher24::new();
    match address {
        Address::Tcp(socket) => hash.write(socket.to_string().as_bytes()),
        Address::Unix(path) => {
            hash.write(b"unix:");
            path.hash(&mut hash);
        }
    }
    hash.finish()
}

fn weight(session: SessionId, key: u64) -> u64 {
    let (high, low) = ((session.0 >> 64) as u64, session.0 as u64);
    mixed(mixed(high ^ key) ^ low)
}

/// Finaliser of splitmix64: every input bit moves every output bit.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(ports: &[u16]) -> Vec<Address> {
        ports.iter().map(|&port| Address::Tcp(([10, 0, 0, 1], port).into())).collect()
    }

    #[test]
    fn the_least_busy_allowed_address_is_called() {
        let busy = [Some(3), Some(1), None, Some(1)];
        assert_eq!(least_in_flight(busy.into_iter(), 0), Some(1));
        assert_eq!(least_in_flight(busy.into_iter(), 2), Some(3));
        assert_eq!(least_in_flight(busy.into_iter(), 4), Some(1));
        assert_eq!(least_in_flight([None, None].into_iter(), 1), None);
        assert_eq!(least_in_flight(std::iter::empty(), 7), None);
    }

    #[test]
    fn sessions_are_spread_evenly() {
        let placement = Rendezvous::new(&addresses(&[1, 2, 3, 4]));
        let mut counts = [0; 4];
        for session in 0..40_000 {
            counts[placement.place(SessionId(session), Some).expect("four addresses")] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }

    #[test]
    fn a_session_keeps_its_address_from_one_release_to_the_next() {
        let placement = Rendezvous::new(&addresses(&[9000, 9001, 9002]));
        let places: Vec<_> =
            (0..8).map(|session| placement.place(SessionId(session), Some)).collect();
        assert_eq!(places, PINNED.map(Some));
    }

    const PINNED: [usize; 8] = [2, 1, 0, 0, 0, 2, 1, 1];

    proptest! {
        #[test]
        fn removing_an_address_moves_only_its_own_sessions(
            ports in prop::collection::hash_set(1..u16::MAX, 2..8), session: u128, lost: usize,
        ) {
            let ports: Vec<_> = ports.into_iter().collect();
            let all = addresses(&ports);
            let lost = lost % all.len();
            let before = Rendezvous::new(&all);
            let home = before.place(SessionId(session), Some).expect("not empty");
            let mut rest = all.clone();
            rest.remove(lost);
            rest.reverse();
            let after = Rendezvous::new(&rest);
            let moved = &rest[after.place(SessionId(session), Some).expect("not empty")];
            if home != lost {
                prop_assert_eq!(moved, &all[home]);
            }
            let refused = before
                .place(SessionId(session), |at| (at != lost).then_some(at))
                .expect("not empty");
            prop_assert_eq!(moved, &all[refused], "a refused address is as good as a lost one");
        }
    }
}
