//! What waits for sessions until their clients have it: events, and what else comes in their order.
//! Sans-IO.
//!
//! A session has a mailbox only while something is in it. Contents leave it when the client has
//! confirmed them, so whatever becomes of a connection, the next one begins where confirmation
//! ended. A mailbox that overflows loses its oldest contents, and the client is told of the gap.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use corelane_shard::id::{EndpointId, Place, SessionId};
use corelane_shard::session::shortcuts::Shortcut;
use corelane_shard::wire::guid::Guid;

use super::bus::Position;

/// Something for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// JSON for the client.
    Event(Arc<[u8]>),
    Capabilities {
        endpoints: Arc<[EndpointId]>,
        reason: Box<str>,
    },
    Publish(Box<Shortcut>),
    RevokeRoute(Guid),
    RevokeService(Box<str>),
}

impl Item {
    fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Self::Event(json) => json.len(),
                Self::Capabilities { endpoints, .. } => size_of_val(&**endpoints),
                Self::Publish(shortcut) => size_of::<Shortcut>() + shortcut.payload.len(),
                Self::RevokeRoute(_) => 0,
                Self::RevokeService(service) => service.len(),
            }
    }
}

/// What a mailbox hands out next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Item(Place, Item),
    /// At least so many were lost before whatever follows.
    Gap {
        place: Place,
        missed: u64,
    },
}

/// Bounds of all mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxRules {
    /// Contents of one.
    pub items_max: usize,
    /// Bytes of one.
    pub bytes_max: usize,
    /// Bytes of all.
    pub total_bytes_max: usize,
}

/// What became of something put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// Older contents that had to go for it.
    pub lost: u64,
    /// It is not in: it alone is longer than all that may be.
    pub refused: bool,
}

/// All mailboxes of a node.
#[derive(Debug)]
pub struct Mailboxes {
    rules: MailboxRules,
    boxes: AHashMap<SessionId, Mailbox>,
    bytes: usize,
    /// Where the next mailbox begins: a place never means two things.
    next: u64,
    /// Attached sessions that may have something to hand out; each once.
    ready: VecDeque<SessionId>,
    /// Contents that were passed over because they had expired, and are not counted yet.
    expired: u64,
}

#[derive(Debug)]
struct Mailbox {
    items: VecDeque<Kept>,
    /// Place of the first of `items`.
    first: u64,
    /// What is handed out next; at least `confirmed`, and less than `first` when contents were lost.
    next: u64,
    /// The client has everything before.
    confirmed: u64,
    /// Everything before was handed out at some time.
    handed_out: u64,
    bytes: usize,
    attached: bool,
    queued: bool,
    /// The bus has nothing before it that the client lacks: where the first stands, here or lost, that
    /// the client has not confirmed.
    reached: Option<Position>,
    /// A gap that the client may not have heard of yet.
    gap: Option<Gap>,
}

/// Something is missing that is not here; a word of it is.
#[derive(Debug)]
struct Gap {
    /// Of the word.
    place: u64,
    /// The client surely has everything before; `None` where nobody knows.
    reached: Option<Position>,
}

/// Up to where the client of a session has everything that the bus has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// Nothing of the bus waits for it here.
    All,
    At(Position),
    /// It has yet to be told that nobody knows.
    Unknown,
}

/// An event that a session's client has not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub json: Arc<[u8]>,
    pub expires_unix_ms: Option<u64>,
    pub position: Option<Position>,
}

#[derive(Debug)]
struct Kept {
    item: Item,
    expires_unix_ms: Option<u64>,
    /// Where the bus has it.
    position: Option<Position>,
}

/// How long something is worth to be kept, and where the bus has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    pub expires_unix_ms: Option<u64>,
    pub position: Option<Position>,
}

impl Mailbox {
    fn end(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    /// Whether there is something that may be handed out.
    fn has_next(&self) -> bool {
        self.attached && self.next < self.end() && self.next - self.confirmed < UNCONFIRMED_MAX
    }

    fn pop_front(&mut self) -> usize {
        let Some(kept) = self.items.pop_front() else { return 0 };
        let bytes = kept.item.bytes();
        self.first += 1;
        self.bytes -= bytes;
        bytes
    }
}

impl Mailbox {
    fn pop_confirmed(&mut self) -> usize {
        let position = self.items.front().and_then(|kept| kept.position);
        self.reached = position.map(Position::next).or(self.reached);
        self.pop_front()
    }
}

impl Mailboxes {
    #[must_use]
    pub fn new(rules: MailboxRules) -> Self {
        let (boxes, ready) = (AHashMap::new(), VecDeque::new());
        Self { rules, boxes, bytes: 0, next: 1, ready, expired: 0 }
    }

