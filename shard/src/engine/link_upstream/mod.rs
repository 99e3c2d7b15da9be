//! Links: long-lived connections to backends that carry the calls of many sessions. The protocol
//! is `upstream::link`; here it meets sockets and sessions.

mod lifecycle;
mod traffic;

use super::calling::CallRef;
use super::connection::{Connection, Phase};
use super::services::BackendId;
use super::{Engine, Role};
use crate::block::Block;
use crate::clock::Instant;
use crate::id::{ConnectionKey, ServiceId, SessionId};
use crate::outbox::{Memory, Outbox, OutboxLimits};
use crate::session::calls::Credit;
use crate::sockets::Sockets;
use crate::table::Table;
use crate::upstream::link::{Client, Link, LinkState, SendBuffer};
use crate::wire::header::Priority;

/// One link of this shard.
#[derive(Debug)]
pub(in crate::engine) struct LinkConnection {
    backend: BackendId,
    /// Which of the backend's links this is.
    place: usize,
    service: ServiceId,
    nonce: [u8; 16],
    stage: Stage,
    link: Link<CallRef>,
}

#[derive(Debug)]
enum Stage {
    /// The upgrade response, as far as it has come.
    Upgrading {
        carry: Option<Block>,
    },
    Frames,
}

impl LinkConnection {
    pub(in crate::engine) fn until(&self) -> Option<Instant> {
        self.link.next_deadline()
    }
}

/// Where a link's frames are written: straight into its connection's outbox.
struct OutboxBuffer<'a> {
    outbox: &'a mut Outbox,
    limits: OutboxLimits,
    memory: Memory<'a>,
}

impl SendBuffer for OutboxBuffer<'_> {
    fn room(&self) -> usize {
        let own = self.limits.bytes_max.saturating_sub(self.outbox.bytes());
        own.min(self.memory.blocks.certain())
    }

    fn reserve(&mut self, len: usize) -> &mut [u8] {
        self.outbox
            .reserve(len, Priority::Normal, self.limits, &mut self.memory)
            .expect("no more is reserved than there was room for")
    }
}

/// What writing to a link takes besides its connection.
struct Desk<'a> {
    #[expect(clippy::vec_box, reason = "as the engine keeps them")]
    outboxes: &'a mut Vec<Box<Outbox>>,
    dirty: &'a mut Vec<ConnectionKey>,
    limits: OutboxLimits,
    memory: Memory<'a>,
}

impl Desk<'_> {
    fn act<T>(
        self,
        key: ConnectionKey,
        connection: &mut Connection<Role>,
        act: impl FnOnce(&mut Link<CallRef>, &mut OutboxBuffer<'_>) -> T,
    ) -> Option<T> {
        if connection.phase != Phase::Open {
            return None;
        }
        let Role::Link(link) = &mut connection.role else {
            return None;
        };
        let Self { outboxes, dirty, limits, memory } = self;
        let outbox = connection.outbox.get_or_insert_with(|| outboxes.pop().unwrap_or_default());
        let outcome = act(&mut link.link, &mut OutboxBuffer { outbox, limits, memory });
        if !connection.dirty {
            connection.dirty = true;
            dirty.push(key);
        }
        Some(outcome)
    }
}

impl<S: Sockets> Engine<S> {
    /// Runs `act` on a link and its outbox, and sends what it wrote.
    fn with_link<T>(
        &mut self,
        key: ConnectionKey,
        act: impl FnOnce(&mut Link<CallRef>, &mut OutboxBuffer<'_>) -> T,
    ) -> Option<T> {
        let (table, desk) = self.link_desk();
        desk.act(key, table.get_mut(key)?, act)
    }

    /// As [`Self::with_link`], for a session that is open on `client`.
    fn with_link_for<T>(
        &mut self,
        key: ConnectionKey,
        client: ConnectionKey,
        act: impl FnOnce(&mut Link<CallRef>, &Client<'_>, &mut OutboxBuffer<'_>) -> T,
    ) -> Option<T> {
        let (table, desk) = self.link_desk();
        let (connection, beside) = table.get_mut_beside(key, client)?;
        let Role::Session(player) = &beside.role else {
            return None;
        };
        let identity = player.session.identity();
        let client = Client { owner: client, identity, peer: beside.peer_address() };
        desk.act(key, connection, |link, out| act(link, &client, out))
    }

    /// The connections, and what writing to a link's takes besides.
    fn link_desk(&mut self) -> (&mut Table<Connection<Role>>, Desk<'_>) {
        let Self { table, outboxes, dirty, blocks, buffers, copies, limits, .. } = self;
        let memory = Memory { blocks, buffers, copies };
        (table, Desk { outboxes, dirty, limits: limits.link_outbox, memory })
    }

    /// Takes calls of `session`: is open, or goes away and has that session open still.
    pub(in crate::engine) fn link_is_usable(&self, key: ConnectionKey, session: SessionId) -> bool {
        let Some(connection) = self.table.get(key) else {
            return false;
        };
        let Role::Link(link) = &connection.role else {
            return false;
        };
        connection.phase == Phase::Open
            && match link.link.state() {
                LinkState::Open => true,
                LinkState::GoingAway => link.link.carries(session),
                _ => false,
            }
    }

    /// Without a link nothing waits: the call is sent on its way and answered 60.
    pub(in crate::engine) fn credit_on(
        &self,
        link: Option<ConnectionKey>,
        client: ConnectionKey,
        session: SessionId,
        bytes: usize,
    ) -> Credit {
        let connection = link.and_then(|key| self.table.get(key));
        match connection.map(|connection| &connection.role) {
            Some(Role::Link(link)) if !link.link.has_credit(session, client, bytes) => {
                Credit::Exhausted
            }
            _ => Credit::Available,
        }
    }
}
