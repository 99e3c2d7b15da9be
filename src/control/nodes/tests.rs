//! Two and more nodes, with the test in the place of the sockets between them.

mod handovers;
mod requests;
mod with_core;

use std::collections::VecDeque;
use std::time::Duration;

use corelane_shard::id::{ConnectionKey, Generation, ShardId, Slot};
use corelane_shard::lane::{Abroad, Acknowledge};
use corelane_shard::wire::guid::Guid;
use corelane_shard::wire::header::{Flags, RequestHeader};
use proptest::prelude::*;

use super::letters::WAITING_MAX;
use super::link::Outgoing;
use super::opening::OPENING_MAX;
use super::said::{Hello, Ticket};
use super::*;

const SALT: &str = "salt";

/// One node, and what it has heard.
struct Side {
    nodes: Nodes,
    told: mpsc::Receiver<LinkNews>,
    probe: Arc<ControlProbe>,
    heard: Vec<Heard>,
}

/// One end of a socket.
struct End {
    side: usize,
    seat: Seat,
}

/// The sockets between sides, and what is under way on them.
struct World {
    sides: Vec<Side>,
    wires: Vec<[End; 2]>,
    now: Instant,
}

fn url(side: usize) -> NodeUrl {
    NodeUrl::parse(&format!("ws://127.0.0.1:{}", 1000 + side)).unwrap()
}

fn instance(side: usize) -> Uuid {
    Uuid::from_u128(1 + side as u128)
}

/// Of nodes that know each other; node numbers are those of the sides and one.
fn rules(side: usize, sides: usize, broadcast: BroadcastMode) -> NodeRules {
    NodeRules {
        number: side as u16 + 1,
        broadcast,
        url: url(side),
        peers: (0..sides).map(url).collect(),
        token: None,
    }
}

fn side(at: usize, rules: NodeRules, salt: &str) -> Side {
    let probe = Arc::<ControlProbe>::default();
    let keys = PeerKeys::from_salt(salt);
    let (nodes, told) = Nodes::new(rules, instance(at), keys, 1, Arc::clone(&probe));
    Side { nodes, told, probe, heard: Vec::new() }
}

fn guid(side: usize, slot: u32) -> Guid {
    let route = PeerRoute {
        node: side as u16 + 1,
        shard: ShardId(0),
        slot: Slot(slot),
        generation: Generation(3),
    };
    PeerKeys::from_salt(SALT).encode(route)
}

fn message(guid: Guid, id: u64) -> Vec<u8> {
    let header =
        RequestHeader { flags: Flags::CLIENT, channel: 1, sequence: 2, guid, message_id: id };
    [&header.to_bytes()[..], b"payload"].concat()
}

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { slot: Slot(slot), generation: Generation(7) }
}

fn abroad(to: usize, id: u64, acknowledge: Acknowledge) -> Abroad {
    Abroad {
        from: key(9),
        node: to as u16 + 1,
        message: message(guid(to, 5), id).into(),
        priority: Priority::Normal,
        acknowledge,
    }
}

impl World {
    fn of(modes: &[BroadcastMode]) -> Self {
        let count = modes.len();
        let made = modes.iter().enumerate();
        let sides = made.map(|(at, mode)| side(at, rules(at, count, *mode), SALT)).collect();
        Self { sides, wires: Vec::new(), now: Instant(0) }
    }

    /// All of them, linked.
    fn linked(modes: &[BroadcastMode]) -> Self {
        let mut world = Self::of(modes);
        for at in 0..modes.len() {
            world.dial(at);
        }
        world.settle();
        let links = modes.len() as u64 - 1;
        assert!(world.sides.iter().all(|side| side.probe.nodes.open.read() == links));
        world
    }

