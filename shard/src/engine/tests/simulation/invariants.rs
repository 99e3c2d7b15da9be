//! What must hold after every turn of a shard, and what must be left when all is over.

use std::collections::BTreeMap;

use super::control::Control;
use super::kernel::Kernel;
use crate::engine::connection::{Connection, Hold, Phase, Sending};
use crate::engine::{Engine, Role, SPARE_SLOTS};
use crate::id::{ConnectionKey, SessionId};
use crate::outbox::OutboxLimits;

type Shard = Engine<Kernel>;

/// News that one slot owes the control core at most: its beginning, its end, what its client has
/// received and confirmed, and an answer or two.
const NEWS_PER_SLOT: usize = 8;

/// After a turn of `shard` and the exchange behind it.
pub(super) fn check(shard: &mut Shard) {
    buffers_are_accounted_for(shard);
    memory_is_bounded(shard);
    connections_are_counted(shard);
    queues_are_bounded(shard);
    nothing_is_forgotten(shard);
    calls_are_bounded(shard);
}

/// Each receive buffer is with the network, in a completion, with a send, or with a lane; no
/// connection keeps one.
fn buffers_are_accounted_for(shard: &mut Shard) {
    let (out, count) = (shard.buffers.out(), shard.buffers.count());
    let returned = shard.buffers.returned().len();
    assert_eq!(shard.sockets.buffers() + out + returned, count, "receive buffers");
    let held = shard.sockets.lent() + shard.lanes.lent();
    assert!(out <= held, "{out} buffers are out, sends and lanes hold {held}");
    assert!(shard.lanes.lent() <= count / 4, "lanes hold a quarter at most");
}

fn is_handshaking(connection: &Connection<Role>) -> bool {
    connection.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
}

fn memory_is_bounded(shard: &Shard) {
    let blocks = &shard.blocks;
    assert!(blocks.in_use() <= blocks.allocated() && blocks.allocated() <= blocks.limit());
    assert!(shard.table.len() <= shard.table.capacity());
}

fn connections_are_counted(shard: &Shard) {
    let clients = shard.table.iter().filter(|(_, connection)| {
        matches!(connection.role, Role::Head(_) | Role::Echo(_) | Role::Session(_))
    });
    assert_eq!(clients.count(), shard.downstream, "connections of clients");
    assert!(shard.downstream <= shard.options.connections_max + SPARE_SLOTS);
    let sessions = shard.table.iter().filter(|(_, c)| matches!(c.role, Role::Session(_)));
    assert_eq!(sessions.count(), shard.sessions, "sessions");
    let shake_hands = shard.table.iter().filter(|(_, connection)| is_handshaking(connection));
    assert_eq!(shake_hands.count(), shard.handshaking, "TLS handshakes");
    let handshakes_max = shard.options.tls.as_ref().map_or(0, |tls| tls.handshakes_max);
    assert!(shard.handshaking <= handshakes_max);
    for (key, connection) in shard.table.iter() {
        assert!(!connection.is_over(), "{key:?} is over and still has its slot");
    }
}

fn queues_are_bounded(shard: &Shard) {
    let slots = shard.table.capacity();
    for (key, connection) in shard.table.iter() {
        let Some(outbox) = &connection.outbox else { continue };
        let OutboxLimits { messages_max, bytes_max, .. } = match connection.role {
            Role::Link(_) | Role::Http(_) => shard.limits.link_outbox,
            _ => shard.limits.outbox,
        };
        // An empty queue takes any one message.
        let (messages, bytes) = (outbox.messages(), outbox.bytes());
        let fits = messages <= messages_max && bytes <= bytes_max;
        assert!(fits || messages == 1, "{key:?}: {messages} messages, {bytes} bytes");
    }
    let lengths = [
        ("rearm", shard.rearm.len(), 2 * slots),
        ("authenticating", shard.authenticating.len(), 2 * slots),
        ("goodbyes", shard.drain.closes_at.len(), 2 * slots),
        ("news", shard.news.waiting(), NEWS_PER_SLOT * slots),
        ("validating", shard.validating, shard.options.door.validations_max),
    ];
    for (name, len, most) in lengths {
        assert!(len <= most, "{len} {name}, {most} at most");
    }
}

