//! RPCs from backends to the client that wait for its answer. Most sessions have
//! none: the table is boxed and exists only while something waits.

use thiserror::Error;

use crate::clock::Instant;

/// Opaque to the session: whoever sent the RPC finds its way back with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RpcTicket(pub u64);

/// The session already waits for [`PendingRpcs::MAX`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too many RPCs wait for this client")]
pub struct TooManyRpcs;

/// Per session, by message id. Registered before the RPC is sent.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "one word in every session, absent in nearly all")]
pub struct PendingRpcs(Option<Box<Vec<PendingRpc>>>);

#[derive(Debug)]
struct PendingRpc {
    message_id: u64,
    ticket: RpcTicket,
    expires: Instant,
}

impl PendingRpcs {
    pub const MAX: usize = 32;

    /// A message id that is already waiting is replaced.
    pub fn register(
        &mut self,
        message_id: u64,
        ticket: RpcTicket,
        expires: Instant,
        now: Instant,
    ) -> Result<(), TooManyRpcs> {
        let pending = self.0.get_or_insert_default();
        pending.retain(|rpc| rpc.message_id != message_id && rpc.expires > now);
        if pending.len() >= Self::MAX {
            return Err(TooManyRpcs);
        }
        pending.push(PendingRpc { message_id, ticket, expires });
        Ok(())
    }

    /// Takes the RPC that an answer with this message id belongs to.
    pub fn take(&mut self, message_id: u64, now: Instant) -> Option<RpcTicket> {
        let pending = self.0.as_mut()?;
        pending.retain(|rpc| rpc.expires > now);
        let at = pending.iter().position(|rpc| rpc.message_id == message_id);
        let ticket = at.map(|at| pending.swap_remove(at).ticket);
        if pending.is_empty() {
            self.0 = None;
        }
        ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_takes_its_rpc_once() {
        let mut rpcs = PendingRpcs::default();
        rpcs.register(7, RpcTicket(1), Instant(100), Instant(0)).unwrap();
        rpcs.register(8, RpcTicket(2), Instant(100), Instant(0)).unwrap();
        assert_eq!(rpcs.take(7, Instant(99)), Some(RpcTicket(1)));
        assert_eq!(rpcs.take(7, Instant(99)), None);
        assert_eq!(rpcs.take(8, Instant(99)), Some(RpcTicket(2)));
        assert!(rpcs.0.is_none());
    }

    #[test]
    fn an_expired_rpc_is_not_answered() {
        let mut rpcs = PendingRpcs::default();
        rpcs.register(7, RpcTicket(1), Instant(100), Instant(0)).unwrap();
        assert_eq!(rpcs.take(7, Instant(100)), None);
    }

    #[test]
    fn the_table_is_bounded_and_expired_rpcs_make_room() {
        let mut rpcs = PendingRpcs::default();
        for id in 0..PendingRpcs::MAX as u64 {
            rpcs.register(id, RpcTicket(id), Instant(100 + id), Instant(0)).unwrap();
        }
        let one_more = rpcs.register(99, RpcTicket(99), Instant(200), Instant(99));
        assert_eq!(one_more, Err(TooManyRpcs));
        assert_eq!(rpcs.register(5, RpcTicket(55), Instant(200), Instant(99)), Ok(()));
        assert_eq!(rpcs.register(99, RpcTicket(99), Instant(200), Instant(100)), Ok(()));
        assert_eq!(rpcs.take(5, Instant(100)), Some(RpcTicket(55)));
    }
}
