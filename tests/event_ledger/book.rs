//! The book of a run: what was published to each session, what its clients have seen of it, and what
//! is to be said of the difference. Pure.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;

/// Ids that a client remembers to tell repeated events apart: as many as wait for a session at most.
const REMEMBERED: usize = 1024;

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Book(Vec<Account>);

/// One session. Its events are numbered from 0 in the order in which they are published.
#[derive(Debug, Default)]
struct Account {
    published: u64,
    /// Every number below was seen or is in `holes`.
    next: u64,
    /// Numbers that were passed over, and whether the client was told that some would be.
    holes: BTreeMap<u64, bool>,
    /// A gap was told, and no new event has followed yet.
    gap_is_open: bool,
    /// Nobody waits for the numbers below: the last gap may have been theirs.
    written_off: u64,
    filter: Filter,
    entries: Entries,
}

/// What a client remembers of the events that it has handled.
#[derive(Debug, Default)]
struct Filter {
    known: HashSet<u64>,
    by_age: VecDeque<u64>,
}

impl Filter {
    /// Says whether the number is new to it.
    fn passes(&mut self, number: u64) -> bool {
        if !self.known.insert(number) {
            return false;
        }
        self.by_age.push_back(number);
        if self.by_age.len() > REMEMBERED
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entries {
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    /// Never delivered, and nobody said so.
    pub(crate) lost: u64,
    /// Never delivered, after a gap was told.
    pub(crate) told: u64,
    /// Again, and the filter of the client knew it.
    pub(crate) repeated: u64,
    /// Again, and the filter let it pass.
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// Places where numbers were passed over without a word.
    pub(crate) silent_gaps: u64,
    pub(crate) told_gaps: u64,
    /// Of another session, or of nobody.
    pub(crate) foreign: u64,
}

impl Book {
    pub(crate) fn new(sessions: usize) -> Self {
        Self((0..sessions).map(|_| Account::default()).collect())
    }

    /// The number of the next event of a session, which counts as published from here on.
    pub(crate) fn publish(&mut self, session: usize) -> u64 {
        let account = &mut self.0[session];
        account.published += 1;
        account.published - 1
    }

    /// Events of a session that its clients may still see.
    pub(crate) fn outstanding(&self, session: usize) -> u64 {
        let account = &self.0[session];
        account.published - account.next.max(account.written_off)
    }

    /// Whether the last event of every session was seen.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.iter().all(|account| account.next == account.published)
    }

    /// A client of `session` has an event with this number that was published to `owner`.
    pub(crate) fn delivered(&mut self, session: usize, owner: usize, number: u64) {
        let account = &mut self.0[session];
        let entries = &mut account.entries;
        if owner != session || number >= account.published {
            entries.foreign += 1;
        } else if !account.filter.passes(number) {
            entries.repeated += 1;
        } else if number >= account.next {
            let told = account.gap_is_open;
            account.holes.extend((account.next..number).map(|passed| (passed, told)));
            entries.silent_gaps += u64::from(number > account.next && !told);
            entries.delivered += 1;
            account.next = number + 1;
            account.gap_is_open = false;
        } else if account.holes.remove(&number).is_some() {
            entries.reordered += 1;
            entries.delivered += 1;
        } else {
            entries.duplicated += 1;
        }
    }

    /// A client of `session` was told that events are gone.
    pub(crate) fn gap(&mut self, session: usize) {
        let account = &mut self.0[session];
        account.entries.told_gaps += 1;
        account.gap_is_open = true;
        account.written_off = account.published;
    }

    /// Of all sessions. What was not seen yet counts as lost, or as told behind a gap.
    pub(crate) fn balance(&self) -> Entries {
        let mut sum = Entries::default();
        for account in &self.0 {
            let Entries {
                delivered,
                repeated,
                duplicated,
                reordered,
                silent_gaps,
                told_gaps,
                foreign,
                ..
            } = account.entries;
            sum.published += account.published;
            sum.delivered += delivered;
            sum.repeated += repeated;
            sum.duplicated += duplicated;
            sum.reordered += reordered;
            sum.silent_gaps += silent_gaps;
            sum.told_gaps += told_gaps;
            sum.foreign += foreign;
            let told = account.holes.values().filter(|told| **told).count() as u64;
            sum.told += told;
            sum.lost += account.holes.len() as u64 - told;
            let unseen = account.published - account.next;
            *(if account.gap_is_open { &mut sum.told } else { &mut sum.lost }) += unseen;
        }
        sum
    }
}

impl fmt::Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "published {}, delivered {}, lost {}, duplicates after the id filter {} ({} before), \
             reordered {}, silent gaps {}, cross-session {}, told gaps {} ({} events)",
            self.published,
            self.delivered,
            self.lost,
            self.duplicated,
            self.repeated,
            self.reordered,
            self.silent_gaps,
            self.foreign,
            self.told_gaps,
            self.told,
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A book of one session to which `published` events went.
    fn book(published: u64) -> Book {
        let mut book = Book::new(1);
        for number in 0..published {
            assert_eq!(book.publish(0), number);
        }
        book
    }

