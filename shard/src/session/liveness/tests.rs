//! Pings, idleness, unfinished messages and close handshakes on a clock made of numbers.

use proptest::prelude::*;

use super::*;

const START: Instant = Instant(5_000_000_000);

fn limits() -> SessionLimits {
    SessionLimits::default()
}

fn at(ms: u64) -> Instant {
    START + Duration::from_millis(ms)
}

/// After the first frame was released.
fn open() -> Liveness {
    let mut liveness = Liveness::new(&limits(), START);
    assert_eq!(liveness.on_deadline(&limits(), at(20)), LivenessAction::ReleaseFirstFrame);
    liveness
}

fn pinged() -> Liveness {
    let mut liveness = open();
    assert_eq!(liveness.on_deadline(&limits(), at(25_000)), LivenessAction::Ping);
    liveness.begin_ping(7).unwrap();
    liveness.on_ping_sent(at(26_000));
    liveness
}

#[test]
fn the_first_frame_is_held_until_its_delay_is_over() {
    let mut liveness = Liveness::new(&limits(), START);
    assert_eq!(liveness.next_deadline(&limits()), at(20));
    assert_eq!(liveness.on_deadline(&limits(), at(19)), LivenessAction::None);
    assert!(liveness.holds_first_frame());
    assert_eq!(liveness.begin_ping(1), Err(PingRefused));
    assert_eq!(liveness.on_deadline(&limits(), at(20)), LivenessAction::ReleaseFirstFrame);
    assert!(!liveness.holds_first_frame());
    assert_eq!(liveness.on_deadline(&limits(), at(20)), LivenessAction::None);
}

#[test]
fn a_silent_peer_is_pinged_and_then_dropped() {
    let mut liveness = open();
    assert_eq!(liveness.next_deadline(&limits()), at(25_000));
    assert_eq!(liveness.on_deadline(&limits(), at(25_000)), LivenessAction::Ping);
    liveness.begin_ping(7).unwrap();
    assert_eq!(liveness.on_deadline(&limits(), at(25_000)), LivenessAction::None);
    liveness.on_ping_sent(at(25_000));
    assert_eq!(liveness.next_deadline(&limits()), at(45_000));
    assert_eq!(liveness.on_deadline(&limits(), at(44_999)), LivenessAction::None);
    let dropped = LivenessAction::Drop(DropCause::PongTimeout);
    assert_eq!(liveness.on_deadline(&limits(), at(45_000)), dropped);
}

#[test]
fn the_pong_deadline_starts_when_the_ping_has_left_the_outbox() {
    let mut liveness = open();
    liveness.begin_ping(7).unwrap();
    assert_eq!(liveness.next_deadline(&limits()), START + limits().idle_timeout);
    assert_eq!(liveness.on_deadline(&limits(), at(200_000)), LivenessAction::None);
    liveness.on_ping_sent(at(200_000));
    assert_eq!(liveness.next_deadline(&limits()), at(220_000));
}

#[test]
fn any_byte_counts_as_liveness_but_does_not_end_the_ping() {
    let mut liveness = pinged();
    liveness.on_bytes(at(40_000));
    assert_eq!(liveness.on_deadline(&limits(), at(46_000)), LivenessAction::None);
    assert_eq!(liveness.next_deadline(&limits()), at(60_000));
    assert_eq!(liveness.begin_ping(8), Err(PingRefused));
}

#[test]
fn only_the_payload_of_the_outstanding_ping_answers_it() {
    let mut liveness = pinged();
    assert_eq!(liveness.on_pong(&6_u64.to_be_bytes()), Pong::Unsolicited);
    assert_eq!(liveness.on_pong(b""), Pong::Unsolicited);
    assert_eq!(liveness.on_pong(&7_u64.to_be_bytes()), Pong::Expected { payload: 7 });
    assert_eq!(liveness.on_pong(&7_u64.to_be_bytes()), Pong::Unsolicited);
    assert_eq!(liveness.begin_ping(8), Ok(()));
    assert_eq!(liveness.on_pong(&8_u64.to_be_bytes()), Pong::Unsolicited);
}

#[test]
fn a_session_without_data_is_closed_although_its_pongs_come() {
    let mut liveness = open();
    liveness.on_data(at(1_000));
    liveness.on_bytes(at(1_800_999));
    assert_eq!(liveness.next_deadline(&limits()), at(1_801_000));
    assert_eq!(liveness.on_deadline(&limits(), at(1_801_000)), LivenessAction::CloseIdle);
}

