//! A slow model of the line of calls, against any history.

use proptest::prelude::*;

use super::*;

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
    Admit { channel: u16, link: bool, event: bool, service: u16, bytes: usize, credit: bool },
    Answer { pick: usize, bytes: usize, room: bool },
    Fail { pick: usize },
    Late { pick: usize },
    Dispatch { credit: u16 },
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
        (0..self.seen.len()).filter(|&i| self.seen[i].state == state).collect()
    }

    fn picked(&self, pick: usize, of: &[State]) -> Option<usize> {
        let open: Vec<_> =
            (0..self.seen.len()).filter(|&i| of.contains(&self.seen[i].state)).collect();
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
        self.seen.iter().position(|t| t.call.reply_to.message_id == message_id).expect("known")
    }

    fn leaves(&mut self, reply_to: ReplyTo) {
        let at = self.find(reply_to.message_id);
        assert_eq!(self.seen[at].call.reply_to, reply_to);
        assert_eq!(self.seen[at].call.reply, Reply::Wanted, "an event request got an answer");
        assert_ne!(self.seen[at].state, State::Left, "answered twice");
        assert!(self.first_of_its_channel(at), "an answer overtook an earlier one");
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
        assert!(stuck.iter().all(|&at| !self.first_of_its_channel(at)), "a ready answer stayed");
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
        self.seen.push(Tracked { id, call, state, kept: false });
        if state == State::Running {
            self.check_start(self.seen.len() - 1, credit == Credit::Available);
        }
    }

    fn check_start(&self, at: usize, credit: bool) {
        match self.seen[at].call.transport {
            Transport::Http => {
                assert!(!self.http_before(at, &[State::Running, State::Waiting]), "HTTP overtook");
            }
            Transport::Link => assert!(credit, "went without credit"),
        }
    }

    fn dispatch(&mut self, credit: u16) {
        let has = |call: &Request| credit & (1 << call.service.0) != 0;
        while let Some(go) = self.calls.next_to_dispatch(&limits(), has) {
            hand_back(&mut self.requests_kept, go.payload);
            let at = self.find(go.payload);
            assert_eq!((self.seen[at].id, self.seen[at].state), (go.id, State::Waiting));
            self.seen[at].state = State::Running;
            self.check_start(at, has(&go.call));
        }
        if self.in_state(State::Running).is_empty() && credit == 3 {
            assert!(self.in_state(State::Waiting).is_empty(), "everything waits for nothing");
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
        assert_eq!(calls.is_idle(), self.seen.iter().all(|t| t.state == State::Left));
    }
}

fn hand_back(kept: &mut Vec<u64>, item: u64) {
    let at = kept.iter().position(|&k| k == item).expect("stored, and handed back once");
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
