use proptest::prelude::*;

use super::*;
use crate::id::ServiceId;

fn limits() -> SessionLimits {
    SessionLimits {
        calls_running_max: 4,
        calls_waiting_max: 6,
        calls_waiting_bytes_max: 600,
        answers_held_max: 3,
        answers_held_bytes_max: 300,
        ..SessionLimits::default()
    }
}

fn call(channel: u16, transport: Transport) -> Request {
    Request {
        reply_to: ReplyTo {
            flags: 0,
            channel,
            sequence: 0,
            message_id: 0,
        },
        service: ServiceId(0),
        transport,
        reply: Reply::Wanted,
        bytes: 10,
        deadline: Instant(0),
    }
}

fn numbered(message_id: u64, call: Request) -> Request {
    Request {
        reply_to: ReplyTo {
            message_id,
            ..call.reply_to
        },
        ..call
    }
}

type Numbers = Calls<u64, u64>;

fn admit(calls: &mut Numbers, call: Request) -> Admission {
    calls.admit(call, &limits(), Credit::Available, || {
        Some(call.reply_to.message_id)
    })
}

fn dispatched(admission: Admission) -> CallId {
    match admission {
        Admission::Dispatch(id) => id,
        other => panic!("expected to be dispatched: {other:?}"),
    }
}

fn next(calls: &mut Numbers) -> Option<Dispatch<u64>> {
    calls.next_to_dispatch(&limits(), |_| true)
}

#[test]
fn an_http_call_waits_for_the_earlier_one_of_its_channel_alone() {
    let mut calls = Numbers::default();
    let first = dispatched(admit(&mut calls, call(1, Transport::Http)));
    let Admission::Wait(second) = admit(&mut calls, numbered(2, call(1, Transport::Http))) else {
        panic!("the channel is busy");
    };
    dispatched(admit(&mut calls, call(2, Transport::Http)));
    dispatched(admit(&mut calls, call(1, Transport::Link)));
    assert_eq!(next(&mut calls), None);
    calls.answered(first, 0, &limits(), || None);
    let go = next(&mut calls).expect("the channel is free");
    assert_eq!((go.id, go.payload), (second, 2));
}

#[test]
fn an_early_answer_of_a_link_leaves_behind_the_http_call_before_it() {
    let mut calls = Numbers::default();
    let http = dispatched(admit(&mut calls, numbered(1, call(7, Transport::Http))));
    let link = dispatched(admit(&mut calls, numbered(2, call(7, Transport::Link))));
    assert_eq!(
        calls.answered(link, 5, &limits(), || Some(99)),
        Answered::Held
    );
    assert_eq!(calls.pop_ready(), None);
    let Answered::Leaves(first) = calls.answered(http, 5, &limits(), || None) else {
        panic!("it is the first of its channel");
    };
    assert_eq!(first.message_id, 1);
    let Some(Ready::Answer(second, 99)) = calls.pop_ready() else {
        panic!("was held")
    };
    assert_eq!(second.message_id, 2);
    assert!(calls.is_idle());
}

#[test]
fn an_answer_too_large_to_hold_becomes_60_in_its_place() {
    let mut calls = Numbers::default();
    let first = dispatched(admit(&mut calls, call(7, Transport::Link)));
    let early = dispatched(admit(&mut calls, numbered(2, call(7, Transport::Link))));
    let unstored = dispatched(admit(&mut calls, numbered(3, call(7, Transport::Link))));
    let kept = |_| panic!("must not be stored");
    assert_eq!(
        calls.answered(early, 301, &limits(), || kept(())),
        Answered::Displaced
    );
    assert_eq!(
        calls.answered(unstored, 1, &limits(), || None),
        Answered::Displaced
    );
    calls.fail(first, 60);
    assert!(matches!(calls.pop_ready(), Some(Ready::Failure(r, 60)) if r.message_id == 2));
    assert!(matches!(calls.pop_ready(), Some(Ready::Failure(r, 60)) if r.message_id == 3));
    assert_eq!(calls.pop_ready(), None);
}

