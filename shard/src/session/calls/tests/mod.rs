//! The line of calls, rule by rule; `model` tries any history.

mod model;

use super::*;
use crate::id::ServiceId;
use crate::wire::header::{Flags, ReplyTo};

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
        reply_to: ReplyTo { flags: Flags(0), channel, sequence: 0, message_id: 0 },
        service: ServiceId(0),
        transport,
        reply: Reply::Wanted,
        bytes: 10,
        deadline: Instant(0),
    }
}

fn numbered(message_id: u64, call: Request) -> Request {
    Request { reply_to: ReplyTo { message_id, ..call.reply_to }, ..call }
}

type Numbers = Calls<u64, u64>;

fn admit(calls: &mut Numbers, call: Request) -> Admission {
    calls.admit(call, &limits(), Credit::Available, || Some(call.reply_to.message_id))
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
    assert_eq!(calls.answered(link, 5, &limits(), || Some(99)), Answered::Held);
    assert_eq!(calls.pop_ready(), None);
    let Answered::Leaves(first) = calls.answered(http, 5, &limits(), || None) else {
        panic!("it is the first of its channel");
    };
    assert_eq!(first.message_id, 1);
    let Some(Ready::Answer(second, 99)) = calls.pop_ready() else { panic!("was held") };
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
    assert_eq!(calls.answered(early, 301, &limits(), || kept(())), Answered::Displaced);
    assert_eq!(calls.answered(unstored, 1, &limits(), || None), Answered::Displaced);
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
    let event = Request { reply: Reply::None, ..call(3, Transport::Http) };
    let event = dispatched(admit(&mut calls, event));
    let link = dispatched(admit(&mut calls, call(3, Transport::Link)));
    assert!(matches!(admit(&mut calls, call(3, Transport::Http)), Admission::Wait(_)));
    assert!(matches!(calls.answered(link, 0, &limits(), || None), Answered::Leaves(_)));
    assert_eq!(next(&mut calls), None);
    assert_eq!(calls.answered(event, 9, &limits(), || None), Answered::Silent);
    assert!(next(&mut calls).is_some());
}

#[test]
fn a_link_call_without_credit_waits_and_holds_back_only_its_own_service() {
    let mut calls = Numbers::default();
    let starved = call(1, Transport::Link);
    let admission = calls.admit(starved, &limits(), Credit::Exhausted, || Some(1));
    assert!(matches!(admission, Admission::Wait(_)));
    assert!(matches!(admit(&mut calls, call(2, Transport::Link)), Admission::Wait(_)));
    let other = Request { service: ServiceId(9), ..call(3, Transport::Link) };
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
    let unkept = calls.admit(call(9, Transport::Http), &limits(), Credit::Available, || None);
    assert_eq!(unkept, Admission::Refused);
    let large = Request { bytes: 601, ..call(9, Transport::Http) };
    assert_eq!(admit(&mut calls, large), Admission::Refused);
    for channel in 10..16 {
        assert!(matches!(admit(&mut calls, call(channel, Transport::Http)), Admission::Wait(_)));
    }
    assert_eq!(admit(&mut calls, call(20, Transport::Http)), Admission::Refused);
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
    assert_eq!(answered, 4 + 3 - 1, "running and held together, less the one that hangs");
    dispatched(admit(&mut calls, call(2, Transport::Link)));
}

#[test]
fn what_is_piled_up_never_blocks_the_call_it_waits_for() {
    let mut calls = Numbers::default();
    let head = call(1, Transport::Link);
    calls.admit(head, &limits(), Credit::Exhausted, || Some(0));
    let other = Request { service: ServiceId(9), ..head };
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
    let other = Request { service, ..call(1, Transport::Link) };
    while let Admission::Dispatch(id) = admit(&mut calls, other) {
        calls.answered(id, 1, &limits(), || Some(0));
    }
    let http = admit(&mut calls, call(1, Transport::Http));
    let event = Request { reply: Reply::None, ..call(1, Transport::Http) };
    let event = admit(&mut calls, event);
    assert!(matches!((http, event), (Admission::Wait(_), Admission::Wait(_))));
    assert_eq!(next(&mut calls), None);
}

#[test]
fn calls_expire_by_their_own_deadline_waiting_or_running() {
    let mut calls = Numbers::default();
    let due = |ns| Request { deadline: Instant(ns), ..call(1, Transport::Http) };
    let running = dispatched(admit(&mut calls, due(20)));
    let Admission::Wait(waiting) = admit(&mut calls, numbered(8, due(10))) else { panic!() };
    assert_eq!(calls.earliest_deadline(), Some(Instant(10)));
    assert_eq!(calls.expired(Instant(9)), None);
    assert_eq!(calls.expired(Instant(10)), Some(waiting));
    assert_eq!(calls.fail(waiting, 60), Some(Failed { payload: Some(8), leaves: None }));
    assert_eq!(calls.expired(Instant(19)), None);
    assert_eq!(calls.expired(Instant(20)), Some(running));
}
