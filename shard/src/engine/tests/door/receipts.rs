//! Pings that follow events, and the Pongs that answer them.

use super::*;
use crate::id::Place;
use crate::lane::{Content, Delivery};

/// Events until a Ping follows them at once.
const EVENTS: u64 = 64;
/// Messages that the rig's lane holds.
const LANE: u64 = 16;

#[test]
fn pongs_to_the_pings_behind_events_do_not_count_as_control_frames_of_the_client() {
    let mut shape = shape();
    shape.session.control_frames_per_second = 2;
    let mut rig = shape.build();
    let client = opened(&mut rig, &["Authorization: Bearer 7"]);
    let (mut client, _, _manifest) = next(&mut rig, client);
    let key = rig.engine.table.iter().map(|(key, _)| key).next().unwrap();
    // Three rounds fall into one second on any machine, and one of them is beyond the bound.
    for round in 0..6 {
        for place in round * EVENTS..(round + 1) * EVENTS {
            let content = Content::Event(b"{}"[..].into());
            let delivery =
                Delivery { key, epoch: Epoch(1), place: Some(Place(1 + place)), content };
            rig.tell(ToShard::Deliver(delivery));
            if (place + 1).is_multiple_of(LANE) {
                rig.until("the lane is empty", |engine| {
                    engine.probe.events_delivered.read() == place + 1
                });
            }
        }
        client = rig.run(thread::spawn(move || {
            let mut events = 0;
            loop {
                match client.next().unwrap() {
                    (BINARY, _) => events += 1,
                    (PING, payload) => {
                        assert_eq!(events, EVENTS);
                        client.send(PONG, &payload);
                        return client;
                    }
                    other => panic!("{other:?} in round {round}"),
                }
            }
        }));
    }
    let told = rig.run(thread::spawn(move || {
        // They are the client's own.
        for _ in 0..3 {
            client.send(PING, b"");
        }
        let close = |(opcode, payload): (u8, Vec<u8>)| (opcode == CLOSE).then_some(payload);
        std::iter::from_fn(|| client.next().ok()).find_map(close)
    }));
    assert_eq!(told.as_deref().map(|reason| &reason[..2]), Some(&1008_u16.to_be_bytes()[..]));
}