    pub fn rule(&mut self, rules: MailboxRules) {
        self.rules = rules;
    }

    /// Bytes in all of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }

    /// Puts something in. `attached` says whether the session has a connection that can receive.
    pub fn put(&mut self, session: SessionId, item: Item, origin: Origin, attached: bool) -> Put {
        let Origin { expires_unix_ms, position } = origin;
        let (rules, bytes) = (self.rules, item.bytes());
        if bytes > rules.bytes_max.min(rules.total_bytes_max) {
            return Put { lost: 0, refused: true };
        }
        let first = self.next;
        let mailbox = self.boxes.entry(session).or_insert_with(|| Mailbox {
            items: VecDeque::new(),
            first,
            next: first,
            confirmed: first,
            handed_out: first,
            bytes: 0,
            attached,
            queued: false,
            reached: position,
            gap: None,
        });
        let mut lost = 0;
        while !mailbox.items.is_empty()
            && (mailbox.items.len() >= rules.items_max
                || mailbox.bytes + bytes > rules.bytes_max
                || self.bytes + bytes > rules.total_bytes_max)
        {
            self.bytes -= mailbox.pop_front();
            lost += 1;
        }
        let refused = self.bytes + bytes > rules.total_bytes_max;
        if refused {
            // All of it went to others: what is missing here is told all the same.
            mailbox.first += 1;
        } else {
            mailbox.items.push_back(Kept { item, expires_unix_ms, position });
            mailbox.bytes += bytes;
            self.bytes += bytes;
        }
        mailbox.reached = mailbox.reached.or(position);
        self.next = self.next.max(mailbox.end());
        if mailbox.has_next() && !std::mem::replace(&mut mailbox.queued, true) {
            self.ready.push_back(session);
        }
        Put { lost, refused }
    }

    /// A connection of the session can receive: it begins where confirmation ended.
    pub fn attach(&mut self, session: SessionId) {
        let Some(mailbox) = self.boxes.get_mut(&session) else { return };
        mailbox.attached = true;
        mailbox.next = mailbox.confirmed;
        if mailbox.has_next() && !std::mem::replace(&mut mailbox.queued, true) {
            self.ready.push_back(session);
        }
    }

    /// The connection is gone.
    pub fn detach(&mut self, session: SessionId) {
        if let Some(mailbox) = self.boxes.get_mut(&session) {
            mailbox.attached = false;
        }
    }

    /// The session is over.
    pub fn forget(&mut self, session: SessionId) {
        if let Some(mailbox) = self.boxes.remove(&session) {
            self.bytes -= mailbox.bytes;
        }
    }

    /// Puts the word of a gap in. Until the client has confirmed it, it has what is before `reached`;
    /// `None` where nobody knows.
    pub fn put_gap(
        &mut self,
        session: SessionId,
        item: Item,
        reached: Option<Position>,
        attached: bool,
    ) -> Put {
        let put = self.put(session, item, Origin::default(), attached);
        if let Some(mailbox) = self.boxes.get_mut(&session) {
            let place = mailbox.end().saturating_sub(1);
            let reached = mailbox.gap.as_ref().map_or(reached, |earlier| earlier.reached);
            mailbox.gap = Some(Gap { place, reached });
        }
        put
    }

    /// Up to where the client has everything that the bus has.
    #[must_use]
    pub fn reached(&self, session: SessionId) -> Reached {
        let Some(mailbox) = self.boxes.get(&session) else { return Reached::All };
        match &mailbox.gap {
            Some(gap) => gap.reached.map_or(Reached::Unknown, Reached::At),
            None => mailbox.reached.map_or(Reached::All, Reached::At),
        }
    }