#[test]
fn a_late_answer_is_recognised_even_when_its_place_is_taken_again() {
    let mut calls = Numbers::default();
    let old = dispatched(admit(&mut calls, call(1, Transport::Link)));
    assert!(calls.fail(old, 60).is_some_and(|f| f.leaves.is_some()));
    let new = dispatched(admit(&mut calls, call(1, Transport::Link)));
    assert_ne!(old, new);
    assert_eq!(calls.answered(old, 0, &limits(), || None), Answered::Late);
    assert_eq!(calls.fail(old, 60), None);
    calls.drain(|_| {});
    assert_eq!(calls.answered(new, 0, &limits(), || None), Answered::Late);
}

#[test]
fn an_event_request_occupies_the_line_and_answers_nothing() {
    let mut calls = Numbers::default();
    let event = Request {
        reply: Reply::None,
        ..call(3, Transport::Http)
    };
    let event = dispatched(admit(&mut calls, event));
    let link = dispatched(admit(&mut calls, call(3, Transport::Link)));
    assert!(matches!(
        admit(&mut calls, call(3, Transport::Http)),
        Admission::Wait(_)
    ));
    assert!(matches!(
        calls.answered(link, 0, &limits(), || None),
        Answered::Leaves(_)
    ));
    assert_eq!(next(&mut calls), None);
    assert_eq!(
        calls.answered(event, 9, &limits(), || None),
        Answered::Silent
    );
    assert!(next(&mut calls).is_some());
}

#[test]
fn a_link_call_without_credit_waits_and_holds_back_only_its_own_service() {
    let mut calls = Numbers::default();
    let starved = call(1, Transport::Link);
    let admission = calls.admit(starved, &limits(), Credit::Exhausted, || Some(1));
    assert!(matches!(admission, Admission::Wait(_)));
    assert!(matches!(
        admit(&mut calls, call(2, Transport::Link)),
        Admission::Wait(_)
    ));
    let other = Request {
        service: ServiceId(9),
        ..call(3, Transport::Link)
    };
    dispatched(admit(&mut calls, other));
    let mut asked = 0;
    let none = calls.next_to_dispatch(&limits(), |_| {
        asked += 1;
        false
    });
    assert_eq!((none, asked), (None, 1));
    assert_eq!(next(&mut calls).map(|d| d.call.reply_to.channel), Some(1));
    assert_eq!(next(&mut calls).map(|d| d.call.reply_to.channel), Some(2));
}

#[test]
fn a_full_line_refuses_and_a_call_that_cannot_be_kept_is_refused() {
    let mut calls = Numbers::default();
    for channel in 0..4 {
        dispatched(admit(&mut calls, call(channel, Transport::Http)));
    }
    let unkept = calls.admit(
        call(9, Transport::Http),
        &limits(),
        Credit::Available,
        || None,
    );
    assert_eq!(unkept, Admission::Refused);
    let large = Request {
        bytes: 601,
        ..call(9, Transport::Http)
    };
    assert_eq!(admit(&mut calls, large), Admission::Refused);
    for channel in 10..16 {
        assert!(matches!(
            admit(&mut calls, call(channel, Transport::Http)),
            Admission::Wait(_)
        ));
    }
    assert_eq!(
        admit(&mut calls, call(20, Transport::Http)),
        Admission::Refused
    );
}

#[test]
fn answers_do_not_pile_up_without_bound_behind_a_call_that_hangs() {
    let mut calls = Numbers::default();
    dispatched(admit(&mut calls, call(1, Transport::Link)));
    let mut answered = 0;
    while let Admission::Dispatch(id) = admit(&mut calls, call(1, Transport::Link)) {
        calls.answered(id, 1, &limits(), || Some(0));
        answered += 1;
    }
    assert_eq!(
        answered,
        4 + 3 - 1,
        "running and held together, less the one that hangs"
    );
    dispatched(admit(&mut calls, call(2, Transport::Link)));
}

#[test]
fn what_is_piled_up_never_blocks_the_call_it_waits_for() {
    let mut calls = Numbers::default();
    let head = call(1, Transport::Link);
    calls.admit(head, &limits(), Credit::Exhausted, || Some(0));
    let other = Request {
        service: ServiceId(9),
        ..head
    };
    while let Admission::Dispatch(id) = admit(&mut calls, other) {
        calls.answered(id, 1, &limits(), || Some(0));
    }
    let go = next(&mut calls).expect("the first of a channel may always go");
    assert_eq!(go.call.service, head.service);
}

