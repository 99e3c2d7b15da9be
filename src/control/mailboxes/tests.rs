use proptest::prelude::*;

use super::*;

const ALICE: SessionId = SessionId(1);
const RULES: MailboxRules =
    MailboxRules { items_max: 1000, bytes_max: 1 << 20, total_bytes_max: 1 << 24 };

fn event(n: u64) -> Item {
    Item::Event(n.to_string().into_bytes().into())
}

fn number(item: &Item) -> u64 {
    let Item::Event(json) = item else { panic!("{item:?}") };
    str::from_utf8(json).unwrap().parse().unwrap()
}

/// Puts in events `numbers`.
fn put(boxes: &mut Mailboxes, numbers: std::ops::Range<u64>, attached: bool) {
    for n in numbers {
        boxes.put(ALICE, event(n), Origin::default(), attached);
    }
}

/// Everything that is handed out now: numbers and places.
fn take(boxes: &mut Mailboxes) -> Vec<(u64, Place)> {
    std::iter::from_fn(|| boxes.next_of(ALICE, 0))
        .map(|next| match next {
            Next::Item(place, item) => (number(&item), place),
            gap @ Next::Gap { .. } => panic!("{gap:?}"),
        })
        .collect()
}

#[test]
fn a_connection_begins_where_confirmation_ended() {
    let mut boxes = Mailboxes::new(RULES);
    put(&mut boxes, 0..5, true);
    assert_eq!(boxes.next_ready(), Some(ALICE));
    assert_eq!(boxes.next_ready(), None, "a session is ready once");
    let sent = take(&mut boxes);
    assert_eq!(sent.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    boxes.confirm(ALICE, sent[1].1);
    boxes.detach(ALICE);
    put(&mut boxes, 5..6, false);
    assert_eq!(take(&mut boxes), [], "nobody is there");
    boxes.attach(ALICE);
    assert_eq!(boxes.next_ready(), Some(ALICE));
    let again = take(&mut boxes);
    assert_eq!(again.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2, 3, 4, 5]);
    boxes.confirm(ALICE, again[3].1);
    assert_eq!((boxes.len(), boxes.bytes()), (0, 0), "a session without contents costs nothing");
}

#[test]
fn a_confirmation_counts_that_comes_when_the_next_connection_is_there() {
    for attached_meanwhile in [false, true] {
        let mut boxes = Mailboxes::new(RULES);
        put(&mut boxes, 0..3, true);
        let sent = take(&mut boxes);
        boxes.detach(ALICE);
        if attached_meanwhile {
            boxes.attach(ALICE);
        }
        boxes.confirm(ALICE, sent[1].1);
        boxes.attach(ALICE);
        let again = take(&mut boxes);
        assert_eq!(again.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2]);
    }
}

#[test]
fn what_was_lost_is_told_before_what_follows_until_the_client_has_heard_of_it() {
    let mut boxes = Mailboxes::new(MailboxRules { items_max: 3, ..RULES });
    put(&mut boxes, 0..5, false);
    for _ in 0..2 {
        boxes.attach(ALICE);
        assert!(matches!(boxes.next_of(ALICE, 0), Some(Next::Gap { missed: 2, .. })));
        assert_eq!(take(&mut boxes).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2, 3, 4]);
        boxes.detach(ALICE);
    }
    boxes.attach(ALICE);
    let Some(Next::Gap { place, .. }) = boxes.next_of(ALICE, 0) else {
        panic!("nobody has heard of it")
    };
    boxes.confirm(ALICE, place);
    boxes.detach(ALICE);
    boxes.attach(ALICE);
    assert_eq!(take(&mut boxes).len(), 3);
}

#[test]
fn a_confirmation_of_what_was_not_handed_out_says_nothing() {
    let mut boxes = Mailboxes::new(RULES);
    put(&mut boxes, 0..3, true);
    boxes.confirm(ALICE, Place(u64::MAX));
    let sent = take(&mut boxes);
    assert_eq!(sent.len(), 3);
    boxes.confirm(ALICE, Place(u64::MAX));
    assert!(boxes.is_empty());
    put(&mut boxes, 3..4, true);
    boxes.confirm(ALICE, sent[2].1);
    assert_eq!(
        take(&mut boxes).len(),
        1,
        "places of an earlier mailbox mean nothing in a later one"
    );
}

