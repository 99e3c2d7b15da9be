use std::time::Duration;

use super::*;
use crate::outcome::{MessageCounts, ServerUse, synthetic};
use crate::scenario::{CloseBy, Metric, Placement, Ready};

fn judged(change: impl FnOnce(&mut Outcome)) -> Judgement {
    let mut outcome = synthetic::outcome(1, 4, 3000, 1.0);
    change(&mut outcome);
    judge(&mut outcome);
    outcome.judgement
}

fn with_threshold(metric: Metric, bound: Bound) -> Judgement {
    judged(|outcome| outcome.scenario.thresholds = vec![Threshold { metric, bound }])
}

fn closed(outcome: &mut Outcome) {
    outcome.scenario.arrival = Arrival::Closed { in_flight: 1 };
    outcome.messages.planned = 0;
}

#[test]
fn a_run_without_faults_passes_without_reasons() {
    let judgement = judged(|_| {});
    assert_eq!(judgement.verdict, Verdict::Passed);
    assert!(judgement.reasons.is_empty() && judgement.notes.is_empty(), "{judgement:?}");
}

#[test]
fn a_late_generator_makes_an_open_loop_invalid() {
    let judgement =
        judged(|outcome| outcome.scenario.validity.lag_p99_max = Duration::from_nanos(500));
    assert_eq!(judgement.verdict, Verdict::Invalid);
    let reason = &judgement.reasons[0];
    assert!(reason.contains("at most 500 ns") && reason.contains("another machine"), "{reason}");
}

#[test]
fn a_busy_thread_makes_an_open_loop_invalid() {
    let judgement = judged(|outcome| outcome.generators[0].threads[1].busy = 0.97);
    assert_eq!(judgement.verdict, Verdict::Invalid);
    assert!(judgement.reasons[0].contains("97.0 %"), "{:?}", judgement.reasons);
}

#[test]
fn messages_that_the_generator_did_not_get_to_make_a_run_invalid() {
    let judgement = judged(|outcome| outcome.messages.planned = outcome.messages.sent + 1200);
    assert_eq!(judgement.verdict, Verdict::Invalid);
    assert!(judgement.reasons[0].contains("1\u{202f}200 of"), "{:?}", judgement.reasons);
}

#[test]
fn planned_connections_are_held_against_those_that_were_begun() {
    let storm = |begun| {
        judged(|outcome| {
            outcome.scenario.traffic =
                Traffic::Connect { ready: Ready::Upgraded, close: CloseBy::Reset };
            outcome.messages = MessageCounts { planned: 1000, ..MessageCounts::default() };
            outcome.connections.attempted = begun;
        })
    };
    assert_eq!(storm(1000).verdict, Verdict::Passed, "{:?}", storm(1000).reasons);
    let judgement = storm(900);
    assert_eq!(judgement.verdict, Verdict::Invalid);
    assert!(judgement.reasons[0].contains("100 of"), "{:?}", judgement.reasons);
}

#[test]
fn a_full_window_is_the_servers_failure() {
    let judgement = judged(|outcome| {
        outcome.messages.unsent = 500;
        outcome.messages.planned = outcome.messages.sent + 500;
    });
    assert_eq!(judgement.verdict, Verdict::Failed);
    assert!(judgement.reasons[0].contains("500 of"), "{:?}", judgement.reasons);
}

#[test]
fn in_a_closed_loop_a_busy_generator_is_a_note() {
    let judgement = judged(|outcome| {
        closed(outcome);
        outcome.scenario.validity.lag_p99_max = Duration::from_nanos(1);
        outcome.generators[0].threads[0].busy = 0.99;
    });
    assert_eq!(judgement.verdict, Verdict::Passed);
    let about_rate = judgement.notes.iter().filter(|note| note.contains("generator's, not"));
    assert_eq!(about_rate.count(), 1);
    assert!(judgement.notes[0].contains("Closed loop"), "{:?}", judgement.notes);
}

#[test]
fn every_kind_of_fault_fails_the_run() {
    let kinds: [fn(&mut Outcome); 5] = [
        |o| o.messages.lost = 1,
        |o| o.messages.duplicated = 1,
        |o| o.messages.reordered = 1,
        |o| o.messages.corrupted = 1,
        |o| o.connections.lost = 1,
    ];
    for (index, kind) in kinds.into_iter().enumerate() {
        let judgement = judged(kind);
        assert_eq!(judgement.verdict, Verdict::Failed, "kind {index}");
        assert_eq!(judgement.reasons.len(), 1, "kind {index}");
    }
}

#[test]
fn a_reconnect_expects_lost_connections() {
    let judgement = judged(|outcome| {
        outcome.scenario.traffic = Traffic::Reconnect { ready: Ready::Upgraded, times: 1 };
        outcome.connections.attempted = outcome.messages.planned;
        outcome.connections.lost = 5;
    });
    assert_eq!(judgement.verdict, Verdict::Passed);
}

