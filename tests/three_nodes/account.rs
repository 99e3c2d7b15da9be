//! What players of several nodes have said to each other, been answered and heard, and what is to be
//! said of the difference. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What one player has to tell.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Letters in the order in which they were written: to whom, and every code that came back.
    pub(crate) letters: Vec<(usize, Vec<u8>)>,
    /// Broadcasts, numbered in the order in which they were written.
    pub(crate) broadcasts: u64,
    /// In the order in which it came.
    pub(crate) heard: Vec<Heard>,
}

/// One message of another player.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Heard {
    pub(crate) from: usize,
    pub(crate) what: What,
    /// Letters of a player are numbered over all whom they go to.
    pub(crate) number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Letter,
    Broadcast,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) letters: u64,
    /// Answered 0: the other node has put them into their target's outbox.
    pub(crate) delivered: u64,
    /// Answered 31.
    pub(crate) refused: u64,
    /// Of these, heard all the same.
    pub(crate) refused_and_heard: u64,
    /// Answered not at all, more than once, or with another code.
    pub(crate) answered_badly: u64,
    /// Answered 0, and never heard.
    pub(crate) lost: u64,
    /// Copies of broadcasts, one for each other player.
    pub(crate) copies: u64,
    pub(crate) copies_heard: u64,
    /// Heard before by the same player.
    pub(crate) doubled: u64,
    /// Heard after a later one of the same player.
    pub(crate) swapped: u64,
    /// Never said, or to somebody else.
    pub(crate) foreign: u64,
}

/// Of all players, each of whom was there from the first message to the last.
pub(crate) fn balance(players: &[Told]) -> Balance {
    let mut balance = Balance::default();
    let mut heard = Vec::new();
    for (listener, told) in players.iter().enumerate() {
        let mut seen = BTreeSet::new();
        let mut last = BTreeMap::new();
        for &it in &told.heard {
            let said = players.get(it.from).is_some_and(|from| from.has_said(it, listener));
            let last = last.entry((it.from, it.what)).or_insert(it.number);
            if !said {
                balance.foreign += 1;
            } else if !seen.insert(it) {
                balance.doubled += 1;
            } else if it.number < *last {
                balance.swapped += 1;
            }
            *last = it.number.max(*last);
        }
        heard.push(seen);
    }
    for (from, told) in players.iter().enumerate() {
        for (number, (to, answers)) in (0..).zip(&told.letters) {
            let was_heard = heard[*to].contains(&Heard { from, what: What::Letter, number });
            balance.letters += 1;
            match answers[..] {
                [0] => {
                    balance.delivered += 1;
                    balance.lost += u64::from(!was_heard);
                }
                [31] => {
                    balance.refused += 1;
                    balance.refused_and_heard += u64::from(was_heard);
                }
                _ => balance.answered_badly += 1,
            }
        }
        balance.copies += told.broadcasts * (players.len() as u64 - 1);
    }
    let copies = heard.iter().flatten().filter(|heard| heard.what == What::Broadcast);
    balance.copies_heard = copies.count() as u64;
    balance
}

impl Told {
    fn has_said(&self, it: Heard, to: usize) -> bool {
        match it.what {
            What::Letter => usize::try_from(it.number)
                .ok()
                .and_then(|at| self.letters.get(at))
                .is_some_and(|(meant, _)| *meant == to),
            What::Broadcast => it.from != to && it.number < self.broadcasts,
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "letters {}, delivered {}, refused {} ({} of them heard), lost {}; copies of broadcasts {}, \
             heard {}; doubled {}, swapped {}, foreign {}, answered badly {}",
            self.letters,
            self.delivered,
            self.refused,
            self.refused_and_heard,
            self.lost,
            self.copies,
            self.copies_heard,
            self.doubled,
            self.swapped,
            self.foreign,
            self.answered_badly,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(from: usize, number: u64) -> Heard {
        Heard { from, what: What::Letter, number }
    }

    /// Player 0 has written three letters to player 1, with these answers, who has heard that.
    fn two(answers: [&[u8]; 3], heard: &[Heard]) -> Balance {
        let letters = answers.map(|answers| (1, answers.to_vec())).to_vec();
        let writer = Told { letters, ..Told::default() };
        balance(&[writer, Told { heard: heard.to_vec(), ..Told::default() }])
    }

    #[test]
    fn what_arrives_in_order_and_is_answered_once_balances() {
        let all = [letter(0, 0), letter(0, 1), letter(0, 2)];
        let expected = Balance { letters: 3, delivered: 3, ..Balance::default() };
        assert_eq!(two([&[0], &[0], &[0]], &all), expected);
    }

    #[test]
    fn a_letter_that_was_delivered_and_not_heard_is_lost_and_a_refused_one_is_not() {
        let found = two([&[0], &[31], &[31]], &[letter(0, 2)]);
        assert_eq!((found.lost, found.refused, found.refused_and_heard), (1, 2, 1));
    }

    #[test]
    fn an_answer_that_is_missing_doubled_or_strange_is_seen() {
        assert_eq!(two([&[], &[0, 31], &[60]], &[]).answered_badly, 3);
    }

    #[test]
    fn what_comes_twice_late_or_from_nowhere_is_seen() {
        let all = [&[0][..]; 3];
        let found = two(all, &[letter(0, 1), letter(0, 1), letter(0, 0), letter(0, 2)]);
        assert_eq!((found.doubled, found.swapped, found.lost), (1, 1, 0));
        let found = two(all, &[letter(0, 3), letter(1, 0), letter(7, 0)]);
        assert_eq!((found.foreign, found.lost), (3, 3));
    }

    #[test]
    fn every_other_player_has_a_copy_of_a_broadcast() {
        let copy = Heard { from: 0, what: What::Broadcast, number: 0 };
        let listener = |heard: &[Heard]| Told { heard: heard.to_vec(), ..Told::default() };
        let caller = || Told { broadcasts: 1, ..Told::default() };
        let found = balance(&[caller(), listener(&[copy]), listener(&[])]);
        assert_eq!((found.copies, found.copies_heard, found.foreign), (2, 1, 0));
        let own = Told { broadcasts: 1, heard: vec![copy], ..Told::default() };
        assert_eq!(balance(&[own, listener(&[])]).foreign, 1);
    }
}