#[test]
fn what_has_expired_is_passed_over() {
    let mut boxes = Mailboxes::new(RULES);
    for (n, expires) in [(0, Some(10)), (1, None), (2, Some(5)), (3, Some(11))] {
        boxes.put(ALICE, event(n), Origin { expires_unix_ms: expires, position: None }, true);
    }
    let handed: Vec<_> = std::iter::from_fn(|| boxes.next_of(ALICE, 10)).collect();
    let numbers: Vec<_> = handed
        .iter()
        .map(|next| match next {
            Next::Item(_, item) => number(item),
            Next::Gap { .. } => panic!("expiry is no gap"),
        })
        .collect();
    assert_eq!(numbers, [1, 3]);
    let Some(Next::Item(last, _)) = handed.last() else { panic!("nothing") };
    boxes.confirm(ALICE, *last);
    assert!(boxes.is_empty());
    boxes.put(ALICE, event(4), Origin { expires_unix_ms: Some(1), position: None }, true);
    assert_eq!(boxes.next_of(ALICE, 10), None);
    assert_eq!((boxes.len(), boxes.bytes()), (0, 0), "the last one expired too");
    assert_eq!((boxes.take_expired(), boxes.take_expired()), (3, 0), "they are counted once");
}

#[test]
fn no_more_is_under_way_than_may_be() {
    let mut boxes = Mailboxes::new(RULES);
    put(&mut boxes, 0..500, true);
    let sent = take(&mut boxes);
    assert_eq!(sent.len() as u64, UNCONFIRMED_MAX);
    boxes.next_ready();
    boxes.confirm(ALICE, sent[99].1);
    assert_eq!(boxes.next_ready(), Some(ALICE));
    assert_eq!(take(&mut boxes).len(), 100);
}

#[test]
fn all_together_have_a_bound_too() {
    let mut boxes = Mailboxes::new(MailboxRules { total_bytes_max: 10 * 65, ..RULES });
    for session in 0..20 {
        boxes.put(SessionId(session), event(1), Origin::default(), false);
    }
    assert!(boxes.bytes() <= 10 * 65);
    boxes.attach(SessionId(19));
    assert!(matches!(boxes.next_of(SessionId(19), 0), None | Some(Next::Gap { .. })));
    let huge = Item::Event(vec![b'x'; 2 << 20].into());
    assert!(boxes.put(ALICE, huge, Origin::default(), false).refused);
}

proptest! {
    /// With connections that come and go and confirm what they like of what they got: every event
    /// is confirmed once, in order, or told as missed.
    #[test]
    fn nothing_is_lost_silently(
        steps in prop::collection::vec((0..5_u8, 0..400_u64), 1..200), items_max in 1..40_usize,
    ) {
        let mut boxes = Mailboxes::new(MailboxRules { items_max, ..RULES });
        let (mut published, mut attached) = (0, false);
        // What this connection got, and the next number that is expected of it.
        let mut got: Vec<(u64, Place)> = Vec::new();
        let mut confirmed = 0;
        for (step, value) in steps {
            match step {
                0 | 1 => {
                    for _ in 0..=value % 7 {
                        boxes.put(ALICE, event(published), Origin::default(), attached);
                        published += 1;
                    }
                }
                2 => {
                    attached = !attached;
                    got.clear();
                    if attached { boxes.attach(ALICE) } else { boxes.detach(ALICE) }
                }
                3 => {
                    let mut expected = got.last().map_or(confirmed, |(n, _)| n + 1);
                    for _ in 0..=value {
                        match boxes.next_of(ALICE, 0) {
                            Some(Next::Item(place, item)) => {
                                prop_assert!(attached);
                                prop_assert_eq!(number(&item), expected);
                                got.push((expected, place));
                                expected += 1;
                            }
                            Some(Next::Gap { place, missed }) => {
                                prop_assert!(missed > 0);
                                expected += missed;
                                got.push((expected - 1, place));
                            }
                            None => break,
                        }
                    }
                }
                _ if !got.is_empty() => {
                    let (n, place) = got[value as usize % got.len()];
                    boxes.confirm(ALICE, place);
                    confirmed = confirmed.max(n + 1);
                }
                _ => {}
            }
        }
        // Whoever stays gets the rest.
        boxes.detach(ALICE);
        boxes.attach(ALICE);
        while confirmed < published {
            let before = confirmed;
            while let Some(next) = boxes.next_of(ALICE, 0) {
                let place = match next {
                    Next::Item(place, item) => {
                        prop_assert_eq!(number(&item), confirmed);
                        confirmed += 1;
                        place
                    }
                    Next::Gap { place, missed } => {
                        confirmed += missed;
                        place
                    }
                };
                boxes.confirm(ALICE, place);
            }
            prop_assert!(confirmed > before, "{} of {}", confirmed, published);
        }
        prop_assert_eq!((boxes.len(), boxes.bytes()), (0, 0));
    }
}
