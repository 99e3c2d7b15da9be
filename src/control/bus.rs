//! Where the gateway publishes facts, and where services publish events for sessions.
//!
//! [`EventBus`] is what the control core needs of it: to publish, without waiting. What arrives is
//! given to the core as [`Record`]s by whoever reads the bus. The embedded bus is in memory: its
//! publishers and subscribers come over the internal listener.

use std::sync::Arc;

use tokio::sync::broadcast;

/// One event on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: Box<str>,
    /// Orders records: those with one key stay in order.
    pub key: Box<str>,
    /// JSON.
    pub value: Arc<[u8]>,
    /// Unix milliseconds after which nobody wants it any more.
    pub expires_at_ms: Option<u64>,
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

    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.records.subscribe()
    }
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
}
