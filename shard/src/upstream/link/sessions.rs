//! The sessions that are open on one link, with their windows in both directions.

use std::cell::Cell;
use std::collections::HashMap;

use ahash::RandomState;

use super::credit::Used;
use crate::id::{ConnectionKey, SessionId};

#[derive(Debug)]
pub(super) struct OpenSession {
    pub(super) owner: ConnectionKey,
    /// Number of this opening on the link: what was sent under an earlier one gives no credit back.
    opening: u32,
    /// Towards the backend, not given back.
    pub(super) sent: Used,
    /// From the backend, not given back; `owed` of it has been handled.
    pub(super) received: Used,
    pub(super) owed: Used,
}

/// One opening of one session; recognised as over once the session is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    place: u32,
    number: u32,
}

/// Bounded by the connections of the shard: one entry per connection at most.
#[derive(Debug)]
pub(super) struct Sessions {
    by_id: HashMap<SessionId, u32, RandomState>,
    /// The open session that was asked for last, and its place: a call asks twice, and calls of a
    /// session come in rows.
    last: Cell<Option<(SessionId, u32)>>,
    places: Vec<Option<OpenSession>>,
    free: Vec<u32>,
    openings: u32,
}

impl Sessions {
    pub(super) fn new(seed: u64) -> Self {
        let hash = RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0);
        Self {
            by_id: HashMap::with_hasher(hash),
            last: Cell::new(None),
            places: Vec::new(),
            free: Vec::new(),
            openings: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn find(&self, session: SessionId) -> Option<(Opening, &OpenSession)> {
        let place = self.place_of(session)?;
        let open = self.places.get(place as usize)?.as_ref()?;
        Some((Opening { place, number: open.opening }, open))
    }

    pub(super) fn find_mut(&mut self, session: SessionId) -> Option<&mut OpenSession> {
        let place = self.place_of(session)?;
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// The session of this opening, if it is still open.
    pub(super) fn at(&mut self, opening: Opening) -> Option<&mut OpenSession> {
        let open = self.places.get_mut(opening.place as usize)?.as_mut()?;
        (open.opening == opening.number).then_some(open)
    }

    /// Opens a session that is not open.
    pub(super) fn open(&mut self, session: SessionId, owner: ConnectionKey) -> Opening {
        debug_assert!(!self.by_id.contains_key(&session), "a session is open once on a link");
        self.openings = self.openings.wrapping_add(1);
        let (sent, received, owed) = Default::default();
        let opening = self.openings;
        let open = Some(OpenSession { owner, opening, sent, received, owed });
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = open;
                place
            }
            None => {
                self.places.push(open);
                (self.places.len() - 1) as u32
            }
        };
        self.by_id.insert(session, place);
        Opening { place, number: opening }
    }

    pub(super) fn close(&mut self, session: SessionId) -> Option<OpenSession> {
        self.last.set(None);
        let place = self.by_id.remove(&session)?;
        self.free.push(place);
        self.places.get_mut(place as usize)?.take()
    }

    pub(super) fn clear(&mut self) {
        self.last.set(None);
        self.by_id.clear();
        self.places.clear();
        self.free.clear();
    }

    fn place_of(&self, session: SessionId) -> Option<u32> {
        match self.last.get() {
            Some((known, place)) if known == session => Some(place),
            _ => {
                let place = *self.by_id.get(&session)?;
                self.last.set(Some((session, place)));
                Some(place)
            }
        }
    }
}