    /// Everything that one side wants to dial now is accepted.
    fn dial(&mut self, from: usize) {
        while let Some(dial) = self.sides[from].nodes.next_dial(self.now) {
            let to = (0..self.sides.len()).find(|to| url(*to) == dial.url).unwrap();
            let accepted = self.sides[to].nodes.accept(dial.own, self.now).unwrap();
            let ends = [End { side: from, seat: dial.seat }, End { side: to, seat: accepted }];
            for end in &ends {
                self.tell(end.side, end.seat.link, What::Connected(Dialect::Node));
            }
            self.wires.push(ends);
        }
    }

    fn tell(&mut self, side: usize, link: LinkId, what: What) {
        let side = &mut self.sides[side];
        match side.nodes.hear(LinkNews { link, what }, self.now) {
            Heard::Nothing => {}
            heard => side.heard.push(heard),
        }
    }

    /// Carries at most one message, on the wire and in the direction of this number. Says whether
    /// there was one.
    fn carry(&mut self, number: usize) -> bool {
        if self.wires.is_empty() {
            return false;
        }
        let (at, direction) = (number / 2 % self.wires.len(), number % 2);
        let Ok(outgoing) = self.wires[at][direction].seat.queue.try_recv() else { return false };
        let other = &self.wires[at][1 - direction];
        let (side, link) = (other.side, other.seat.link);
        match outgoing {
            Outgoing::Message(bytes, _held) => self.tell(side, link, What::Said(bytes)),
            Outgoing::Close(..) => {
                self.tell(side, link, What::Ended(LinkEnd::Closed));
                self.wires.remove(at);
            }
        }
        true
    }

    fn cut(&mut self, number: usize) {
        if self.wires.is_empty() {
            return;
        }
        let ends = self.wires.remove(number % self.wires.len());
        for end in ends {
            self.tell(end.side, end.seat.link, What::Ended(LinkEnd::Lost));
        }
    }

    /// Until nothing is under way.
    fn settle(&mut self) {
        while (0..2 * self.wires.len()).any(|number| self.carry(number)) {}
    }

    fn heard(&mut self, side: usize) -> Vec<Heard> {
        std::mem::take(&mut self.sides[side].heard)
    }

    /// Message ids of the letters that a side has heard, which says of each whether it was delivered.
    fn answer_letters(&mut self, side: usize, delivered: bool) -> Vec<u64> {
        let mut ids = Vec::new();
        for heard in self.heard(side) {
            if let Heard::Letter { message, back, .. } = heard {
                ids.push(RequestHeader::parse(&message).unwrap().message_id);
                let now = self.now;
                assert!(self.sides[side].nodes.answer(back, &message, delivered, now).is_empty());
            }
        }
        ids
    }

    /// What senders of a side were told: message id and whether it was delivered.
    fn answers(&mut self, side: usize) -> Vec<(u64, bool)> {
        let mut told = Vec::new();
        for heard in self.heard(side) {
            if let Heard::Answers(waiting) = heard {
                for Waiting { shard, answer } in waiting {
                    assert_eq!((shard, answer.to), (ShardId(3), key(9)));
                    told.push((answer.reply.message_id, answer.delivered));
                }
            }
        }
        told
    }

    fn send(&mut self, from: usize, abroad: &Abroad) -> Result<(), NotRelayed> {
        self.sides[from].nodes.send(ShardId(3), abroad)
    }
}

use Acknowledge::{Always, OnRefusal};
use BroadcastMode::{Both, None as Neither, Receive, Send};

#[test]
fn nodes_that_dial_each_other_at_once_keep_one_link_and_dial_no_more() {
    let mut world = World::linked(&[Neither; 4]);
    assert_eq!(world.wires.len(), 6, "one for each pair");
    world.now = world.now + Duration::from_secs(600);
    for at in 0..4 {
        assert!(world.sides[at].nodes.next_dial(world.now).is_none());
        assert_eq!(world.sides[at].nodes.due(), None);
    }
}

