//! What is counted of the traffic with other nodes. Written by the control core alone.

use corelane_shard::probe::{Counter, Kind, Sample};

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::control) enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            const LABELS: &'static [&'static str] = &[$($label,)+];
        }
    };
}

labelled! {
    /// Why a message to or from another node was answered 31.
    NotRelayed {
        /// No link to a node of that number.
        NoLink => "no_link",
        QueueFull => "queue_full",
        /// Too many on this link wait for an answer.
        AnswersFull => "answers_full",
        /// The link ended before there was an answer.
        LinkLost => "link_lost",
        /// From another node: its GUID is of no session that this node can have.
        NotHere => "not_here",
        /// From another node: the shard has no room for it.
        LaneFull => "lane_full",
        /// From another node: the session has gone or does not read.
        Undelivered => "undelivered",
    }
}

labelled! {
    /// Why a broadcast did not get further.
    NotBroadcast {
        QueueFull => "queue_full",
        LaneFull => "lane_full",
        /// This node does not receive any.
        NotReceiving => "not_receiving",
    }
}

labelled! {
    LinkEnded {
        Unreachable => "unreachable",
        Closed => "closed",
        Lost => "lost",
        Silent => "silent",
        Malformed => "malformed",
        /// The two nodes have another one.
        Surplus => "surplus",
        /// Of another salt, or with a number that is taken.
        Refused => "refused",
        /// Answers found no room.
        Overrun => "overrun",
        Shutdown => "shutdown",
    }
}

#[derive(Debug, Default)]
pub struct NodeCounts {
    pub(in crate::control) opening: Counter,
    pub(in crate::control) open: Counter,
    pub(in crate::control) dials: Counter,
    pub(in crate::control) messages_out: Counter,
    pub(in crate::control) messages_in: Counter,
    pub(in crate::control) broadcasts_out: Counter,
    pub(in crate::control) broadcasts_in: Counter,
    pub(in crate::control) registry_failures: Counter,
    not_relayed: [Counter; NotRelayed::LABELS.len()],
    not_broadcast: [Counter; NotBroadcast::LABELS.len()],
    ended: [Counter; LinkEnded::LABELS.len()],
}

impl NodeCounts {
    pub(in crate::control) fn not_relayed(&self, why: NotRelayed) {
        self.not_relayed[why as usize].increment();
    }

    pub(in crate::control) fn not_broadcast(&self, why: NotBroadcast) {
        self.not_broadcast[why as usize].increment();
    }

    pub(in crate::control) fn ended(&self, how: LinkEnded) {
        self.ended[how as usize].increment();
    }

    #[cfg(test)]
    pub(in crate::control) fn count_of(&self, why: NotRelayed) -> u64 {
        self.not_relayed[why as usize].read()
    }

    /// Hands every value to `each`, families together.
    pub(in crate::control) fn visit(&self, each: &mut dyn FnMut(Sample)) {
        use Kind::{Counter as C, Gauge as G};
        for (state, counter) in [("opening", &self.opening), ("open", &self.open)] {
            let (name, help, label) = ("node_links", "Links to nodes", Some(("state", state)));
            each(Sample { name, help, kind: G, label, value: counter.read() });
        }
        let plain = [
            ("node_dials", "Attempts to link to a node", &self.dials),
            ("node_messages_sent", "Messages to sessions of other nodes", &self.messages_out),
            ("node_messages_received", "Messages from sessions of other nodes", &self.messages_in),
            ("node_broadcasts_sent", "Broadcasts to other nodes, one a node", &self.broadcasts_out),
            ("node_broadcasts_received", "Broadcasts of other nodes", &self.broadcasts_in),
            (
                "node_registry_failures",
                "Looks at the registry of nodes that failed",
                &self.registry_failures,
            ),
        ];
        for (name, help, counter) in plain {
            each(Sample { name, help, kind: C, label: None, value: counter.read() });
        }
        let families: [(_, _, &[&str], &[Counter]); 3] = [
            (
                "node_messages_refused",
                "Messages to and from other nodes that were answered 31",
                NotRelayed::LABELS,
                &self.not_relayed,
            ),
            (
                "node_broadcasts_dropped",
                "Broadcasts to and from other nodes that got no further",
                NotBroadcast::LABELS,
                &self.not_broadcast,
            ),
            ("node_links_ended", "Links that have ended", LinkEnded::LABELS, &self.ended),
        ];
        for (name, help, labels, counters) in families {
            for (reason, counter) in labels.iter().zip(counters) {
                let label = Some(("reason", *reason));
                each(Sample { name, help, kind: C, label, value: counter.read() });
            }
        }
    }
}
