//! Bounds of the crowd at the door, the deny list, and what is refused when memory runs short.

use ipnet::IpNet;

use super::*;
use crate::probe::Sample;
use crate::snapshot::DoorLimits;

fn limited(limits: DoorLimits) -> Rig {
    Shape { limits, ..shape() }.build()
}

fn outcomes(rig: &Rig, wanted: &str) -> u64 {
    let mut count = 0;
    rig.engine.probe.visit(&mut |sample| {
        if let Sample { name: "upgrades", label: Some((_, label)), value, .. } = sample
            && label == wanted
        {
            count += value;
        }
    });
    count
}

fn deny(networks: &[&str]) -> DoorLimits {
    let networks = networks.iter().map(|text| text.parse::<IpNet>().unwrap());
    DoorLimits { deny: Arc::new(networks.collect()), ..DoorLimits::default() }
}

/// Everything that the gateway says to a client that says nothing.
fn heard_in_silence(rig: &mut Rig) -> String {
    let address = rig.address;
    let heard = rig.run(thread::spawn(move || Client::connect(address).rest().unwrap()));
    String::from_utf8(heard).unwrap()
}

#[test]
fn a_client_in_a_deny_list_is_told_403_before_it_says_anything() {
    let mut rig = limited(deny(&["127.0.0.0/8", "203.0.113.0/24"]));
    let told = heard_in_silence(&mut rig);
    assert!(told.starts_with("HTTP/1.1 403 ") && told.contains("This address"), "{told}");
    assert_eq!(status(&mut rig, &["Authorization: Bearer 1"]), 403);
    assert_eq!(outcomes(&rig, "denied"), 2);
    rig.until_nothing_is_left();
    let mut rig = limited(deny(&["203.0.113.0/24"]));
    assert_eq!(status(&mut rig, &["Authorization: Bearer 1"]), 101);
}

fn reload(rig: &mut Rig, door: DoorLimits) {
    let version = rig.engine.snapshot.version + 1;
    let new = Snapshot { version, door, ..(*rig.engine.snapshot).clone() };
    rig.tell(ToShard::Snapshot(Arc::new(new)));
    rig.until("the new snapshot", |engine| engine.snapshot.version == version);
}

#[test]
fn a_reload_changes_who_is_kept_out_and_ends_no_session() {
    let mut rig = limited(DoorLimits::default());
    let inside = opened(&mut rig, &["Authorization: Bearer 1"]);
    reload(&mut rig, deny(&["127.0.0.0/8"]));
    assert_eq!(status(&mut rig, &["Authorization: Bearer 2"]), 403);
    assert_eq!(rig.engine.sessions, 1);
    reload(&mut rig, DoorLimits::default());
    assert_eq!(status(&mut rig, &["Authorization: Bearer 2"]), 101);
    drop(inside);
    rig.until_nothing_is_left();
}

/// Clients whose requests do not end.
fn half_heads(rig: &mut Rig, count: usize) -> Vec<Client> {
    let there = rig.engine.table.len();
    let mut halves: Vec<_> = (0..count).map(|_| Client::connect(rig.address)).collect();
    halves.iter_mut().for_each(|half| half.write(b"GET /conn"));
    rig.until("they are there", |engine| engine.table.len() == there + count);
    halves
}

#[test]
fn an_address_may_have_so_many_unfinished_requests() {
    let limits = DoorLimits { unauthenticated_per_address: Some(2), ..DoorLimits::default() };
    let mut rig = limited(limits);
    let halves = half_heads(&mut rig, 2);
    let told = heard_in_silence(&mut rig);
    assert!(told.starts_with("HTTP/1.1 429 ") && told.contains("\r\nRetry-After: "), "{told}");
    assert_eq!(outcomes(&rig, "too_many_waiting"), 1);
    drop(halves);
    rig.until_nothing_is_left();
    // Whoever is let in waits no more.
    let inside: Vec<_> = ["1", "2", "3"]
        .map(|session| opened(&mut rig, &[&format!("Authorization: Bearer {session}")]))
        .into();
    assert_eq!(rig.engine.sessions, 3);
    assert_eq!(rig.engine.crowd.waiting(), 0);
    drop(inside);
    rig.until_nothing_is_left();
}