#[test]
fn a_message_reaches_its_node_and_its_sender_hears_what_became_of_it() {
    let mut world = World::linked(&[Neither, Neither]);
    for (from, to) in [(0, 1), (1, 0)] {
        world.send(from, &abroad(to, 1, Always)).unwrap();
        world.send(from, &abroad(to, 2, OnRefusal)).unwrap();
        world.settle();
        let [Heard::Letter { route, message: first, .. }, _] = &world.sides[to].heard[..] else {
            panic!("{:?}", world.sides[to].heard)
        };
        assert_eq!((route.slot, &**first), (Slot(5), &*message(guid(to, 5), 1)));
        assert_eq!(world.answer_letters(to, true), [1, 2]);
        world.settle();
        assert_eq!(world.answers(from), [(1, true)], "the other wanted none");

        world.send(from, &abroad(to, 3, Always)).unwrap();
        world.send(from, &abroad(to, 4, OnRefusal)).unwrap();
        world.settle();
        assert_eq!(world.answer_letters(to, false), [3, 4]);
        world.settle();
        assert_eq!(world.answers(from), [(3, false), (4, false)]);
    }
}

#[test]
fn whoever_waits_for_an_answer_when_the_link_is_lost_is_told_and_the_link_comes_back() {
    let mut world = World::linked(&[Neither, Neither]);
    world.send(0, &abroad(1, 1, Always)).unwrap();
    world.send(0, &abroad(1, 2, OnRefusal)).unwrap();
    world.settle();
    world.cut(0);
    assert_eq!(world.answers(0), [(1, false)]);
    assert_eq!(world.sides[0].probe.nodes.count_of(NotRelayed::LinkLost), 1);
    assert_eq!(world.send(0, &abroad(1, 3, Always)), Err(NotRelayed::NoLink));
    // What the lost link still owed is owed no more.
    assert_eq!(world.answer_letters(1, true), [1, 2]);

    let due = world.sides.iter().filter_map(|side| side.nodes.due()).min().expect("a dial");
    assert!(due > world.now);
    world.now = due;
    world.dial(0);
    world.dial(1);
    world.settle();
    world.send(0, &abroad(1, 4, Always)).unwrap();
    world.settle();
    assert_eq!(world.answer_letters(1, true), [4]);
    world.settle();
    assert_eq!(world.answers(0), [(4, true)]);
}

#[test]
fn a_node_that_does_not_read_costs_no_more_than_its_queue() {
    let mut world = World::linked(&[Both, Neither, Both]);
    let room = link::QUEUE_MAX - link::ANSWERS_RESERVED;
    for id in 0..room as u64 {
        world.send(0, &abroad(1, id, OnRefusal)).unwrap();
    }
    assert_eq!(world.send(0, &abroad(1, 0, OnRefusal)), Err(NotRelayed::QueueFull));
    // The others are none the worse for it.
    world.send(0, &abroad(2, 7, OnRefusal)).unwrap();
    world.settle();
    assert_eq!(world.answer_letters(2, true), [7]);
    assert_eq!(world.answer_letters(1, true).len(), room);

    let long = Abroad {
        message: [message(guid(1, 5), 1), vec![0; 1 << 19]].concat().into(),
        ..abroad(1, 1, OnRefusal)
    };
    let sent = (0..100).take_while(|_| world.send(0, &long).is_ok()).count();
    assert!((8..16).contains(&sent), "{sent} of half a megabyte");
    world.settle();
    assert!(world.send(0, &long).is_ok(), "there is room again");
}

#[test]
fn so_many_may_wait_for_an_answer_and_no_more() {
    let mut world = World::linked(&[Neither, Neither]);
    for id in 0..WAITING_MAX as u64 {
        world.send(0, &abroad(1, id, Always)).unwrap();
        world.settle();
    }
    assert_eq!(world.send(0, &abroad(1, 0, Always)), Err(NotRelayed::AnswersFull));
    assert!(world.send(0, &abroad(1, 0, OnRefusal)).is_ok());
    world.settle();
    assert_eq!(world.answer_letters(1, true).len(), WAITING_MAX + 1);
    world.settle();
    assert_eq!(world.answers(0).len(), WAITING_MAX);
    assert!(world.send(0, &abroad(1, 0, Always)).is_ok());
}

