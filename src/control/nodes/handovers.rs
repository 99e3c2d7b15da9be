//! What a session leaves behind on the node that had it: events that its client has not confirmed. The
//! node that takes the session up asks for them, which is quicker than to read the bus again, and does
//! not need the bus to be there.

use corelane_shard::id::{Epoch, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Nodes;
use super::link::{LinkId, Phase};
use super::said::Said;
use crate::control::bus::Position;
use crate::control::mailboxes::Left;

/// A session that is the sender's now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) struct TakenUp {
    pub session: SessionId,
    pub epoch: Epoch,
    /// Of the claim that was the newest until then.
    pub before: Epoch,
}

/// All that a session's client may lack of the time before `next`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct LeftBehind {
    /// In order.
    pub events: Vec<Left>,
    /// Where in the bus the rest begins; `None` if no bus keeps anything.
    pub next: Option<Position>,
}

/// As the link carries it; places are partition and offset.
#[derive(Serialize, Deserialize)]
struct Shown {
    next: Option<(u32, u64)>,
    events: Vec<ShownEvent>,
}

#[derive(Serialize, Deserialize)]
struct ShownEvent {
    at: Option<(u32, u64)>,
    /// Unix milliseconds.
    expires: Option<u64>,
    event: Box<RawValue>,
}

fn pair(position: Option<Position>) -> Option<(u32, u64)> {
    position.map(|Position { partition, offset }| (partition, offset))
}

fn position(pair: Option<(u32, u64)>) -> Option<Position> {
    pair.map(|(partition, offset)| Position { partition, offset })
}

impl LeftBehind {
    /// Empty if an event is no JSON, which none can be.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let shown = |left: &Left| {
            let event: &RawValue = serde_json::from_slice(&left.json).ok()?;
            let (at, expires) = (pair(left.position), left.expires_unix_ms);
            Some(ShownEvent { at, expires, event: event.to_owned() })
        };
        let events: Option<Vec<ShownEvent>> = self.events.iter().map(shown).collect();
        let shown = events.map(|events| Shown { next: pair(self.next), events });
        shown.and_then(|shown| serde_json::to_vec(&shown).ok()).unwrap_or_default()
    }

    pub(super) fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        let Shown { next, events } = serde_json::from_slice(json)?;
        let left = |ShownEvent { at, expires, event }| Left {
            json: Box::<str>::from(event).into_boxed_bytes().into(),
            expires_unix_ms: expires,
            position: position(at),
        };
        Ok(Self { events: events.into_iter().map(left).collect(), next: position(next) })
    }
}

impl Nodes {
    /// Tells a node, by its instance, that a session is this one's now. Says whether it may answer.
    pub(in crate::control) fn take_up(&self, node: Uuid, taken: TakenUp) -> bool {
        let mut links = self.links.values();
        let open = links.find(|link| link.phase == Phase::Open && link.instance == Some(node));
        let able = |hello: &super::said::Hello| hello.handovers;
        open.filter(|link| link.hello.as_ref().is_some_and(able))
            .is_some_and(|link| link.put(Said::TakenUp(taken).encode(), &self.held).is_ok())
    }

    /// Answers a node that has taken up a session. An answer that finds no room is lost: that node then
    /// reads the bus.
    pub(in crate::control) fn hand_over(
        &self,
        link: LinkId,
        session: SessionId,
        epoch: Epoch,
        left: Option<LeftBehind>,
    ) {
        if let Some(link) = self.links.get(&link)
            && link.put(Said::HandedOver { session, epoch, left }.encode(), &self.held).is_err()
        {
            self.probe.nodes.responses_lost.increment();
        }
    }
}