#[test]
fn a_crowd_at_the_door_is_told_503_and_beyond_that_nothing() {
    let limits = DoorLimits { unauthenticated_max: 2, ..DoorLimits::default() };
    let mut rig = limited(limits);
    let inside = opened(&mut rig, &["Authorization: Bearer 1"]);
    let mut halves = half_heads(&mut rig, 2);
    let told = answer(&mut rig, &["Authorization: Bearer 2"]);
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("\r\nRetry-After: "), "{told}");
    assert_eq!(outcomes(&rig, "crowded"), 1);
    // Health is told all the same.
    let address = rig.address;
    let healthy = rig.run(thread::spawn(move || {
        let mut client = Client::connect(address);
        client.write(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n");
        read_head(&mut client)
    }));
    assert!(healthy.starts_with("HTTP/1.1 200 "), "{healthy}");
    // Those who are answered wait for a second at most, so they come in a hurry.
    let give_up = Moment::now() + PATIENCE;
    while rig.engine.probe.shed_count(Shed::Unheard) == 0 {
        assert!(Moment::now() < give_up, "{} are waiting", rig.engine.crowd.waiting());
        halves.extend((0..16).map(|_| Client::connect(rig.address)));
        rig.turn();
    }
    drop(halves);
    rig.until("the crowd is gone", |engine| engine.crowd.waiting() == 0);
    assert_eq!(status(&mut rig, &["Authorization: Bearer 2"]), 101);
    drop(inside);
    rig.until_nothing_is_left();
}

#[test]
fn clients_who_come_too_fast_are_told_503() {
    let mut rig = limited(DoorLimits::default());
    let limits = DoorLimits { handshakes_per_second: Some(2), ..DoorLimits::default() };
    reload(&mut rig, limits);
    // The clock stands still but for what the test takes.
    let told: Vec<_> =
        (0..20).map(|_| status(&mut rig, &["Authorization: Bearer nobody"])).collect();
    let refused = told.iter().filter(|status| **status == 503).count() as u64;
    assert_eq!(told[..2], [401, 401]);
    assert!(refused > 0 && told.iter().all(|status| [401, 503].contains(status)), "{told:?}");
    assert_eq!(outcomes(&rig, "too_fast"), refused);
    rig.ahead += Duration::from_secs(1);
    assert_eq!(status(&mut rig, &["Authorization: Bearer nobody"]), 401);
}

#[test]
fn new_connections_are_refused_when_memory_runs_short_and_let_in_again() {
    // A fraction of the pool: one block is enough.
    let limits = DoorLimits { shed_connections_per_million: 30, ..DoorLimits::default() };
    let mut rig = limited(DoorLimits::default());
    reload(&mut rig, limits);
    let mut inside = opened(&mut rig, &["Authorization: Bearer 1"]);
    let begun = whole(BINARY, &[7; 1200]);
    let half = rig.engine.probe.bytes_in.read() + 600;
    inside.write(&begun[..600]);
    rig.until("half a message is read", |engine| engine.probe.bytes_in.read() == half);
    // What the turn has sent is settled by the next.
    rig.turn();
    assert_eq!(rig.engine.probe.memory_stage.read(), 1);
    let told = answer(&mut rig, &["Authorization: Bearer 2"]);
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    assert_eq!(outcomes(&rig, "short_of_memory"), 1);
    inside.write(&begun[600..]);
    rig.until("memory is back", |engine| engine.probe.memory_stage.read() == 0);
    assert_eq!(status(&mut rig, &["Authorization: Bearer 2"]), 101);
}
