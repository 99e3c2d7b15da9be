//! The topics by name: which are read, and what the configured prefix makes of those of the protocol.

use std::sync::Arc;

use crate::control::bus::topic;

/// What the gateway reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inbound {
    ClientEvents,
    Invalidated,
    ServiceError,
    Mappings,
}

impl Inbound {
    pub(super) const ALL: [Self; 4] =
        [Self::ClientEvents, Self::Invalidated, Self::ServiceError, Self::Mappings];

    /// As the protocol calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ClientEvents => topic::CLIENT_EVENTS,
            Self::Invalidated => topic::SESSION_INVALIDATED,
            Self::ServiceError => topic::SERVICE_ERROR,
            Self::Mappings => topic::SERVICE_MAPPINGS,
        }
    }
}

/// Answers to RPCs where they share a topic.
pub(super) const RPC_RESPONSES: &str = "connect.rpc-responses";

/// What the gateway writes and nothing else does; it is made beside what is read.
pub(super) const OUTBOUND: [&str; 3] =
    [topic::SESSION_CONNECTED, topic::SESSION_DISCONNECTED, topic::SESSION_RECONNECTED];

/// Names here and on the brokers.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    prefix: Box<str>,
    /// By [`Inbound`]: as the protocol calls it, and as the brokers do.
    inbound: [(Arc<str>, Box<str>); Inbound::ALL.len()],
}

impl Topics {
    pub(super) fn new(prefix: &str) -> Self {
        let names = |topic: Inbound| {
            let name = topic.name();
            (name.into(), format!("{prefix}{name}").into())
        };
        Self { prefix: prefix.into(), inbound: Inbound::ALL.map(names) }
    }

    /// As records carry it.
    pub(super) fn shared(&self, topic: Inbound) -> Arc<str> {
        Arc::clone(&self.inbound[topic as usize].0)
    }

    pub(super) fn on_brokers(&self, topic: Inbound) -> &str {
        &self.inbound[topic as usize].1
    }

    pub(super) fn prefixed(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What a record of the brokers' topic is.
    pub(super) fn find(&self, on_brokers: &[u8]) -> Option<Inbound> {
        Inbound::ALL.into_iter().find(|topic| self.on_brokers(*topic).as_bytes() == on_brokers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_that_is_read_has_its_prefix_and_is_found_by_it() {
        let topics = Topics::new("eu.");
        for topic in Inbound::ALL {
            assert_eq!(topics.find(format!("eu.{}", topic.name()).as_bytes()), Some(topic));
            assert_eq!(topics.find(topic.name().as_bytes()), None);
            assert_eq!(&*topics.shared(topic), topic.name());
        }
        assert_eq!(topics.prefixed("x"), "eu.x");
    }
}
