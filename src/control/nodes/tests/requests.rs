//! Requests of services to the node that has the session, and nodes that find each other in the
//! registry.

use super::*;
use crate::control::registry::NodeRecord;

type Told = tokio::sync::oneshot::Receiver<Result<Response, NoResponse>>;

const WITHIN: Duration = Duration::from_secs(10);

fn request(number: usize) -> Request {
    Request { route: Route::Rpc, body: number.to_string().into() }
}

fn response(number: usize) -> Response {
    Response { status: 200, problem: false, body: format!("to {number}").into() }
}

impl World {
    fn ask(&mut self, from: usize, to: usize, number: usize) -> Told {
        let (answer, told) = tokio::sync::oneshot::channel();
        let now = self.now;
        self.sides[from].nodes.request(instance(to), request(number), WITHIN, answer, now);
        told
    }

    /// What a side is asked and has not answered.
    fn asked(&mut self, side: usize) -> Vec<(Origin, Request)> {
        let asked = |heard| match heard {
            Heard::Request(origin, request) => (origin, request),
            other => panic!("{other:?}"),
        };
        self.heard(side).into_iter().map(asked).collect()
    }
}

#[test]
fn a_request_reaches_its_node_and_the_response_whoever_asked() {
    let mut world = World::linked(&[Neither; 3]);
    let mut told: Vec<Told> = (0..4).map(|number| world.ask(0, 1 + number % 2, number)).collect();
    world.settle();
    for side in [1, 2] {
        let asked = world.asked(side);
        assert_eq!(asked.len(), 2);
        // In whatever order.
        for (origin, Request { body, .. }) in asked.into_iter().rev() {
            let number: usize = std::str::from_utf8(&body).unwrap().parse().unwrap();
            world.sides[side].nodes.respond(origin, response(number));
        }
    }
    world.settle();
    for (number, told) in told.iter_mut().enumerate() {
        assert_eq!(told.try_recv(), Ok(Ok(response(number))));
    }
    assert_eq!(world.sides[0].nodes.due(), None, "nobody waits");
    assert!(world.sides.iter().all(|side| side.nodes.answering == 0));
}

#[test]
fn who_cannot_be_asked_is_told_apart_at_once() {
    let mut world = World::linked(&[Neither, Neither]);
    assert_eq!(world.ask(0, 2, 1).try_recv(), Ok(Err(NoResponse::NoLink)));
    let mut waiting: Vec<Told> = (0..32).map(|number| world.ask(0, 1, number)).collect();
    assert_eq!(world.ask(0, 1, 32).try_recv(), Ok(Err(NoResponse::TooMany)));
    world.settle();
    let asked = world.asked(1);
    world.sides[1].nodes.respond(asked[0].0, response(0));
    world.settle();
    assert_eq!(waiting[0].try_recv(), Ok(Ok(response(0))));
    let mut next = world.ask(0, 1, 33);
    assert!(next.try_recv().is_err(), "there is room again");

    world.cut(0);
    for told in waiting[1..].iter_mut().chain([&mut next]) {
        assert_eq!(told.try_recv(), Ok(Err(NoResponse::LinkLost)));
    }
    // What was asked over the lost link is answered to nobody.
    for (origin, _) in &asked[1..] {
        world.sides[1].nodes.respond(*origin, response(0));
    }
    assert_eq!(world.sides[1].nodes.answering, 0);
}

#[test]
fn a_request_is_given_up_when_its_time_is_over() {
    let mut world = World::linked(&[Neither, Neither]);
    let mut told = world.ask(0, 1, 1);
    world.settle();
    let end = world.now + WITHIN;
    assert_eq!(world.sides[0].nodes.due(), Some(end));
    world.sides[0].nodes.tick(end);
    assert_eq!(told.try_recv(), Ok(Err(NoResponse::Late)));
    let [(origin, _)] = world.asked(1)[..] else { panic!("it was asked") };
    world.sides[1].nodes.respond(origin, response(1));
    world.settle();
    assert_eq!(world.sides[0].probe.nodes.open.read(), 1, "a late answer is no fault");
}

