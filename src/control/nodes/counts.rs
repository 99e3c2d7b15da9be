//! What is counted of the traffic with other nodes. Written by the control core alone.

use corelane_shard::probe::{Counter, Kind, Sample};
use thiserror::Error;

macro_rules! labelled {
    ($(#[$doc:meta])* $visible:vis $name:ident { $($(#[$vdoc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visible enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            const LABELS: &'static [&'static str] = &[$($label,)+];
        }
    };
}

labelled! {
    /// Why a message to or from another node was answered 31.
    pub(in crate::control) NotRelayed {
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
    pub(in crate::control) NotBroadcast {
        QueueFull => "queue_full",
        LaneFull => "lane_full",
        /// This node does not receive any.
        NotReceiving => "not_receiving",
    }
}

labelled! {
    /// Why a request about a session of another node has no response of it.
    #[derive(Error)]
    pub NoResponse {
        #[error("there is no link to that node")]
        NoLink => "no_link",
        #[error("that node takes no requests of others: it runs an earlier version")]
        Unable => "unable",
        #[error("too many requests wait for that node's answers")]
        TooMany => "too_many",
        #[error("the link to that node has no room at present")]
        QueueFull => "queue_full",
        #[error("the link to that node ended before it answered")]
        LinkLost => "link_lost",
        #[error("that node did not answer in time")]
        Late => "late",
    }
}

labelled! {
    /// What the node that had a session has told of it.
    pub(in crate::control) Handover {
        /// All that its client may lack.
        Taken => "taken",
        /// Nothing that could be used: it has lost something itself, or knows nothing of the session.
        Nothing => "nothing",
        /// No answer in time.
        Late => "late",
        /// There is no link to it, or it runs an earlier version.
        NoLink => "no_link",
    }
}

labelled! {
    pub(in crate::control) LinkEnded {
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
    /// Nodes that the registry names, besides this one.
    pub(in crate::control) found: Counter,
    pub(in crate::control) requests_out: Counter,
    pub(in crate::control) requests_in: Counter,
    pub(in crate::control) responses_lost: Counter,
    not_relayed: [Counter; NotRelayed::LABELS.len()],
    not_broadcast: [Counter; NotBroadcast::LABELS.len()],
    no_response: [Counter; NoResponse::LABELS.len()],
    handovers: [Counter; Handover::LABELS.len()],
    ended: [Counter; LinkEnded::LABELS.len()],
}

impl NodeCounts {
    pub(in crate::control) fn not_relayed(&self, why: NotRelayed) {
        self.not_relayed[why as usize].increment();
    }

    pub(in crate::control) fn not_broadcast(&self, why: NotBroadcast) {
        self.not_broadcast[why as usize].increment();
    }

    pub(in crate::control) fn no_response(&self, why: NoResponse) {
        self.no_response[why as usize].increment();
    }

    pub(in crate::control) fn handed_over(&self, how: Handover) {
        self.handovers[how as usize].increment();
    }

    pub(in crate::control) fn ended(&self, how: LinkEnded) {
        self.ended[how as usize].increment();
    }

    #[cfg(test)]
    pub(in crate::control) fn handovers(&self) -> [u64; Handover::LABELS.len()] {
        std::array::from_fn(|index| self.handovers[index].read())
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
        let (name, help) = ("node_registry_nodes", "Other nodes in the registry");
        each(Sample { name, help, kind: G, label: None, value: self.found.read() });
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
            (
                "node_requests_sent",
                "Requests of services about sessions of other nodes",
                &self.requests_out,
            ),
            ("node_requests_received", "Requests that other nodes passed on", &self.requests_in),
            ("node_responses_lost", "Answers to such that found no room", &self.responses_lost),
        ];
        for (name, help, counter) in plain {
            each(Sample { name, help, kind: C, label: None, value: counter.read() });
        }
        for (outcome, counter) in Handover::LABELS.iter().zip(&self.handovers) {
            let name = "node_handovers";
            let help = "What nodes that had a session before have told of it";
            let label = Some(("outcome", *outcome));
            each(Sample { name, help, kind: C, label, value: counter.read() });
        }
        let families: [(_, _, &[&str], &[Counter]); 4] = [
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
            (
                "node_requests_failed",
                "Requests about sessions of other nodes without an answer of theirs",
                NoResponse::LABELS,
                &self.no_response,
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
