//! What a drain leaves alone, and links that are dialled again only while somebody wants them.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::client::{CLOSE, Client};
use super::rig::{Rig, Shape};
use crate::engine::connection::Phase;
use crate::id::ServiceId;
use crate::lane::{DrainPhase, ToShard};
use crate::session::fixtures::snapshot_of;
use crate::snapshot::{Address, Service, Snapshot, UpstreamKind};

/// Longer than any pause between two dials.
const LATER: Duration = Duration::from_secs(10);

#[test]
fn a_drain_does_not_take_up_again_whoever_has_said_its_last_word() {
    let mut rig = Shape::default().build();
    let address = rig.address;
    let client = thread::spawn(move || {
        let mut client = Client::open(address);
        client.send(CLOSE, &1000u16.to_be_bytes());
        client.next().unwrap();
        assert!(client.rest().unwrap().is_empty(), "FIN behind the close frame");
        client
    });
    let client = rig.run(client);
    let lingering = |rig: &Rig| {
        let connections = rig.engine.table.iter();
        connections.map(|(_, c)| (c.phase, c.closes_at)).collect::<Vec<_>>()
    };
    rig.turn();
    let before = lingering(&rig);
    assert!(matches!(before[..], [(Phase::Lingering, _)]), "{before:?}");
    rig.ahead += Duration::from_secs(1);
    rig.tell(ToShard::Drain(DrainPhase::Closing));
    rig.until("the goodbye", |engine| {
        engine.drain.phase.is_some() && engine.next_goodbye().is_none()
    });
    assert_eq!(lingering(&rig), before, "no later than it would have ended");
    drop(client);
    rig.until_nothing_is_left();
}

/// A shard whose one link waits to be dialled again.
fn waiting_for_its_backend() -> Rig {
    let mut rig = Shape::default().build();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let service = Service {
        kind: UpstreamKind::Link { path: "/link".into(), token: None },
        ..snapshot_of(&[("room", "/join")], "salt").services[0].clone()
    };
    let old = (*rig.engine.snapshot).clone();
    let snapshot = Snapshot { version: 2, services: [service].into(), ..old };
    rig.tell(ToShard::Snapshot(Arc::new(snapshot)));
    tell_addresses(&mut rig, &[Address::Tcp(nobody)]);
    rig.until("a pause", |engine| engine.next_redial().is_some());
    rig
}

fn tell_addresses(rig: &mut Rig, addresses: &[Address]) {
    let (service, addresses) = (ServiceId(0), addresses.into());
    rig.tell(ToShard::Addresses { version: 2, service, addresses });
}

#[test]
fn a_link_is_not_dialled_again_after_the_cut() {
    let mut rig = waiting_for_its_backend();
    rig.tell(ToShard::Drain(DrainPhase::Cutting));
    rig.until("the cut", |engine| engine.drain.is_ending() && engine.table.is_empty());
    rig.ahead += LATER;
    rig.turn();
    assert!(rig.engine.table.is_empty());
    assert_eq!(rig.engine.next_redial(), None);
}

#[test]
fn a_link_to_an_address_that_was_dropped_is_not_dialled_again() {
    let mut rig = waiting_for_its_backend();
    tell_addresses(&mut rig, &[]);
    rig.until("the drop", |engine| {
        engine.upstreams.services[0].backends.is_empty() && engine.table.is_empty()
    });
    rig.ahead += LATER;
    rig.turn();
    assert!(rig.engine.table.is_empty());
    assert_eq!(rig.engine.next_redial(), None);
}
