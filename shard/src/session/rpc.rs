//! RPCs to the client that wait for its answer, from backends and from the control core. Most
//! sessions have none: the table is boxed and exists only while something waits.

use thiserror::Error;

use crate::clock::Instant;
use crate::id::ConnectionKey;

/// Who sent an RPC and gets its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpcSender {
    /// The backend at the other end of this link.
    Link(ConnectionKey),
    Control,
}

/// The session already waits for [`PendingRpcs::MAX`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too many RPCs wait for this client")]
pub struct TooManyRpcs;

/// Per session, by message id. Registered before the RPC is sent.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "one word in every session, absent in nearly all")]
pub struct PendingRpcs(Option<Box<Vec<PendingRpc>>>);

/// One RPC without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingRpc {
    pub message_id: u64,
    pub sender: RpcSender,
    pub expires: Instant,
}

impl PendingRpcs {
    pub const MAX: usize = 32;

    /// A message id that is already waiting is replaced, and the RPC that was waiting handed back.
    pub fn register(&mut self, rpc: PendingRpc) -> Result<Option<PendingRpc>, TooManyRpcs> {
        let replaced = self.take(rpc.message_id);
        let pending = self.0.get_or_insert_default();
        if pending.len() >= Self::MAX {
            return Err(TooManyRpcs);
        }
        pending.push(rpc);
        Ok(replaced)
    }

    /// Takes the RPC that an answer with this message id belongs to.
    pub fn take(&mut self, message_id: u64) -> Option<PendingRpc> {
        self.take_where(|rpc| rpc.message_id == message_id)
    }

    /// Takes one whose time is over.
    pub fn take_expired(&mut self, now: Instant) -> Option<PendingRpc> {
        self.take_where(|rpc| rpc.expires <= now)
    }

    /// When the next one's time is over.
    #[must_use]
    pub fn next_expiry(&self) -> Instant {
        let pending = self.0.as_deref().into_iter().flatten();
        pending.map(|rpc| rpc.expires).min().unwrap_or(Instant::NEVER)
    }

    fn take_where(&mut self, is_it: impl Fn(&PendingRpc) -> bool) -> Option<PendingRpc> {
        let pending = self.0.as_mut()?;
        let at = pending.iter().position(is_it)?;
        let rpc = pending.swap_remove(at);
        if pending.is_empty() {
            self.0 = None;
        }
        Some(rpc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rpc(message_id: u64, expires: u64) -> PendingRpc {
        PendingRpc { message_id, sender: RpcSender::Control, expires: Instant(expires) }
    }

    #[test]
    fn an_answer_takes_its_rpc_once() {
        let mut rpcs = PendingRpcs::default();
        rpcs.register(rpc(7, 100)).unwrap();
        rpcs.register(rpc(8, 100)).unwrap();
        assert_eq!(rpcs.take(7), Some(rpc(7, 100)));
        assert_eq!(rpcs.take(7), None);
        assert_eq!(rpcs.take(8), Some(rpc(8, 100)));
        assert!(rpcs.0.is_none());
    }

    #[test]
    fn each_is_taken_when_its_time_is_over() {
        let mut rpcs = PendingRpcs::default();
        assert_eq!(rpcs.next_expiry(), Instant::NEVER);
        for (message_id, expires) in [(7, 100), (8, 90), (9, 110)] {
            rpcs.register(rpc(message_id, expires)).unwrap();
        }
        assert_eq!(rpcs.next_expiry(), Instant(90));
        assert_eq!(rpcs.take_expired(Instant(89)), None);
        let mut over: Vec<_> = std::iter::from_fn(|| rpcs.take_expired(Instant(100))).collect();
        over.sort_by_key(|rpc| rpc.expires);
        assert_eq!(over, [rpc(8, 90), rpc(7, 100)]);
        assert_eq!(rpcs.next_expiry(), Instant(110));
    }

    #[test]
    fn the_table_is_bounded_and_a_message_id_waits_once() {
        let mut rpcs = PendingRpcs::default();
        for id in 0..PendingRpcs::MAX as u64 {
            assert_eq!(rpcs.register(rpc(id, 100)), Ok(None));
        }
        assert_eq!(rpcs.register(rpc(99, 200)), Err(TooManyRpcs));
        assert_eq!(rpcs.register(rpc(5, 200)), Ok(Some(rpc(5, 100))));
        assert_eq!(rpcs.take(5), Some(rpc(5, 200)));
        assert_eq!(rpcs.register(rpc(99, 200)), Ok(None));
    }
}