#[test]
fn a_link_on_which_answers_find_no_room_is_closed_and_who_waits_there_is_told() {
    let mut world = World::linked(&[Neither, Neither]);
    world.send(1, &abroad(0, 77, Always)).unwrap();
    world.settle();
    world.send(0, &abroad(1, 1, Always)).unwrap();
    world.settle();
    let Some(Heard::Letter { message, back, .. }) = world.heard(1).pop() else { panic!("none") };
    let now = world.now;
    let nodes = &mut world.sides[1].nodes;
    let mut told = Vec::new();
    while told.is_empty() {
        told = nodes.answer(back, &message, true, now);
    }
    assert_eq!(told.len(), 1, "who had sent the other way");
    world.settle();
    let end = world.wires.pop().expect("its task reads on until it is empty");
    world.tell(end[0].side, end[0].seat.link, What::Ended(LinkEnd::Closed));
    world.tell(end[1].side, end[1].seat.link, What::Ended(LinkEnd::Closed));
    assert_eq!(world.sides[0].probe.nodes.open.read(), 0);
}

#[test]
fn broadcasts_cross_from_those_that_send_to_those_that_receive() {
    let modes = [Neither, Send, Receive, Both];
    for sender in modes {
        for receiver in modes {
            let mut world = World::linked(&[sender, receiver]);
            if sender.sends() {
                let broadcast = message(Guid::BROADCAST, 1);
                world.sides[0].nodes.broadcast(broadcast.clone().into(), Priority::Urgent);
                world.settle();
                let expected =
                    Heard::Broadcast { message: broadcast.into(), priority: Priority::Urgent };
                let expected = receiver.receives().then_some(expected);
                assert_eq!(world.heard(1), Vec::from_iter(expected), "{sender:?} {receiver:?}");
            }
            assert!(world.heard(0).is_empty());
        }
    }
}

#[test]
fn a_broadcast_of_a_node_that_may_not_send_is_dropped_and_counted() {
    let mut world = World::linked(&[Both, Send]);
    let link = world.wires[0].iter().find(|end| end.side == 1).unwrap().seat.link;
    let bytes =
        Said::Broadcast { message: message(Guid::BROADCAST, 1).into(), priority: Priority::Normal };
    world.tell(1, link, What::Said(bytes.encode()));
    assert!(world.heard(1).is_empty());
    assert_eq!(world.sides[1].probe.nodes.open.read(), 1);
}

#[test]
fn a_node_without_the_subprotocol_gets_broadcasts_as_they_are() {
    let mut world = World::of(&[Both]);
    let other = Uuid::from_u128(99);
    let mut seats = Vec::new();
    for _ in 0..2 {
        let seat = world.sides[0].nodes.accept(other, world.now).unwrap();
        world.tell(0, seat.link, What::Connected(Dialect::Broadcasts));
        seats.push(seat);
    }
    let broadcast = message(Guid::BROADCAST, 1);
    world.sides[0].nodes.broadcast(broadcast.clone().into(), Priority::Normal);
    assert!(seats[0].queue.try_recv().is_err(), "its newer link takes them");
    let Ok(Outgoing::Message(bytes, _)) = seats[1].queue.try_recv() else { panic!("nothing") };
    assert_eq!(*bytes, *broadcast);

    world.tell(0, seats[1].link, What::Said(broadcast.into()));
    assert!(matches!(world.heard(0)[..], [Heard::Broadcast { .. }]));
    let letter = Bytes::from(message(guid(0, 5), 1));
    world.tell(0, seats[1].link, What::Said(letter));
    let Ok(Outgoing::Close(1002, _)) = seats[1].queue.try_recv() else { panic!("it is open") };

    let mut silent = World::of(&[Neither]);
    let mut seat = silent.sides[0].nodes.accept(other, silent.now).unwrap();
    silent.tell(0, seat.link, What::Connected(Dialect::Broadcasts));
    assert!(matches!(seat.queue.try_recv(), Ok(Outgoing::Close(1000, _))));
}