#[test]
fn an_event_request_does_not_overtake_an_http_call_that_waits_for_room() {
    let mut calls = Numbers::default();
    dispatched(admit(&mut calls, call(1, Transport::Link)));
    let service = ServiceId(9);
    let other = Request {
        service,
        ..call(1, Transport::Link)
    };
    while let Admission::Dispatch(id) = admit(&mut calls, other) {
        calls.answered(id, 1, &limits(), || Some(0));
    }
    let http = admit(&mut calls, call(1, Transport::Http));
    let event = Request {
        reply: Reply::None,
        ..call(1, Transport::Http)
    };
    let event = admit(&mut calls, event);
    assert!(matches!(
        (http, event),
        (Admission::Wait(_), Admission::Wait(_))
    ));
    assert_eq!(next(&mut calls), None);
}

#[test]
fn calls_expire_by_their_own_deadline_waiting_or_running() {
    let mut calls = Numbers::default();
    let due = |ns| Request {
        deadline: Instant(ns),
        ..call(1, Transport::Http)
    };
    let running = dispatched(admit(&mut calls, due(20)));
    let Admission::Wait(waiting) = admit(&mut calls, numbered(8, due(10))) else {
        panic!()
    };
    assert_eq!(calls.earliest_deadline(), Some(Instant(10)));
    assert_eq!(calls.expired(Instant(9)), None);
    assert_eq!(calls.expired(Instant(10)), Some(waiting));
    assert_eq!(
        calls.fail(waiting, 60),
        Some(Failed {
            payload: Some(8),
            leaves: None
        })
    );
    assert_eq!(calls.expired(Instant(19)), None);
    assert_eq!(calls.expired(Instant(20)), Some(running));
}

/// What the line of calls promises, said slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Answered,
    Left,
}

#[derive(Debug)]
struct Tracked {
    id: CallId,
    call: Request,
    state: State,
    kept: bool,
}

#[derive(Debug, Clone)]
enum Op {
    Admit {
        channel: u16,
        link: bool,
        event: bool,
        service: u16,
        bytes: usize,
        credit: bool,
    },
    Answer {
        pick: usize,
        bytes: usize,
        room: bool,
    },
    Fail {
        pick: usize,
    },
    Late {
        pick: usize,
    },
    Dispatch {
        credit: u16,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3u16, any::<bool>(), prop::bool::weighted(0.2), 0..2u16, 0..200usize,
            prop::bool::weighted(0.7))
            .prop_map(|(channel, link, event, service, bytes, credit)| Op::Admit {
                channel, link, event, service, bytes, credit
            }),
        4 => (any::<usize>(), 0..200usize, prop::bool::weighted(0.9))
            .prop_map(|(pick, bytes, room)| Op::Answer { pick, bytes, room }),
        1 => any::<usize>().prop_map(|pick| Op::Fail { pick }),
        1 => any::<usize>().prop_map(|pick| Op::Late { pick }),
        2 => (0..4u16).prop_map(|credit| Op::Dispatch { credit }),
    ]
}

/// Drives [`Calls`] and the slow model side by side; `kept` counts what is stored and not yet
/// handed back.
#[derive(Default)]
struct World {
    calls: Numbers,
    seen: Vec<Tracked>,
    admitted: u64,
    requests_kept: Vec<u64>,
    answers_kept: Vec<u64>,
    answer_bytes: Vec<(u64, usize)>,
}

impl World {
    fn in_state(&self, state: State) -> Vec<usize> {
        (0..self.seen.len())
            .filter(|&i| self.seen[i].state == state)
            .collect()
    }

    fn picked(&self, pick: usize, of: &[State]) -> Option<usize> {
        let open: Vec<_> = (0..self.seen.len())
            .filter(|&i| of.contains(&self.seen[i].state))
            .collect();
        (!open.is_empty()).then(|| open[pick % open.len()])
    }

    /// No earlier call of the channel that wants an answer is still without one.
    fn first_of_its_channel(&self, at: usize) -> bool {
        let channel = self.seen[at].call.reply_to.channel;
        self.seen[..at].iter().all(|t| {
            t.call.reply_to.channel != channel
                || t.call.reply == Reply::None
                || t.state == State::Left
        })
    }