#[test]
fn a_node_answers_so_many_requests_at_a_time_and_no_more() {
    let mut world = World::linked(&[Neither, Neither]);
    let end = world.wires[0].iter().position(|end| end.side == 1).unwrap();
    let link = world.wires[0][end].seat.link;
    for number in 0..=ANSWERING_MAX {
        let said = Said::Request { number: number as u32 + 1, request: request(number) };
        world.tell(1, link, What::Said(said.encode()));
    }
    assert_eq!(world.asked(1).len(), ANSWERING_MAX);
    let Ok(Outgoing::Message(bytes, _)) = world.wires[0][end].seat.queue.try_recv() else {
        panic!("the last is not answered")
    };
    let Ok(Said::Response { number, response }) = Said::decode(&bytes) else { panic!("{bytes:?}") };
    assert_eq!((number as usize, response.status), (ANSWERING_MAX + 1, 503));
}

#[test]
fn a_node_of_an_earlier_version_is_not_asked() {
    let mut world = World::of(&[Neither]);
    let mut seat = world.sides[0].nodes.accept(instance(1), world.now).unwrap();
    world.tell(0, seat.link, What::Connected(Dialect::Node));
    let proof = guid_of_node(2).to_string().into();
    let (instance, broadcast) = (instance(1), Both);
    let hello = Hello { instance, node: 2, broadcast, proof, requests: false, handovers: false };
    world.tell(0, seat.link, What::Said(Said::Hello(hello).encode()));
    assert_eq!(world.sides[0].probe.nodes.open.read(), 1);
    assert_eq!(world.ask(0, 1, 1).try_recv(), Ok(Err(NoResponse::Unable)));
    let taken = TakenUp { session: SessionId(1), epoch: Epoch(2), before: Epoch(1) };
    assert!(!world.sides[0].nodes.take_up(instance, taken));
    let said = std::iter::from_fn(|| seat.queue.try_recv().ok()).count();
    assert_eq!(said, 2, "hello and use");
}

fn guid_of_node(node: u16) -> Guid {
    let route = PeerRoute { node, shard: ShardId(0), slot: Slot(0), generation: Generation(0) };
    PeerKeys::from_salt(SALT).encode(route)
}

fn record(side: usize) -> NodeRecord {
    NodeRecord { instance: instance(side), url: url(side), broadcast: Both }
}

#[test]
fn nodes_of_the_registry_are_linked_until_they_are_there_no_longer() {
    let mut world = World::of(&[Both; 3]);
    for at in 0..3 {
        let alone = NodeRules { peers: Vec::new(), ..rules(at, 3, Both) };
        world.sides[at] = side(at, alone, SALT);
    }
    // Two that are there; then another joins, and all see it.
    for there in [2, 3] {
        let records: Vec<_> = (0..there).rev().map(record).collect();
        for at in 0..there {
            world.sides[at].nodes.found(&records, world.now);
            world.dial(at);
        }
        world.settle();
    }
    assert_eq!(world.wires.len(), 3, "one for each pair");
    for side in &mut world.sides {
        assert_eq!((side.probe.nodes.open.read(), side.probe.nodes.found.read()), (2, 2));
        assert!(!side.nodes.take_lost_found());
    }
    // The last one goes.
    let now = world.now;
    world.sides[2].nodes.shut_down(now);
    world.settle();
    for at in 0..2 {
        assert!(world.sides[at].nodes.take_lost_found(), "it may have left the registry");
        assert!(!world.sides[at].nodes.take_lost_found(), "once");
        assert!(world.sides[at].nodes.due().is_some(), "until that is known");
        world.sides[at].nodes.found(&[record(1), record(0)], now);
        assert_eq!(world.sides[at].nodes.due(), None);
        assert_eq!(world.sides[at].probe.nodes.open.read(), 1, "the other link stands");
    }
}

#[test]
fn a_node_of_another_make_that_both_dial_gets_a_broadcast_once() {
    let mut world = World::of(&[Both]);
    let alone = NodeRules { peers: Vec::new(), ..rules(0, 1, Both) };
    world.sides[0] = side(0, alone, SALT);
    world.sides[0].nodes.found(&[record(1)], world.now);
    let dialled = world.sides[0].nodes.next_dial(world.now).expect("it is in the registry").seat;
    let accepted = world.sides[0].nodes.accept(instance(1), world.now).unwrap();
    let mut seats = [dialled, accepted];
    for seat in &seats {
        world.tell(0, seat.link, What::Connected(Dialect::Broadcasts));
    }
    let broadcast = message(Guid::BROADCAST, 1);
    world.sides[0].nodes.broadcast(broadcast.into(), Priority::Normal);
    let sent = seats.iter_mut().filter_map(|seat| seat.queue.try_recv().ok()).count();
    assert_eq!(sent, 1);
}