#[test]
fn nodes_of_another_salt_or_with_the_same_number_get_no_link() {
    let strangers = side(1, rules(1, 2, Both), "another salt");
    let twin = side(1, NodeRules { number: 1, ..rules(1, 2, Both) }, SALT);
    for other in [strangers, twin] {
        let mut world = World::of(&[Both]);
        world.sides[0] = side(0, rules(0, 2, Both), SALT);
        world.sides.push(other);
        world.dial(0);
        world.settle();
        for side in &world.sides {
            assert_eq!(side.probe.nodes.open.read() + side.probe.nodes.opening.read(), 0);
        }
        let due = world.sides[0].nodes.due().expect("it is tried again");
        assert!(due > world.now);
    }
}

#[test]
fn a_node_that_reaches_itself_lets_go_and_does_not_try_again() {
    let mut world = World::of(&[Both]);
    // Under another name than its own.
    let mut own = rules(0, 1, Both);
    own.url = url(7);
    world.sides[0] = side(0, own, SALT);
    world.dial(0);
    world.settle();
    assert_eq!(world.sides[0].probe.nodes.open.read(), 0);
    world.now = world.now + Duration::from_secs(600);
    assert!(world.sides[0].nodes.next_dial(world.now).is_none());
}

#[test]
fn a_node_that_does_not_say_who_it_is_is_given_up() {
    let mut world = World::of(&[Both]);
    let mut seat = world.sides[0].nodes.accept(Uuid::from_u128(99), world.now).unwrap();
    world.tell(0, seat.link, What::Connected(Dialect::Node));
    assert!(matches!(seat.queue.try_recv(), Ok(Outgoing::Message(..))), "our hello");
    assert_eq!(world.sides[0].nodes.due(), Some(world.now + OPENING_MAX));
    world.sides[0].nodes.tick(world.now + OPENING_MAX);
    assert!(matches!(seat.queue.try_recv(), Ok(Outgoing::Close(1008, _))));
}

#[test]
fn a_letter_before_the_hello_and_a_second_hello_close_the_link() {
    let hello = |world: &World| {
        let route =
            PeerRoute { node: 2, shard: ShardId(0), slot: Slot(0), generation: Generation(0) };
        let proof = world.sides[0].nodes.keys.encode(route).to_string().into();
        Said::Hello(Hello {
            instance: instance(1),
            node: 2,
            broadcast: Both,
            proof,
            requests: true,
            handovers: true,
        })
        .encode()
    };
    let letter =
        said::letter(&message(guid(0, 5), 1), Priority::Normal, Ticket { number: 1, sender: 1 });
    for second_hello in [false, true] {
        let mut world = World::of(&[Both]);
        let seat = world.sides[0].nodes.accept(instance(1), world.now).unwrap();
        world.tell(0, seat.link, What::Connected(Dialect::Node));
        if second_hello {
            let hello = hello(&world);
            world.tell(0, seat.link, What::Said(hello.clone()));
            assert_eq!(world.sides[0].probe.nodes.open.read(), 1);
            world.tell(0, seat.link, What::Said(hello));
        } else {
            world.tell(0, seat.link, What::Said(letter.clone()));
        }
        assert_eq!(world.sides[0].probe.nodes.open.read(), 0);
        assert!(world.heard(0).is_empty());
    }
}

#[test]
fn a_letter_for_nobody_of_this_node_comes_back_refused() {
    let mut world = World::linked(&[Neither, Neither]);
    let mut forged = guid(1, 5);
    forged.0[0] ^= 1;
    for (id, guid) in [(1, guid(0, 5)), (2, forged)] {
        let astray = Abroad { message: message(guid, id).into(), ..abroad(1, id, Always) };
        world.send(0, &astray).unwrap();
        world.settle();
        assert!(world.heard(1).is_empty());
        assert_eq!(world.answers(0), [(id, false)]);
    }
    assert_eq!(world.sides[1].probe.nodes.count_of(NotRelayed::NotHere), 2);
}

