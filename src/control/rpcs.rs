//! RPCs of services to clients: sent to the session's shard, answered to the topic that the service
//! has named. One that is not answered in time is answered with 60, one whose session ends with 31.

use ahash::AHashMap;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::SessionId;
use corelane_shard::lane::{self, Content, Delivery, RpcEnded, RpcOutcome, ToShard};
use corelane_shard::wire::code::ResponseCode;
use corelane_shard::wire::guid::Guid;
use corelane_shard::wire::header::{Flags, RequestHeader};

use super::ask::{NoSession, Rpc, RpcRefused};
use super::bus::{EventBus, Record, Trail};
use super::port::ShardPort;
use super::store::{Owner, SessionStore};
use super::turn::Core;
use crate::events::outbound::{RpcResponse, to_json};
use crate::events::{Timestamp, event_id};

/// RPCs without an answer, by session and message id.
#[derive(Debug, Default)]
pub(super) struct Rpcs {
    waiting: AHashMap<(SessionId, u64), Waiting>,
    /// Whose session has ended, to be answered in this turn.
    abandoned: Vec<((SessionId, u64), Waiting)>,
    /// At most this early something is to be given up.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    service: Box<str>,
    service_guid: Guid,
    response_topic: Box<str>,
    until: Instant,
}

impl Rpcs {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The session's connection is gone.
    pub(super) fn abandon(&mut self, session: SessionId) {
        if !self.waiting.is_empty() {
            self.abandoned.extend(self.waiting.extract_if(|(of, _), _| *of == session));
            if !self.abandoned.is_empty() {
                self.next = Some(Instant(0));
            }
        }
    }
}

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    /// Registers the RPC before it is sent.
    pub(super) fn send_rpc(&mut self, rpc: Rpc, now: Now) -> Result<(), RpcRefused> {
        let owner = self.store.known(rpc.session).and_then(|known| known.owner);
        let Owner { shard, key, epoch } = owner.ok_or(NoSession)?;
        if self.rpcs.waiting.len() >= RPCS_MAX {
            return Err(RpcRefused::TooMany);
        }
        let header = RequestHeader {
            flags: Flags::BINARY,
            channel: rpc.channel,
            sequence: 0,
            guid: rpc.service_guid,
            message_id: rpc.message_id,
        };
        let message = [&header.to_bytes()[..], &rpc.payload].concat().into();
        let timeout = rpc.timeout.unwrap_or(self.rules.rpc_timeout);
        let until = now.mono + timeout;
        let waiting = Waiting {
            service: rpc.service,
            service_guid: rpc.service_guid,
            response_topic: rpc.response_topic,
            until,
        };
        let replaced = self.rpcs.waiting.insert((rpc.session, rpc.message_id), waiting);
        if let Some(replaced) = replaced {
            self.rpcs.abandoned.push(((rpc.session, rpc.message_id), replaced));
        }
        self.rpcs.next = Some(self.rpcs.next.map_or(until, |next| next.min(until)));
        let content = Content::Rpc(Box::new(lane::Rpc { message, timeout }));
        let delivery = Delivery { key, epoch, place: None, content };
        self.post(shard, ToShard::Deliver(delivery));
        Ok(())
    }

    pub(super) fn rpc_ended(&mut self, ended: RpcEnded, now: Now) {
        let id = (ended.session, ended.message_id);
        let Some(waiting) = self.rpcs.waiting.remove(&id) else { return };
        match ended.outcome {
            RpcOutcome::Answered { code, payload } => {
                self.publish_answer(id, &waiting, code, &payload, now);
            }
            RpcOutcome::Unsent => {
                self.publish_answer(id, &waiting, ResponseCode::TooManyRequests.value(), &[], now);
            }
        }
    }

    /// Answers for those who will not.
    pub(super) fn give_up_rpcs(&mut self, now: Now) {
        if self.rpcs.next.is_none_or(|next| next > now.mono) {
            return;
        }
        for (id, waiting) in std::mem::take(&mut self.rpcs.abandoned) {
            self.publish_answer(id, &waiting, ResponseCode::ClientNotFound.value(), &[], now);
        }
        let late: Vec<_> =
            self.rpcs.waiting.extract_if(|_, waiting| waiting.until <= now.mono).collect();
        for (id, waiting) in late {
            self.probe.rpcs_timed_out.increment();
            self.publish_answer(id, &waiting, ResponseCode::BackendError.value(), &[], now);
        }
        self.rpcs.next = self.rpcs.waiting.values().map(|waiting| waiting.until).min();
    }

    fn publish_answer(
        &mut self,
        (session, message_id): (SessionId, u64),
        waiting: &Waiting,
        code: u8,
        payload: &[u8],
        now: Now,
    ) {
        let json = to_json(&RpcResponse {
            client_id: session,
            service_name: &waiting.service,
            service_guid: waiting.service_guid,
            message_id,
            payload,
            response_code: code,
            timestamp: Timestamp(now.unix_ms),
        });
        self.probe.records_out.increment();
        let id = event_id(&mut self.random);
        self.bus.publish_answer(Record {
            topic: (&*waiting.response_topic).into(),
            key: session.to_string().into(),
            value: json.into(),
            expires_at_ms: None,
            position: None,
            trail: Some(Trail::of(&id)),
        });
    }
}

/// RPCs that may wait for answers.
const RPCS_MAX: usize = 4096;