#[test]
fn a_message_that_does_not_end_closes_the_session_however_its_bytes_trickle() {
    let mut liveness = open();
    for second in 1..30 {
        liveness.on_bytes(at(second * 1000));
        liveness.on_message_incomplete(at(second * 1000));
    }
    assert_eq!(liveness.next_deadline(&limits()), at(31_000));
    let stalled = liveness.on_deadline(&limits(), at(31_000));
    assert_eq!(stalled, LivenessAction::CloseStalledMessage);
    liveness.on_message_complete();
    assert_eq!(liveness.on_deadline(&limits(), at(31_000)), LivenessAction::None);
}

#[test]
fn a_close_handshake_that_takes_too_long_ends_in_a_drop_and_nothing_else_is_due() {
    let mut liveness = pinged();
    liveness.on_message_incomplete(at(26_000));
    liveness.on_closing(&limits(), at(27_000));
    liveness.on_closing(&limits(), at(30_000));
    assert_eq!(liveness.next_deadline(&limits()), at(32_000));
    assert_eq!(liveness.on_deadline(&limits(), at(31_999)), LivenessAction::None);
    let dropped = LivenessAction::Drop(DropCause::CloseTimeout);
    assert_eq!(liveness.on_deadline(&limits(), at(5_000_000)), dropped);
    assert_eq!(liveness.begin_ping(1), Err(PingRefused));
}

#[test]
fn timeouts_of_zero_are_off() {
    let limits =
        SessionLimits { ping_interval: Duration::ZERO, idle_timeout: Duration::ZERO, ..limits() };
    let liveness = open();
    assert_eq!(liveness.next_deadline(&limits), NEVER);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Bytes,
    Data,
    Pong,
    WrongPong,
    AcknowledgingPing,
    Nothing,
}

fn any_step() -> impl Strategy<Value = (u64, Step)> {
    let step = prop_oneof![
        Just(Step::Bytes),
        Just(Step::Data),
        Just(Step::Pong),
        Just(Step::WrongPong),
        Just(Step::AcknowledgingPing),
        Just(Step::Nothing),
    ];
    (0..20_000_u64, step)
}

proptest! {
    /// A timer that fires exactly at every deadline, and an outbox that is always empty: never two
    /// Pings are outstanding, and a peer that has gone silent is dropped within interval + timeout.
    #[test]
    fn a_dead_peer_is_dropped_in_time_and_pings_never_overlap(
        steps in proptest::collection::vec(any_step(), 0..80),
    ) {
        let limits = limits();
        let mut liveness = Liveness::new(&limits, START);
        let (mut now, mut heard) = (START, START);
        let mut outstanding: Option<u64> = None;
        let mut next_payload = 1;
        let mut steps = steps.into_iter();
        let (mut event, mut event_at) = (Step::Nothing, START);
        let mut more = true;
        loop {
            if event_at <= now {
                match steps.next() {
                    Some((delay, step)) => {
                        event = step;
                        event_at = now + Duration::from_millis(delay);
                    }
                    None => (more, event_at) = (false, NEVER),
                }
            }
            let deadline = liveness.next_deadline(&limits);
            prop_assert!(deadline >= now);
            prop_assert!(deadline != NEVER);
            if event_at <= deadline && more {
                now = event_at;
                if !matches!(event, Step::Nothing | Step::AcknowledgingPing) {
                    heard = now;
                    liveness.on_bytes(now);
                }
                match event {
                    Step::Data => liveness.on_data(now),
                    Step::WrongPong => {
                        prop_assert_eq!(liveness.on_pong(b"stray"), Pong::Unsolicited);
                    }
                    Step::Pong => {
                        let body = outstanding.unwrap_or(0).to_be_bytes();
                        let expected = match outstanding.take() {
                            Some(payload) => Pong::Expected { payload },
                            None => Pong::Unsolicited,
                        };
                        prop_assert_eq!(liveness.on_pong(&body), expected);
                    }
                    Step::AcknowledgingPing => {
                        let begun = liveness.begin_ping(next_payload);
                        let allowed = outstanding.is_none() && !liveness.holds_first_frame();
                        prop_assert_eq!(begun.is_ok(), allowed);
                        if begun.is_ok() {
                            liveness.on_ping_sent(now);
                            outstanding = Some(next_payload);
                            next_payload += 1;
                        }
                    }
                    Step::Bytes | Step::Nothing => {}
                }
                continue;
            }
            now = deadline;
            match liveness.on_deadline(&limits, now) {
                LivenessAction::Ping => {
                    prop_assert_eq!(outstanding, None);
                    liveness.begin_ping(next_payload).unwrap();
                    liveness.on_ping_sent(now);
                    outstanding = Some(next_payload);
                    next_payload += 1;
                }
                LivenessAction::ReleaseFirstFrame => {}
                LivenessAction::Drop(cause) => {
                    prop_assert_eq!(cause, DropCause::PongTimeout);
                    prop_assert!(now - heard <= limits.ping_interval + limits.pong_timeout);
                    break;
                }
                other => prop_assert!(false, "unexpected {:?}", other),
            }
        }
    }
}
