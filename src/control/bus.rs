//! Where the gateway publishes facts, and where services publish events for sessions.
//!
//! [`EventBus`] is what the control core needs of it: to publish without waiting, and to be given
//! what arrives. The embedded bus is in memory: its publishers and subscribers come over the
//! internal listener. A bus that keeps its records can be read again for sessions that come from
//! elsewhere; [`KafkaBus`] is one.

pub mod kafka;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use corelane_shard::id::{Epoch, SessionId};
use tokio::sync::broadcast;

pub use self::kafka::KafkaBus;

/// A place in a bus that keeps its records: those of one session are all in one partition, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub partition: u32,
    pub offset: u64,
}

impl Position {
    /// Of what follows in the same partition.
    #[must_use]
    pub fn next(self) -> Self {
        Self { offset: self.offset.saturating_add(1), ..self }
    }
}

/// One event on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: Arc<str>,
    /// Orders records: those with one key stay in order. Empty where an arrival names its session.
    pub key: Box<str>,
    /// JSON.
    pub value: Arc<[u8]>,
    /// Unix milliseconds after which nobody wants it any more.
    pub expires_at_ms: Option<u64>,
    /// Where it stands, if the bus keeps it.
    pub position: Option<Position>,
    /// Of what is published; nobody here reads it.
    pub trail: Option<Box<Trail>>,
}

/// By what those who follow a record know it, and what it came of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    pub message_id: Option<Box<str>>,
    pub correlation_id: Option<Box<str>>,
    pub traceparent: Option<Box<str>>,
    pub tracestate: Option<Box<str>>,
}

impl Trail {
    /// Of a record that nothing is known of but its id.
    #[must_use]
    pub fn of(message_id: &uuid::Uuid) -> Box<Self> {
        Box::new(Self { message_id: Some(message_id.to_string().into()), ..Self::default() })
    }
}

/// A wish to read again what one session may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    pub session: SessionId,
    /// The claim that it is for; what is read comes back with it.
    pub epoch: Epoch,
    pub from: Position,
}

/// What comes from the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// As it was published.
    Record(Record),
    /// An event for a session that is wanted, by a bus that has looked at the key.
    ForSession { session: SessionId, record: Record },
    /// For a session that is being replayed, in order, each before the session's first
    /// [`Self::Record`] since [`EventBus::replay`].
    Replayed { session: SessionId, epoch: Epoch, record: Record },
    /// These are lacking in a replay, where they stood: what follows has a later offset.
    ReplayMissing { session: SessionId, epoch: Epoch, missing: Missing },
    /// Nothing more will be replayed: from here on the session's records come as they are published.
    ReplayEnded { session: SessionId, epoch: Epoch },
    /// These are lacking in what comes live, by partition. [`EventBus::live`] is behind them already.
    Missed(BTreeMap<u32, Missing>),
}

/// Records of one partition that the bus has no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The first offset that was wanted.
    pub from: u64,
    /// The first that is still there.
    pub to: u64,
}

/// Topics of the protocol.
pub mod topic {
    pub const SESSION_CONNECTED: &str = "session.connected";
    pub const SESSION_DISCONNECTED: &str = "session.disconnected";
    pub const SESSION_RECONNECTED: &str = "session.reconnected";
    pub const SESSION_INVALIDATED: &str = "session.invalidated";
    pub const SERVICE_ERROR: &str = "service.error";
    pub const SERVICE_MAPPINGS: &str = "bannou.full-service-mappings";
    /// Events for sessions, keyed `CONNECT_SESSION_{session id}`.
    pub const CLIENT_EVENTS: &str = "bannou-client-events";
}

/// What stands before the session id in the keys of [`topic::CLIENT_EVENTS`].
pub const SESSION_KEY: &str = "CONNECT_SESSION_";

/// Takes what the gateway publishes.
pub trait EventBus {
    /// Whether anybody may want records of `topic`: then it pays to write one.
    fn wants(&self, topic: &str) -> bool;

    /// Takes a record or throws it away, counted; never waits.
    fn publish(&mut self, record: Record);