#[test]
fn a_restarted_node_takes_its_number_over() {
    let mut world = World::linked(&[Neither, Neither]);
    // Its old socket is not yet known to be dead.
    let old = world.wires.pop().unwrap();
    let mut restarted = side(1, rules(1, 2, Neither), SALT);
    restarted.nodes.instance = Uuid::from_u128(50);
    world.sides[1] = restarted;
    world.dial(1);
    world.settle();
    assert_eq!(world.sides[0].probe.nodes.open.read(), 1);
    world.send(0, &abroad(1, 1, Always)).unwrap();
    world.settle();
    assert_eq!(world.answer_letters(1, true), [1]);
    drop(old);
}

#[test]
fn a_shutdown_closes_every_link_and_begins_none() {
    let mut world = World::linked(&[Neither; 3]);
    let now = world.now;
    world.sides[0].nodes.shut_down(now);
    world.settle();
    assert_eq!(world.sides[1].probe.nodes.open.read(), 1);
    assert!(world.sides[0].nodes.accept(instance(1), now).is_none());
    assert!(world.sides[0].nodes.next_dial(now + Duration::from_secs(600)).is_none());
}

#[derive(Debug, Clone)]
enum Step {
    Dial(usize),
    Carry(usize),
    Cut(usize),
    Say(usize),
    Wait,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..2_usize).prop_map(Step::Dial),
        8 => (0..8_usize).prop_map(Step::Carry),
        1 => (0..8_usize).prop_map(Step::Cut),
        3 => (0..2_usize).prop_map(Step::Say),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    /// Whatever is dialled, lost and delayed: what arrives is in order, whoever waits is told once,
    /// and in the end there is one link.
    #[test]
    fn two_nodes_find_each_other(steps in proptest::collection::vec(any_step(), 0..120)) {
        let mut world = World::of(&[Neither, Neither]);
        let (mut next, mut newest) = (0_u64, [0_u64; 2]);
        let mut waiting = [VecDeque::new(), VecDeque::new()];
        for step in steps {
            match step {
                Step::Dial(at) => world.dial(at),
                Step::Carry(number) => {
                    world.carry(number);
                }
                Step::Cut(number) => world.cut(number),
                Step::Say(from) => {
                    next += 1;
                    if world.send(from, &abroad(1 - from, next, Always)).is_ok() {
                        waiting[from].push_back(next);
                    }
                }
                Step::Wait => world.now = world.now + Duration::from_secs(1),
            }
            for at in 0..2 {
                let mut told = Vec::new();
                for heard in world.heard(at) {
                    match heard {
                        Heard::Letter { message, back, .. } => {
                            let id = RequestHeader::parse(&message).unwrap().message_id;
                            prop_assert!(id > newest[at], "{id} behind {}", newest[at]);
                            newest[at] = id;
                            let now = world.now;
                            let ended = world.sides[at].nodes.answer(back, &message, true, now);
                            prop_assert!(ended.is_empty());
                        }
                        Heard::Answers(answered) => told.extend(answered),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                for Waiting { answer, .. } in told {
                    let id = answer.reply.message_id;
                    let place = waiting[at].iter().position(|waits| *waits == id);
                    prop_assert!(place.is_some(), "{id} was told already");
                    waiting[at].remove(place.unwrap());
                }
            }
        }
        for _ in 0..40 {
            world.now = world.now + Duration::from_secs(1);
            world.dial(0);
            world.dial(1);
            world.settle();
        }
        for side in &world.sides {
            prop_assert_eq!(side.probe.nodes.open.read(), 1);
            prop_assert_eq!(side.probe.nodes.opening.read(), 0);
        }
        for from in 0..2 {
            world.heard(1 - from);
            prop_assert_eq!(world.send(from, &abroad(1 - from, next + 1, Always)), Ok(()));
            world.settle();
            prop_assert_eq!(world.answer_letters(1 - from, true), vec![next + 1]);
        }
    }
}
