//! Broadcasts of sessions to all sessions of all nodes.

use bytes::Bytes;
use corelane_shard::wire::header::Priority;
use serde::{Deserialize, Serialize};

use super::counts::NotBroadcast;
use super::link::{Dialect, Phase};
use super::said::Said;
use super::{Heard, Nodes};

/// Which broadcasts cross nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BroadcastMode {
    None,
    Send,
    Receive,
    Both,
}

impl BroadcastMode {
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    #[must_use]
    pub fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }
}

impl Nodes {
    /// Sends a session's broadcast to every node that receives any.
    pub(in crate::control) fn broadcast(&self, message: Box<[u8]>, priority: Priority) {
        let bare = Bytes::from(message);
        let mut prefixed = None;
        for link in self.links.values() {
            if link.phase != Phase::Open || link.superseded {
                continue;
            }
            let bytes = match (&link.dialect, &link.hello) {
                (Dialect::Broadcasts, _) => bare.clone(),
                (Dialect::Node, Some(hello)) if hello.broadcast.receives() => prefixed
                    .get_or_insert_with(|| {
                        Said::Broadcast { message: bare.clone(), priority }.encode()
                    })
                    .clone(),
                (Dialect::Node, _) => continue,
            };
            match link.put(bytes, &self.held) {
                Ok(()) => self.probe.nodes.broadcasts_out.increment(),
                Err(_) => self.probe.nodes.not_broadcast(NotBroadcast::QueueFull),
            }
        }
    }

    pub(super) fn hear_broadcast(&self, message: Bytes, priority: Priority) -> Heard {
        if !self.rules.broadcast.receives() {
            self.probe.nodes.not_broadcast(NotBroadcast::NotReceiving);
            return Heard::Nothing;
        }
        self.probe.nodes.broadcasts_in.increment();
        Heard::Broadcast { message, priority }
    }
}