/// Whatever can be sent is on the list of what is sent next.
fn nothing_is_forgotten(shard: &Shard) {
    for (key, connection) in shard.table.iter() {
        let waits = connection.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty())
            && connection.hold == Hold::Off
            && !is_handshaking(connection);
        let can_send = (waits || connection.has_tls_to_send())
            && connection.sending == Sending::Free
            && connection.socket.is_some()
            && matches!(connection.phase, Phase::Open | Phase::Leaving(_));
        assert!(!can_send || shard.dirty.contains(&key), "{key:?} has something to send");
    }
}

fn calls_are_bounded(shard: &Shard) {
    let limits = &shard.limits.session;
    for (key, connection) in shard.table.iter() {
        let Role::Session(player) = &connection.role else { continue };
        let Some(calls) = &player.calls else { continue };
        assert!(calls.running() <= limits.calls_running_max, "{key:?}: {} run", calls.running());
        assert!(calls.waiting() <= limits.calls_waiting_max, "{key:?}: {} wait", calls.waiting());
        assert!(!calls.is_idle(), "{key:?} keeps an empty line of calls");
    }
    let services = shard.upstreams.services.iter().zip(&shard.snapshot.services);
    for (state, service) in services {
        assert!(state.running <= service.running_max, "{}: {}", service.name, state.running);
        assert!(state.connections <= service.connections_max);
    }
    let running: usize = shard.upstreams.services.iter().map(|state| state.running).sum();
    assert_eq!(running, shard.running, "calls under way");
}

/// A session has one live connection, the one of its newest claim. Whoever was told to go by the
/// turn of his shard that is just over has gone; only for others that news may be under way.
pub(super) fn sessions_live_once(shards: &[Shard], turned: usize, control: &mut Control) {
    // A turn hears everything that is on its lane.
    control.evictions.retain(|e| !e.told || usize::from(e.shard.0) != turned);
    let mut live: BTreeMap<SessionId, Vec<(usize, ConnectionKey, u64)>> = BTreeMap::new();
    for (at, shard) in shards.iter().enumerate() {
        for (key, connection) in shard.table.iter() {
            if let Role::Session(player) = &connection.role {
                let claims = live.entry(player.session.id()).or_default();
                claims.push((at, key, player.epoch.0));
            }
        }
    }
    for (session, claims) in live {
        for (at, key, epoch) in claims {
            let told = control
                .evictions
                .iter()
                .any(|eviction| (usize::from(eviction.shard.0), eviction.key) == (at, key));
            let newest = control.epoch_of(session);
            assert!(
                epoch == newest || told,
                "{session} lives on {key:?} of shard {at} by claim {epoch}, the newest is {newest}"
            );
        }
    }
}

/// Everything that was held for anybody has come back.
pub(super) fn nothing_is_left(shard: &mut Shard) {
    assert!(shard.is_done(), "the shard says that it is done");
    assert!(shard.table.is_empty());
    assert_eq!((shard.downstream, shard.sessions, shard.running), (0, 0, 0));
    assert_eq!(shard.handshaking, 0);
    assert_eq!(shard.blocks.in_use(), 0, "bytes of blocks");
    assert_eq!((shard.buffers.out(), shard.lanes.lent()), (0, 0), "receive buffers");
    assert_eq!(shard.sockets.buffers(), shard.buffers.count(), "the network has them all");
    assert_eq!(shard.sockets.open_descriptors(), 0);
    assert!(!shard.sockets.is_listening());
    assert!(shard.outboxes.iter().all(|outbox| outbox.is_empty()));
    let timed: Vec<_> = shard.table.slots().filter(|slot| shard.timers.is_set(slot.0)).collect();
    assert_eq!(timed, [], "nothing is timed");
    assert_eq!(shard.validating, 0);
    for backend in &shard.upstreams.backends {
        assert_eq!((backend.connections, backend.in_flight, backend.idle.len()), (0, 0, 0));
    }
    assert!(shard.upstreams.services.iter().all(|state| state.queue.is_empty()));
}