    /// What a session's client has not confirmed, for the node that has the session now: as much as
    /// goes into `bytes_max` and can be told to another node, and where in the bus the rest begins.
    /// `None` if something is missing here.
    #[must_use]
    pub fn left(
        &self,
        session: SessionId,
        bytes_max: usize,
    ) -> Option<(Vec<Left>, Option<Position>)> {
        let Some(mailbox) = self.boxes.get(&session) else { return Some((Vec::new(), None)) };
        if mailbox.gap.is_some() || mailbox.first > mailbox.confirmed {
            return None;
        }
        let mut room = bytes_max;
        let mut left = Vec::new();
        for Kept { item, expires_unix_ms, position } in &mailbox.items {
            let bytes = item.bytes();
            match item {
                Item::Event(json) if bytes <= room => {
                    let (json, expires_unix_ms) = (Arc::clone(json), *expires_unix_ms);
                    left.push(Left { json, expires_unix_ms, position: *position });
                    room -= bytes;
                }
                _ => return position.map(|rest| (left, Some(rest))),
            }
        }
        Some((left, None))
    }

    /// The client has everything up to and including `place`. The word of a connection may come when
    /// the next one has already taken the session. Says whether that was news.
    pub fn confirm(&mut self, session: SessionId, place: Place) -> bool {
        let Some(mailbox) = self.boxes.get_mut(&session) else { return false };
        // Only what was handed out can have arrived.
        let confirmed = place.0.saturating_add(1).min(mailbox.handed_out);
        if confirmed <= mailbox.confirmed {
            return false;
        }
        mailbox.confirmed = confirmed;
        mailbox.next = mailbox.next.max(confirmed);
        while mailbox.first < confirmed && !mailbox.items.is_empty() {
            self.bytes -= mailbox.pop_confirmed();
        }
        mailbox.gap.take_if(|gap| gap.place < confirmed);
        if mailbox.confirmed == mailbox.end() {
            self.boxes.remove(&session);
        } else if mailbox.has_next() && !std::mem::replace(&mut mailbox.queued, true) {
            self.ready.push_back(session);
        }
        true
    }

    /// The next session that may have something to hand out; [`Self::next_of`] says what.
    pub fn next_ready(&mut self) -> Option<SessionId> {
        let session = self.ready.pop_front()?;
        if let Some(mailbox) = self.boxes.get_mut(&session) {
            mailbox.queued = false;
        }
        Some(session)
    }

    /// It could not be handed out now: it is ready again.
    pub fn put_off(&mut self, session: SessionId) {
        if let Some(mailbox) = self.boxes.get_mut(&session)
            && !std::mem::replace(&mut mailbox.queued, true)
        {
            self.ready.push_back(session);
        }
    }

    /// What has been passed over since the last call because it had expired.
    pub fn take_expired(&mut self) -> u64 {
        std::mem::take(&mut self.expired)
    }

    /// Hands out what comes next for a session. What has expired is passed over.
    pub fn next_of(&mut self, session: SessionId, unix_ms: u64) -> Option<Next> {
        let mailbox = self.boxes.get_mut(&session)?;
        while mailbox.has_next() {
            if mailbox.next < mailbox.first {
                let missed = mailbox.first - mailbox.next;
                mailbox.next = mailbox.first;
                mailbox.handed_out = mailbox.handed_out.max(mailbox.next);
                return Some(Next::Gap { place: Place(mailbox.first - 1), missed });
            }
            let place = Place(mailbox.next);
            let kept = &mailbox.items[(mailbox.next - mailbox.first) as usize];
            mailbox.next += 1;
            mailbox.handed_out = mailbox.handed_out.max(mailbox.next);
            if kept.expires_unix_ms.is_none_or(|at| at > unix_ms) {
                return Some(Next::Item(place, kept.item.clone()));
            }
            self.expired += 1;
            if mailbox.next - 1 == mailbox.confirmed {
                // Nothing before it waits for a receipt, so none will come for it either.
                mailbox.confirmed = mailbox.next;
                if mailbox.first < mailbox.confirmed {
                    self.bytes -= mailbox.pop_confirmed();
                }
            }
        }
        if mailbox.confirmed == mailbox.end() {
            self.boxes.remove(&session);
        }
        None
    }

    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

/// Handed out and not confirmed; more wait until the client has some of them.
const UNCONFIRMED_MAX: u64 = 256;

/// What an item costs besides its own bytes.
const ITEM_BYTES: usize = 64;

#[cfg(test)]
mod tests;