    /// Publishes the answer to an RPC; the record's topic is the channel that the RPC has named.
    fn publish_answer(&mut self, record: Record) {
        self.publish(record);
    }

    /// Whether what is published comes back as an arrival.
    fn gives_back(&self) -> bool {
        false
    }

    /// Ready when everything published has left, or was given up.
    fn poll_flushed(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// All records from now on, where the gateway itself is the bus.
    fn subscribe(&self) -> Option<broadcast::Receiver<Arc<Record>>> {
        None
    }

    /// Where the session's next record will stand. `None` if the bus keeps nothing, or is not there
    /// yet.
    fn live(&self, _session: SessionId) -> Option<Position> {
        None
    }

    /// Begins to read again for a session, up to where [`Self::live`] is at this moment, or will be
    /// once the bus is there. A later wish for the same session takes the place of an earlier one.
    fn replay(&mut self, _replay: Replay) {}

    /// The next arrival. Records for sessions that are not `wanted` are passed over.
    fn next(&mut self, _wanted: &mut dyn FnMut(SessionId) -> bool) -> Option<Arrival> {
        None
    }

    /// Ready when [`Self::next`] may have something.
    fn poll_arrival(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// Whichever bus the configuration asks for.
impl<B: EventBus + ?Sized> EventBus for Box<B> {
    fn wants(&self, topic: &str) -> bool {
        (**self).wants(topic)
    }

    fn publish(&mut self, record: Record) {
        (**self).publish(record);
    }

    fn publish_answer(&mut self, record: Record) {
        (**self).publish_answer(record);
    }

    fn gives_back(&self) -> bool {
        (**self).gives_back()
    }

    fn poll_flushed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        (**self).poll_flushed(context)
    }

    fn subscribe(&self) -> Option<broadcast::Receiver<Arc<Record>>> {
        (**self).subscribe()
    }

    fn live(&self, session: SessionId) -> Option<Position> {
        (**self).live(session)
    }

    fn replay(&mut self, replay: Replay) {
        (**self).replay(replay);
    }

    fn next(&mut self, wanted: &mut dyn FnMut(SessionId) -> bool) -> Option<Arrival> {
        (**self).next(wanted)
    }

    fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<()> {
        (**self).poll_arrival(context)
    }
}

/// The bus of a node by itself: one channel for all topics.
#[derive(Debug)]
pub struct EmbeddedBus {
    records: broadcast::Sender<Arc<Record>>,
}

impl EmbeddedBus {
    /// A subscriber that is further behind loses the oldest and is told how many.
    pub const CAPACITY: usize = 1024;
    /// Longest value of a record: with the capacity, what a slow subscriber can hold.
    pub const RECORD_BYTES_MAX: usize = 64 << 10;
}

impl Default for EmbeddedBus {
    fn default() -> Self {
        let (records, _nobody_yet) = broadcast::channel(Self::CAPACITY);
        Self { records }
    }
}

impl EventBus for EmbeddedBus {
    fn wants(&self, _topic: &str) -> bool {
        self.records.receiver_count() > 0
    }

    fn publish(&mut self, record: Record) {
        let _without_subscribers = self.records.send(Arc::new(record));
    }

    fn subscribe(&self) -> Option<broadcast::Receiver<Arc<Record>>> {
        Some(self.records.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Keeps the answers to RPCs apart.
    struct Apart(Rc<RefCell<Vec<Record>>>);

    impl EventBus for Apart {
        fn wants(&self, _topic: &str) -> bool {
            true
        }

        fn publish(&mut self, record: Record) {
            panic!("{record:?} is an answer");
        }

        fn publish_answer(&mut self, record: Record) {
            self.0.borrow_mut().push(record);
        }
    }

    #[test]
    fn whichever_bus_is_configured_is_told_what_is_an_answer() {
        let answers = Rc::default();
        let mut bus: Box<dyn EventBus> = Box::new(Apart(Rc::clone(&answers)));
        bus.publish_answer(Record {
            topic: "demo.answers".into(),
            key: "sid".into(),
            value: [].into(),
            expires_at_ms: None,
            position: None,
            trail: None,
        });
        assert_eq!(answers.borrow().len(), 1);
    }
}
