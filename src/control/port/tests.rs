//! What waits for room on a lane, and what may overtake.

use std::sync::Arc;

use corelane_shard::id::{ConnectionKey, Epoch, Generation, SessionId, Slot};
use corelane_shard::lane::Resumed;
use corelane_shard::snapshot::Address;

use super::*;

/// A lane with room for `room` messages.
#[derive(Debug, Default)]
struct Lane {
    room: usize,
    no_evictions: bool,
    sent: Vec<ToShard>,
    rings: usize,
}

impl ShardPort for Lane {
    fn receive(&mut self) -> Option<ToControl> {
        None
    }

    fn send(&mut self, message: ToShard) -> Result<(), ToShard> {
        let barred = self.no_evictions && matches!(message, ToShard::Evict { .. });
        if self.room == 0 || barred {
            return Err(message);
        }
        self.room -= 1;
        self.sent.push(message);
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.room > 0
    }

    fn ring(&mut self) {
        self.rings += 1;
    }
}

fn outlet() -> Outlet<Lane> {
    Outlet::new(Lane::default())
}

fn granted(slot: u32) -> ToShard {
    let key = ConnectionKey { slot: Slot(slot), generation: Generation(0) };
    ToShard::Granted { key, session: SessionId(1), epoch: Epoch(1), resumed: Resumed::Nothing }
}

fn evict(slot: u32) -> ToShard {
    let key = ConnectionKey { slot: Slot(slot), generation: Generation(0) };
    ToShard::Evict { key, epoch: Epoch(1) }
}

fn addresses(service: u16, path: &str) -> ToShard {
    let addresses: Arc<[Address]> = [Address::Unix(path.into())].into();
    ToShard::Addresses { version: 1, service: ServiceId(service), addresses }
}

fn drained(outlet: &mut Outlet<Lane>) -> Vec<String> {
    let describe = |message: ToShard| match message {
        ToShard::Granted { key, .. } => format!("granted {}", key.slot.0),
        ToShard::Evict { key, .. } => format!("evict {}", key.slot.0),
        ToShard::Addresses { service, addresses, .. } => format!("{} {addresses:?}", service.0),
        ToShard::Drain(phase) => format!("{phase:?}"),
        other => format!("{other:?}"),
    };
    outlet.port.sent.drain(..).map(describe).collect()
}

#[test]
fn answers_and_evictions_wait_for_room_and_leave_in_order() {
    let mut outlet = outlet();
    for slot in 0..5 {
        outlet.post(granted(slot));
        outlet.post(evict(slot));
    }
    outlet.flush();
    assert!(outlet.has_waiting());
    assert_eq!(outlet.port.rings, 0, "nothing sent, nobody woken");
    let mut sent = Vec::new();
    while outlet.has_waiting() {
        outlet.port.room = 3;
        outlet.flush();
        sent.extend(drained(&mut outlet));
    }
    let evictions = (0..5).map(|slot| format!("evict {slot}"));
    let answers = (0..5).map(|slot| format!("granted {slot}"));
    assert_eq!(sent, evictions.chain(answers).collect::<Vec<_>>());
    assert_eq!(outlet.port.rings, 4);
}

#[test]
fn evictions_without_room_do_not_hold_up_answers() {
    let mut outlet = outlet();
    outlet.port.no_evictions = true;
    outlet.port.room = 10;
    outlet.post(evict(1));
    outlet.post(granted(2));
    outlet.flush();
    assert_eq!(drained(&mut outlet), ["granted 2"]);
    outlet.port.no_evictions = false;
    outlet.flush();
    assert_eq!(drained(&mut outlet), ["evict 1"]);
}

#[test]
fn of_state_only_the_latest_waits() {
    let mut outlet = outlet();
    for path in ["/old", "/new"] {
        outlet.post(addresses(1, path));
        outlet.post(addresses(2, path));
    }
    outlet.post(ToShard::Drain(DrainPhase::Grace));
    outlet.post(ToShard::Drain(DrainPhase::Closing));
    outlet.port.room = 10;
    outlet.flush();
    let sent = drained(&mut outlet);
    assert_eq!(sent, ["Closing", "1 [Unix(\"/new\")]", "2 [Unix(\"/new\")]"]);
    outlet.flush();
    assert_eq!(outlet.port.rings, 1, "an empty flush wakes nobody");
}

#[test]
fn state_that_does_not_fit_is_kept() {
    let mut outlet = outlet();
    outlet.post(ToShard::Drain(DrainPhase::Grace));
    outlet.post(addresses(1, "/a"));
    outlet.post(addresses(2, "/b"));
    let mut sent = Vec::new();
    for _ in 0..3 {
        outlet.flush();
        outlet.port.room = 1;
        outlet.flush();
        sent.extend(drained(&mut outlet));
    }
    assert_eq!(sent, ["Grace", "1 [Unix(\"/a\")]", "2 [Unix(\"/b\")]"]);
    assert!(!outlet.has_waiting());
}

#[test]
fn a_shard_that_does_not_read_is_behind_until_it_does() {
    let mut outlet = outlet();
    for slot in 0..WAITING_MAX as u32 {
        assert!(!outlet.is_behind());
        outlet.post(granted(slot));
    }
    assert!(outlet.is_behind());
    outlet.port.room = 1;
    outlet.flush();
    assert!(!outlet.is_behind());
}
