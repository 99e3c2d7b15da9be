//! Answers to the questions of the HTTP listeners.

use std::sync::Arc;

use ahash::AHashMap;
use corelane_shard::clock::Now;
use corelane_shard::id::SessionId;
use corelane_shard::lane::{Content, Delivery, SessionDescription, ToShard};
use tokio::sync::oneshot;

use super::ask::{self, Ask, ListedSession, NoLinks, NoSession};
use super::bus::{EmbeddedBus, EventBus, Record};
use super::port::ShardPort;
use super::store::{Owner, SessionStore};
use super::turn::Core;
use crate::events::event_id;

type DescribedAnswer = oneshot::Sender<Result<Box<ask::Described>, NoSession>>;

/// Descriptions that shards were asked for. Each is answered: by the shard in its next turn, if
/// only that the connection is gone.
#[derive(Debug, Default)]
pub(super) struct Described {
    next_ticket: u64,
    asked: AHashMap<u64, (ListedSession, DescribedAnswer)>,
}

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    /// Whoever asked may have stopped waiting; then nobody hears the answer.
    pub(super) fn answer(&mut self, ask: Ask, now: Now) {
        match ask {
            Ask::Publish { record, answer } => {
                let _unheard = answer.send(self.publish_record(record, now));
            }
            Ask::Subscribe { answer } => {
                let _unheard = answer.send(self.bus.subscribe());
            }
            Ask::Push { session, message, answer } => {
                let _unheard = answer.send(self.push(session, message));
            }
            Ask::Rpc { rpc, answer } => {
                let _unheard = answer.send(self.send_rpc(*rpc, now));
            }
            Ask::OfAccount { account, answer } => {
                self.store.find_account(&account, answer);
            }
            Ask::List { after, limit, answer } => {
                let _unheard = answer.send(self.list(after, limit));
            }
            Ask::Describe { session, answer } => self.ask_shard(session, answer),
            Ask::Addresses { service, answer } => {
                let _unheard = answer.send(self.book.addresses_of(service));
            }
            Ask::Link { instance, answer } => {
                let seat = match &mut self.nodes {
                    Some(nodes) => nodes.accept(instance, now.mono).ok_or(NoLinks::TooMany),
                    None => Err(NoLinks::Alone),
                };
                let _unheard = answer.send(seat);
            }
            Ask::End { session, reason, answer } => {
                if self.store.known(session).is_some() {
                    self.end_session(session, Some(&reason), now);
                    let _unheard = answer.send(Ok(()));
                } else {
                    self.store.end_elsewhere(session, &reason, answer, now);
                }
            }
            Ask::Whereabouts { session, answer } => self.store.find(session, answer),
            Ask::Node { node, request, answer } => self.ask_node(node, request, answer, now),
        }
    }

    /// As a bus would: subscribers hear of it too. Where the bus is another's, it goes there and comes
    /// back to whichever node needs it.
    fn publish_record(&mut self, mut record: Record, now: Now) -> Result<(), ask::Unpublished> {
        let trail = record.trail.get_or_insert_default();
        if trail.message_id.is_none() {
            trail.message_id = Some(event_id(&mut self.random).to_string().into());
        }
        if record.value.len() > EmbeddedBus::RECORD_BYTES_MAX {
            return Err(ask::Unpublished::TooLong);
        }
        if self.bus.subscribe().is_none() {
            self.bus.publish(record);
            return Ok(());
        }
        if self.bus.wants(&record.topic) {
            self.take_record(record.clone(), now)?;
            self.bus.publish(record);
            return Ok(());
        }
        self.take_record(record, now)
    }

    fn push(&mut self, session: SessionId, message: Box<[u8]>) -> Result<(), NoSession> {
        let Owner { shard, key, epoch } =
            self.store.known(session).and_then(|known| known.owner).ok_or(NoSession)?;
        let delivery = Delivery { key, epoch, place: None, content: Content::Message(message) };
        self.post(shard, ToShard::Deliver(delivery));
        Ok(())
    }

    fn list(&self, after: Option<SessionId>, limit: usize) -> Vec<ListedSession> {
        let mut page = std::collections::BTreeMap::new();
        self.store.each(&mut |known| {
            if after.is_some_and(|after| known.identity.session <= after) {
                return;
            }
            page.insert(known.identity.session, ListedSession::from(&known));
            if page.len() > limit {
                page.pop_last();
            }
        });
        page.into_values().collect()
    }

    fn ask_shard(&mut self, session: SessionId, answer: DescribedAnswer) {
        let known = self.store.known(session);
        let Some((Owner { shard, key, .. }, listed)) =
            known.and_then(|known| Some((known.owner?, ListedSession::from(&known))))
        else {
            let _unheard = answer.send(Err(NoSession));
            return;
        };
        let ticket = self.described.next_ticket;
        self.described.next_ticket += 1;
        self.described.asked.insert(ticket, (listed, answer));
        self.post(shard, ToShard::Describe { key, ticket });
    }
}

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    pub(super) fn session_described(
        &mut self,
        ticket: u64,
        description: Option<Box<SessionDescription>>,
    ) {
        let Some((listed, answer)) = self.described.asked.remove(&ticket) else { return };
        let described = description.map(|description| {
            let snapshot = Arc::clone(self.snapshot());
            Box::new(ask::Described { listed, description: *description, snapshot })
        });
        let _unheard = answer.send(described.ok_or(NoSession));
    }
}