    fn http_before(&self, at: usize, states: &[State]) -> bool {
        let channel = self.seen[at].call.reply_to.channel;
        self.seen[..at].iter().any(|t| {
            t.call.reply_to.channel == channel
                && t.call.transport == Transport::Http
                && states.contains(&t.state)
        })
    }

    fn find(&self, message_id: u64) -> usize {
        self.seen
            .iter()
            .position(|t| t.call.reply_to.message_id == message_id)
            .expect("known")
    }

    fn leaves(&mut self, reply_to: ReplyTo) {
        let at = self.find(reply_to.message_id);
        assert_eq!(self.seen[at].call.reply_to, reply_to);
        assert_eq!(
            self.seen[at].call.reply,
            Reply::Wanted,
            "an event request got an answer"
        );
        assert_ne!(self.seen[at].state, State::Left, "answered twice");
        assert!(
            self.first_of_its_channel(at),
            "an answer overtook an earlier one"
        );
        self.seen[at].state = State::Left;
    }

    fn drain_ready(&mut self) {
        while let Some(ready) = self.calls.pop_ready() {
            let (Ready::Answer(reply_to, _) | Ready::Failure(reply_to, _)) = ready;
            let at = self.find(reply_to.message_id);
            assert_eq!(self.seen[at].state, State::Answered);
            if let Ready::Answer(_, answer) = ready {
                assert!(self.seen[at].kept);
                assert_eq!(answer, reply_to.message_id);
                hand_back(&mut self.answers_kept, answer);
                self.answer_bytes.retain(|kept| kept.0 != answer);
            }
            self.leaves(reply_to);
        }
        let stuck = self.in_state(State::Answered);
        assert!(
            stuck.iter().all(|&at| !self.first_of_its_channel(at)),
            "a ready answer stayed"
        );
    }

    fn admit(&mut self, call: Request, credit: Credit) {
        let call = numbered(self.admitted, call);
        self.admitted += 1;
        let mut kept = None;
        let admission = self.calls.admit(call, &limits(), credit, || {
            kept = Some(call.reply_to.message_id);
            kept
        });
        self.requests_kept.extend(kept);
        let (id, state) = match admission {
            Admission::Dispatch(id) => (id, State::Running),
            Admission::Wait(id) => (id, State::Waiting),
            Admission::Refused => return assert_eq!(kept, None),
        };
        assert_eq!(kept.is_some(), state == State::Waiting);
        self.seen.push(Tracked {
            id,
            call,
            state,
            kept: false,
        });
        if state == State::Running {
            self.check_start(self.seen.len() - 1, credit == Credit::Available);
        }
    }

    fn check_start(&self, at: usize, credit: bool) {
        match self.seen[at].call.transport {
            Transport::Http => {
                assert!(
                    !self.http_before(at, &[State::Running, State::Waiting]),
                    "HTTP overtook"
                );
            }
            Transport::Link => assert!(credit, "went without credit"),
        }
    }

    fn dispatch(&mut self, credit: u16) {
        let has = |call: &Request| credit & (1 << call.service.0) != 0;
        while let Some(go) = self.calls.next_to_dispatch(&limits(), has) {
            hand_back(&mut self.requests_kept, go.payload);
            let at = self.find(go.payload);
            assert_eq!(
                (self.seen[at].id, self.seen[at].state),
                (go.id, State::Waiting)
            );
            self.seen[at].state = State::Running;
            self.check_start(at, has(&go.call));
        }
        if self.in_state(State::Running).is_empty() && credit == 3 {
            assert!(
                self.in_state(State::Waiting).is_empty(),
                "everything waits for nothing"
            );
        }
    }