#[test]
fn a_refusal_is_an_answer_and_a_reset_is_none() {
    let refused_and_reset = |outcome: &mut Outcome| {
        outcome.connections.failed = 5;
        outcome.errors = [("refused: 503", 2), ("refused: 429", 1), ("reset", 2)]
            .map(|(kind, count)| (kind.to_owned(), count))
            .into();
    };
    let unanswered = |limit| {
        judged(|outcome| {
            refused_and_reset(outcome);
            let bound = Bound::AtMost(limit);
            outcome.scenario.thresholds = vec![Threshold { metric: Metric::Unanswered, bound }];
        })
    };
    assert_eq!(unanswered(2.0).verdict, Verdict::Passed);
    let failed = unanswered(1.0);
    assert_eq!(failed.thresholds[0].value, Some(2.0));
    assert_eq!(failed.verdict, Verdict::Failed);
}

#[test]
fn memory_is_grown_by_what_it_is_beyond_that_with_all_connections() {
    let grown = |limit| with_threshold(Metric::ServerBytesGrown, Bound::AtMost(limit));
    assert_eq!(grown(1_048_576.0).verdict, Verdict::Passed);
    assert_eq!(grown(1_048_575.0).thresholds[0].value, Some(1_048_576.0));
    assert_eq!(grown(1_048_575.0).verdict, Verdict::Failed);
}

#[test]
fn losses_under_a_slow_generator_say_nothing_but_changed_messages_do() {
    let slow = |outcome: &mut Outcome| outcome.generators[0].threads[0].busy = 0.99;
    let lost = judged(|outcome| {
        slow(outcome);
        outcome.messages.lost = 3;
    });
    assert_eq!(lost.verdict, Verdict::Invalid);
    assert!(lost.reasons[0].contains("generator") && lost.reasons[1].contains("lost"));
    let corrupted = judged(|outcome| {
        slow(outcome);
        outcome.messages.corrupted = 3;
    });
    assert_eq!(corrupted.verdict, Verdict::Failed);
    assert!(corrupted.reasons[0].contains("changed"), "{:?}", corrupted.reasons);
    assert!(corrupted.reasons[1].contains("generator"), "{:?}", corrupted.reasons);
}

#[test]
fn a_threshold_holds_up_to_its_bound() {
    assert_eq!(with_threshold(Metric::Rate, Bound::AtLeast(3000.0)).verdict, Verdict::Passed);
    let failed = with_threshold(Metric::Rate, Bound::AtLeast(3000.5));
    assert_eq!(failed.verdict, Verdict::Failed);
    assert_eq!(failed.thresholds[0].value, Some(3000.0));
    assert!(failed.reasons[0].contains("at least"), "{:?}", failed.reasons);
    let p99 = with_threshold(Metric::P99Us, Bound::AtMost(1.0));
    assert_eq!(p99.verdict, Verdict::Failed);
}

#[test]
fn a_metric_that_was_not_measured_does_not_hold() {
    let judgement = judged(|outcome| {
        let bound = Bound::AtMost(f64::MAX);
        let metrics = [Metric::ServerCpuUsPerMessage, Metric::ReadyP99Us];
        outcome.scenario.thresholds =
            metrics.into_iter().map(|metric| Threshold { metric, bound }).collect();
        outcome.server = None::<ServerUse>;
    });
    assert_eq!(judgement.verdict, Verdict::Failed);
    assert!(judgement.thresholds.iter().all(|t| !t.holds && t.value.is_none()));
}

#[test]
fn an_empty_measurement_fails() {
    let judgement = judged(|outcome| outcome.latency.from_intended = Default::default());
    assert_eq!(judgement.verdict, Verdict::Failed);
}

#[test]
fn loopback_and_one_way_times_are_noted() {
    for url in ["ws://127.0.0.1:80/", "ws://[::1]:80/", "ws://localhost:80/"] {
        let judgement = judged(|outcome| outcome.scenario.target.url = url.to_owned());
        assert!(judgement.notes[0].contains("loopback"), "{url}");
    }
    let judgement =
        judged(|outcome| outcome.scenario.traffic = Traffic::Peer { placement: Placement::Any });
    assert!(judgement.notes[0].contains("one way"), "{:?}", judgement.notes);
}

#[test]
fn few_samples_are_noted() {
    let mut outcome = synthetic::outcome(1, 2, 1000, 1.0);
    judge(&mut outcome);
    assert!(outcome.judgement.notes[0].contains("the longest 2 of 2\u{202f}000"));
}

#[test]
fn judging_twice_gives_the_same() {
    let mut outcome = synthetic::outcome(1, 2, 1000, 1.0);
    outcome.messages.lost = 2;
    judge(&mut outcome);
    let first = outcome.judgement.clone();
    judge(&mut outcome);
    assert_eq!(outcome.judgement, first);
}

#[test]
fn exit_codes_tell_the_verdicts_apart() {
    let codes = [Verdict::Passed, Verdict::Failed, Verdict::Invalid].map(|v| Exit::from(v) as u8);
    assert_eq!(codes, [0, 1, 3]);
    assert_eq!(Exit::Usage as u8, 2);
}
