//! What links tell, between the shards' lanes and the links: turns of the control core with lanes
//! made of queues.

use corelane_shard::clock::Now;
use corelane_shard::lane::{FromAbroad, ToControl, ToShard};

use super::*;
use crate::control::Settings;
use crate::control::bus::EmbeddedBus;
use crate::control::fixtures::{self, Lane};
use crate::control::store::EmbeddedStore;
use crate::control::turn::{Core, CoreParts};
use crate::lifecycle::PhaseCell;
use crate::lifecycle::drain::DrainPlan;

struct Bench {
    core: Core<Lane, EmbeddedStore, EmbeddedBus>,
    lanes: [Lane; 2],
    probe: Arc<ControlProbe>,
    /// The other node's end of the link.
    seat: Option<Seat>,
}

const NOW: Now = Now { mono: Instant(0), unix_ms: 1 };

impl Bench {
    fn alone() -> Self {
        let lanes = [Lane::default(), Lane::default()];
        let probe = Arc::<ControlProbe>::default();
        let rules = fixtures::rules(1000);
        let moment = Duration::from_secs(1);
        let drain = DrainPlan { grace: moment, spread: moment, calls: moment, deadline: moment };
        let core = Core::new(CoreParts {
            ports: lanes.to_vec(),
            store: EmbeddedStore::new(SALT, rules.store),
            bus: EmbeddedBus::default(),
            snapshot: fixtures::snapshot_of(&[("demo", "/demo/echo")]),
            targets: Vec::new(),
            settings: Settings {
                rules,
                drain,
                resolve_refresh: moment,
                unknown_key_interval: moment,
            },
            phase: Arc::<PhaseCell>::default(),
            probe: Arc::clone(&probe),
            seed: 1,
        });
        Self { core, lanes, probe, seat: None }
    }

    /// Node 1, with an open link to node 2.
    fn linked() -> Self {
        let mut this = Self::alone();
        let Side { mut nodes, told, .. } = side(0, rules(0, 2, Both), SALT);
        nodes.probe = Arc::clone(&this.probe);
        let mut seat = nodes.accept(instance(1), NOW.mono).unwrap();
        let link = seat.link;
        let route =
            PeerRoute { node: 2, shard: ShardId(0), slot: Slot(0), generation: Generation(0) };
        let proof = nodes.keys.encode(route).to_string().into();
        let hello = Said::Hello(Hello {
            instance: instance(1),
            node: 2,
            broadcast: Both,
            proof,
            requests: true,
            handovers: true,
        });
        nodes.hear(LinkNews { link, what: What::Connected(Dialect::Node) }, NOW.mono);
        nodes.hear(LinkNews { link, what: What::Said(hello.encode()) }, NOW.mono);
        assert_eq!(this.probe.nodes.open.read(), 1);
        // Hello and use.
        while seat.queue.try_recv().is_ok() {}
        drop(told);
        (this.core.nodes, this.seat) = (Some(nodes), Some(seat));
        this
    }

    fn turn(&mut self) {
        self.core.turn(NOW);
    }

    /// The other node says something.
    fn hears(&mut self, said: &Said) {
        let link = self.seat.as_ref().expect("it is linked").link;
        let what = What::Said(said.encode());
        self.core.hear_link(LinkNews { link, what }, NOW);
    }

    fn hears_letter(&mut self, shard: u8, number: u32) {
        let route =
            PeerRoute { node: 1, shard: ShardId(shard), slot: Slot(5), generation: Generation(3) };
        let guid = PeerKeys::from_salt(SALT).encode(route);
        let ticket = Ticket { number, sender: 77 };
        let message = message(guid, number.into()).into();
        self.hears(&Said::Letter { message, priority: Priority::Normal, ticket });
    }

    /// What was said to the other node.
    fn said(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        while let Ok(outgoing) = self.seat.as_mut().unwrap().queue.try_recv() {
            let Outgoing::Message(bytes, _) = outgoing else { panic!("{outgoing:?}") };
            said.push(Said::decode(&bytes).unwrap());
        }
        said
    }

    /// Numbers of the letters that were answered, and how.
    fn answered(&mut self) -> Vec<(u32, bool)> {
        let answer = |said| match said {
            Said::Answer { delivered, ticket: Ticket { number, sender: 77 }, .. } => {
                (number, delivered)
            }
            other => panic!("{other:?}"),
        };
        self.said().into_iter().map(answer).collect()
    }

    fn heard(&self, shard: usize) -> Vec<ToShard> {
        self.lanes[shard].heard()
    }

    #[expect(clippy::vec_box, reason = "lanes carry them in boxes")]
    fn letters(&self, shard: usize) -> Vec<Box<FromAbroad>> {
        let letter = |message| match message {
            ToShard::FromAbroad(letter) => letter,
            other => panic!("{other:?}"),
        };
        self.heard(shard).into_iter().map(letter).collect()
    }

    fn shard_says(&self, shard: usize, message: ToControl) {
        self.lanes[shard].says(message);
    }
}