    fn answer(&mut self, at: usize, bytes: usize, room: bool) {
        let first = self.first_of_its_channel(at);
        let (id, call) = (self.seen[at].id, self.seen[at].call);
        let mut kept = None;
        let answered = self.calls.answered(id, bytes, &limits(), || {
            kept = room.then_some(call.reply_to.message_id);
            kept
        });
        self.answers_kept.extend(kept);
        self.answer_bytes.extend(kept.map(|answer| (answer, bytes)));
        match answered {
            Answered::Leaves(reply_to) => self.leaves(reply_to),
            Answered::Silent => {
                assert_eq!(call.reply, Reply::None);
                self.seen[at].state = State::Left;
            }
            Answered::Held | Answered::Displaced => {
                assert!(!first);
                assert_eq!(kept.is_some(), answered == Answered::Held);
                self.seen[at].kept = kept.is_some();
                self.seen[at].state = State::Answered;
            }
            Answered::Late => panic!("a running call was taken for an ended one"),
        }
        self.drain_ready();
    }

    fn fail(&mut self, at: usize) {
        let waited = self.seen[at].state == State::Waiting;
        let failed = self.calls.fail(self.seen[at].id, 60).expect("open");
        assert_eq!(failed.payload.is_some(), waited);
        if let Some(payload) = failed.payload {
            hand_back(&mut self.requests_kept, payload);
        }
        match failed.leaves {
            Some(reply_to) => self.leaves(reply_to),
            None if self.seen[at].call.reply == Reply::None => self.seen[at].state = State::Left,
            None => self.seen[at].state = State::Answered,
        }
        self.drain_ready();
    }

    fn check_bounds(&self) {
        let limits = limits();
        let calls = &self.calls;
        assert_eq!(calls.running(), self.in_state(State::Running).len());
        assert_eq!(calls.waiting(), self.in_state(State::Waiting).len());
        assert!(calls.running() <= limits.calls_running_max);
        assert!(calls.waiting() <= limits.calls_waiting_max);
        assert!(calls.waiting_bytes <= limits.calls_waiting_bytes_max);
        assert_eq!(calls.held, self.answers_kept.len());
        assert!(calls.held <= limits.answers_held_max);
        let bytes: usize = self.answer_bytes.iter().map(|kept| kept.1).sum();
        assert_eq!(calls.held_bytes, bytes);
        assert!(calls.held_bytes <= limits.answers_held_bytes_max);
        assert!(calls.places() <= places_max(&limits));
        assert_eq!(
            calls.is_idle(),
            self.seen.iter().all(|t| t.state == State::Left)
        );
    }
}

fn hand_back(kept: &mut Vec<u64>, item: u64) {
    let at = kept
        .iter()
        .position(|&k| k == item)
        .expect("stored, and handed back once");
    kept.swap_remove(at);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_history_keeps_order_bounds_and_what_was_stored(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::default();
        for op in ops {
            match op {
                Op::Admit { channel, link, event, service, bytes, credit } => {
                    let transport = if link { Transport::Link } else { Transport::Http };
                    let reply = if event { Reply::None } else { Reply::Wanted };
                    let service = ServiceId(service);
                    let call = Request { service, reply, bytes, ..call(channel, transport) };
                    let credit = if credit { Credit::Available } else { Credit::Exhausted };
                    world.admit(call, credit);
                }
                Op::Answer { pick, bytes, room } => {
                    if let Some(at) = world.picked(pick, &[State::Running]) {
                        world.answer(at, bytes, room);
                    }
                }
                Op::Fail { pick } => {
                    if let Some(at) = world.picked(pick, &[State::Running, State::Waiting]) {
                        world.fail(at);
                    }
                }
                Op::Late { pick } => {
                    let over = [State::Waiting, State::Answered, State::Left];
                    if let Some(at) = world.picked(pick, &over) {
                        let id = world.seen[at].id;
                        let late = world.calls.answered(id, 1, &limits(), || panic!("not stored"));
                        prop_assert_eq!(late, Answered::Late);
                    }
                }
                Op::Dispatch { credit } => world.dispatch(credit),
            }
            world.check_bounds();
        }
        let World { mut calls, mut requests_kept, mut answers_kept, .. } = world;
        calls.drain(|returned| match returned {
            Returned::Request(request) => hand_back(&mut requests_kept, request),
            Returned::Answer(answer) => hand_back(&mut answers_kept, answer),
            Returned::Running(_) => {}
        });
        prop_assert!(requests_kept.is_empty() && answers_kept.is_empty());
        prop_assert!(calls.is_idle());
        let fresh = admit(&mut calls, call(0, Transport::Http));
        prop_assert!(matches!(fresh, Admission::Dispatch(_)));
    }
}