    fn seen(book: &mut Book, numbers: impl IntoIterator<Item = u64>) {
        numbers.into_iter().for_each(|number| book.delivered(0, 0, number));
    }

    #[test]
    fn events_in_order_balance() {
        let mut book = book(5);
        seen(&mut book, 0..5);
        let expected = Entries { published: 5, delivered: 5, ..Entries::default() };
        assert_eq!(book.balance(), expected);
        assert!(book.is_complete());
    }

    #[test]
    fn what_never_comes_is_lost_whether_or_not_something_follows() {
        let mut in_the_middle = book(5);
        seen(&mut in_the_middle, [0, 1, 4]);
        let balance = in_the_middle.balance();
        assert_eq!((balance.delivered, balance.lost, balance.silent_gaps), (3, 2, 1));
        let mut at_the_end = book(5);
        seen(&mut at_the_end, 0..3);
        let balance = at_the_end.balance();
        assert_eq!((balance.delivered, balance.lost, balance.silent_gaps), (3, 2, 0));
        assert!(!at_the_end.is_complete());
    }

    #[test]
    fn what_a_gap_told_of_is_not_lost_and_a_later_jump_is_silent_again() {
        let mut book = book(10);
        seen(&mut book, [0]);
        book.gap(0);
        seen(&mut book, [3, 4, 6, 7, 8, 9]);
        let balance = book.balance();
        assert_eq!((balance.told_gaps, balance.told), (1, 2));
        assert_eq!((balance.lost, balance.silent_gaps), (1, 1));
    }

    #[test]
    fn a_gap_that_nothing_follows_tells_of_what_is_unseen() {
        let mut book = book(3);
        seen(&mut book, [0]);
        assert_eq!(book.outstanding(0), 2);
        book.gap(0);
        assert_eq!(book.outstanding(0), 0, "nobody waits for it");
        assert_eq!((book.balance().lost, book.balance().told), (0, 2));
        assert!(!book.is_complete(), "what is published after a gap must come");
    }

    #[test]
    fn an_event_that_comes_late_is_reordered_and_not_lost() {
        let mut book = book(3);
        seen(&mut book, [0, 2, 1]);
        let balance = book.balance();
        assert_eq!((balance.delivered, balance.lost, balance.reordered), (3, 0, 1));
    }

    #[test]
    fn what_comes_again_is_filtered_as_long_as_the_client_remembers_it() {
        let events = REMEMBERED as u64 + 1;
        let mut book = book(events);
        seen(&mut book, 0..events);
        seen(&mut book, [events - 1, 1]);
        assert_eq!((book.balance().repeated, book.balance().duplicated), (2, 0));
        seen(&mut book, [0]);
        assert_eq!((book.balance().repeated, book.balance().duplicated), (2, 1));
        assert_eq!(book.balance().delivered, events);
    }

    #[test]
    fn what_is_of_another_session_or_of_nobody_is_foreign() {
        let mut book = Book::new(2);
        book.publish(0);
        book.delivered(1, 0, 0);
        book.delivered(0, 0, 1);
        assert_eq!((book.balance().foreign, book.balance().delivered), (2, 0));
    }

    proptest! {
        #[test]
        fn every_published_event_is_delivered_lost_or_told(
            published in 1_u64..60,
            seen in proptest::collection::vec(prop_oneof![8 => (0_u64..60).prop_map(Some), 1 => Just(None)], 0..90),
        ) {
            let mut book = book(published);
            for number in seen {
                match number {
                    Some(number) => book.delivered(0, 0, number),
                    None => book.gap(0),
                }
            }
            let Entries { published: all, delivered, lost, told, .. } = book.balance();
            prop_assert_eq!(all, published);
            prop_assert_eq!(delivered + lost + told, all);
        }
    }
}