#[test]
fn a_letter_reaches_its_shard_and_what_became_of_it_the_other_node() {
    let mut bench = Bench::linked();
    for (shard, delivered) in [(0, true), (1, false)] {
        bench.hears_letter(shard, 1);
        bench.hears_letter(shard, 0);
        bench.turn();
        let letters = bench.letters(shard.into());
        assert_eq!(letters.len(), 2);
        for letter in letters {
            let target = ConnectionKey { slot: Slot(5), generation: Generation(3) };
            assert_eq!(letter.target, target);
            bench.shard_says(shard.into(), ToControl::Arrived { letter, delivered });
        }
        bench.turn();
        let expected = if delivered { vec![(1, true)] } else { vec![(1, false), (0, false)] };
        assert_eq!(bench.answered(), expected);
    }
    assert!(
        bench.core.handling.iter().all(|it| *it == crate::control::abroad::Handling::default())
    );
}

#[test]
fn a_letter_for_a_shard_without_room_or_that_is_not_there_is_refused_at_once() {
    let mut bench = Bench::linked();
    bench.lanes[1].is_stuck(true);
    bench.hears_letter(1, 1);
    bench.hears_letter(2, 2);
    bench.hears_letter(0, 3);
    assert_eq!(bench.answered(), [(1, false), (2, false)]);
    assert_eq!(bench.letters(0).len(), 1);
    assert_eq!(bench.probe.nodes.count_of(NotRelayed::LaneFull), 1);
    assert_eq!(bench.probe.nodes.count_of(NotRelayed::NotHere), 1);
}

#[test]
fn an_answer_does_not_keep_a_letter_that_comes_behind_it_out() {
    let mut bench = Bench::linked();
    bench.shard_says(1, ToControl::Abroad(Box::new(abroad(1, 9, Always))));
    bench.turn();
    let [Said::Letter { message, ticket, .. }] = &bench.said()[..] else { panic!("no letter") };
    let header = RequestHeader::parse(message).unwrap();
    bench.hears(&Said::Answer { header, delivered: true, ticket: *ticket });
    // Of the same bunch, without a turn between.
    bench.hears_letter(1, 1);
    assert_eq!(bench.answered(), [], "nothing is refused");
    let heard = bench.heard(1);
    assert!(matches!(heard[..], [ToShard::AbroadAnswered(_), ToShard::FromAbroad(_)]), "{heard:?}");
}

#[test]
fn so_many_letters_are_under_way_to_a_shard_and_no_more() {
    let mut bench = Bench::linked();
    for number in 1..=1025 {
        bench.hears_letter(0, number);
    }
    assert_eq!(bench.answered(), [(1025, false)]);
    let letter = bench.letters(0).pop().unwrap();
    bench.shard_says(0, ToControl::Arrived { letter, delivered: true });
    bench.turn();
    assert_eq!(bench.answered(), [(1024, true)]);
    bench.hears_letter(0, 1026);
    assert_eq!(bench.letters(0).len(), 1);
}

#[test]
fn a_broadcast_of_another_node_reaches_every_shard_as_a_frame() {
    let mut bench = Bench::linked();
    bench.lanes[1].is_stuck(true);
    let message = message(Guid::BROADCAST, 1);
    let said = Said::Broadcast { message: message.clone().into(), priority: Priority::Urgent };
    bench.hears(&said);
    let [ToShard::BroadcastFromAbroad { frame, priority: Priority::Urgent }] = &bench.heard(0)[..]
    else {
        panic!("shard 0 hears nothing")
    };
    assert_eq!(frame[..2], [0x82, message.len() as u8]);
    assert_eq!(frame[2..], message);
    bench.lanes[1].is_stuck(false);
    bench.turn();
    assert!(bench.heard(1).is_empty(), "what had no room is lost, and counted");
}

#[test]
fn a_message_to_a_node_without_a_link_is_refused_to_its_sender() {
    for mut bench in [Bench::alone(), Bench::linked()] {
        bench.shard_says(1, ToControl::Abroad(Box::new(abroad(6, 9, OnRefusal))));
        bench.turn();
        let [ToShard::AbroadAnswered(answer)] = &bench.heard(1)[..] else { panic!("no answer") };
        assert_eq!((answer.to, answer.delivered, answer.reply.message_id), (key(9), false, 9));
        assert_eq!(bench.probe.nodes.count_of(NotRelayed::NoLink), 1);
    }
}

#[test]
fn a_message_to_another_node_is_answered_when_that_answers() {
    let mut bench = Bench::linked();
    bench.shard_says(1, ToControl::Abroad(Box::new(abroad(1, 9, Always))));
    bench.shard_says(
        0,
        ToControl::BroadcastAbroad {
            message: message(Guid::BROADCAST, 1).into(),
            priority: Priority::Normal,
        },
    );
    bench.turn();
    let said = bench.said();
    let [Said::Broadcast { .. }, Said::Letter { message, ticket, .. }] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(bench.heard(1).is_empty());
    let header = RequestHeader::parse(message).unwrap();
    bench.hears(&Said::Answer { header, delivered: true, ticket: *ticket });
    bench.turn();
    let [ToShard::AbroadAnswered(answer)] = &bench.heard(1)[..] else { panic!("no answer") };
    assert_eq!((answer.to, answer.delivered), (key(9), true));
    bench.hears(&Said::Answer { header, delivered: true, ticket: *ticket });
    bench.turn();
    assert!(bench.heard(1).is_empty(), "once");
}
