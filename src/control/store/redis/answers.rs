//! What becomes of what Redis answers.

use std::sync::Arc;

use corelane_shard::id::{Epoch, SessionId};
use corelane_shard::lane::{ClaimRefusal, Credential, Resumed, ToShard};
use tracing::debug;

use super::super::embedded::Taken;
use super::super::{Before, Begin, Claimed, Decision, Loss, SessionStore as _};
use super::command::{
    Answer, Claiming, Command, Cursor, Eviction, Found, Held, Keeping, Kept, Last, News, Release,
    Why,
};
use super::{Courier, Link, RedisStore, SharedRules};
use crate::control::ask::{ListedSession, NotEnded, Whereabouts};
use crate::control::redis::Fault;

impl<C: Courier> RedisStore<C> {
    pub(super) fn take_news(&mut self) {
        while let Some(news) = self.courier.news() {
            match news {
                News::Connected => {
                    self.link = Link::Up;
                    self.lease.hurry();
                    self.next_unsent = corelane_shard::clock::Instant(0);
                    self.begin_to_compare();
                }
                News::Disconnected => self.link = Link::Down,
                News::Answered(command, answer) => {
                    self.sent = self.sent.saturating_sub(1);
                    match answer {
                        Ok(answer) => self.answered(command, answer),
                        Err(fault) => self.failed(command, &fault),
                    }
                }
            }
        }
    }

    fn answered(&mut self, command: Command, answer: Answer) {
        match (command, answer) {
            (Command::Claim(claiming), answer) => {
                self.claims -= 1;
                self.claim_answered(claiming, answer);
            }
            (Command::Keep { held, why, .. }, Answer::Kept(kept)) => {
                self.no_longer_under_way(why);
                self.kept(&held, &kept);
            }
            (Command::Cursors { .. }, Answer::Written { fenced }) => {
                let sent = self.cursors_sent.take();
                self.cursors_behind = sent.filter(|_| !self.cursors.is_empty());
                self.probe.writes_fenced.add(fenced);
            }
            (Command::Poll { .. }, Answer::Taken) => self.dethrone(),
            (Command::Poll { sent, .. }, Answer::Held { born, evictions }) => {
                if self.lease.renewed(sent) {
                    self.begin_to_compare();
                }
                // Redis has lost everything.
                if self.born.replace(born).is_some_and(|before| before != born) {
                    self.begin_to_compare();
                }
                if !evictions.is_empty() {
                    self.lease.hurry();
                }
                evictions.into_iter().for_each(|eviction| self.evicted(eviction));
            }
            (Command::OfAccount { answer, account, .. }, Answer::OfAccount(identities)) => {
                let mut found = self.local_of_account(&account);
                for identity in identities {
                    let known = |one: &ListedSession| one.identity.session == identity.session;
                    if !found.iter().any(known) {
                        found.push(ListedSession { identity: Arc::new(identity), live: true });
                    }
                }
                let _unheard = answer.send(found);
            }
            (Command::End(ending), Answer::Ended { existed }) => {
                if let Some(answer) = ending.answer {
                    let told = if existed { Ok(()) } else { Err(NotEnded::NoSession) };
                    let _unheard = answer.send(told);
                }
            }
            (Command::Find { answer, .. }, Answer::Found(node)) => {
                // What it says of this node was so a moment ago.
                let elsewhere = node.filter(|node| *node != self.shared.instance);
                let found = elsewhere.map_or(Whereabouts::Nowhere, Whereabouts::Node);
                let _unheard = answer.send(found);
            }
            (_, Answer::Written { fenced }) => self.probe.writes_fenced.add(fenced),
            (command, _) => {
                self.failed(command, &Fault::Server("an answer of another kind".into()))
            }
        }
    }

    fn claim_answered(&mut self, mut claiming: Box<Claiming>, answer: Answer) {
        match answer {
            Answer::Granted(found) => self.granted(&claiming.claimed, claiming.epoch, *found),
            Answer::Refused(why) => self.refuse(&claiming.claimed, why),
            Answer::Retry { session, epoch } if claiming.retries < RETRIES_MAX => {
                claiming.retries += 1;
                if claiming.session != session {
                    // What was said of the session was said of another.
                    claiming.start = None;
                }
                (claiming.session, claiming.epoch) = (session, epoch.max(claiming.epoch));
                self.submit(claiming);
            }
            _ => self.refuse(&claiming.claimed, ClaimRefusal::Unavailable),
        }
    }

    fn granted(&mut self, claimed: &Claimed, epoch: Epoch, found: Found) {
        let Found { identity, existed, last, cursor, older } = found;
        // While the claim was under way; Redis hears of that after it.
        if self.local.has_ended(&identity) {
            return self.refuse(claimed, ClaimRefusal::Revoked);
        }
        let session = identity.session;
        let SharedRules { instance, run, .. } = self.shared;
        // Of its own claims this node may have missed the answer, but of no other node's since the one
        // that it knows.
        let known = self.local.epoch(session);
        let mine = last.is_some_and(|last| {
            (last.node, last.run) == (instance, run) && known.is_some_and(|it| it > last.foreign)
        });
        let begin = match cursor {
            _ if mine => Begin::Here,
            Some(Cursor::At(position)) if existed => Begin::From(position),
            Some(Cursor::Unknown(since)) => Begin::Unknown { since: Some(since) },
            _ if existed || older => Begin::Unknown { since: None },
            _ => Begin::Here,
        };
        let before = last.filter(|last| last.node != instance);
        let before = before.map(|Last { node, epoch, .. }| Before { node, epoch });
        let returning = matches!(claimed.claim.credential, Credential::Reconnect { .. });
        let (taken, resumed) = match (existed, returning) {
            (_, true) => (Taken::Reconnected, Resumed::Session(Some(Arc::clone(&identity)))),
            (true, false) => (Taken::Returned, Resumed::Session(None)),
            (false, false) => (Taken::Fresh, Resumed::Nothing),
        };
        self.cursors.remove(&session);
        let evict = self.local.adopt(claimed, identity, epoch, taken);
        let answer = ToShard::Granted { key: claimed.key, session, epoch, resumed };
        self.decided.push_back(Decision { evict, shard: claimed.shard, answer, begin, before });
    }

    /// A heartbeat does not hold up the comparisons: none of these waits for it.
    fn no_longer_under_way(&mut self, why: Keeping) {
        if why == Keeping::Comparison {
            self.sweeps_sent = self.sweeps_sent.saturating_sub(1);
        }
    }

    fn kept(&mut self, held: &[Held], kept: &[Option<Kept>]) {
        for (Held { identity, epoch, .. }, kept) in held.iter().zip(kept) {
            let session = identity.session;
            if self.local.epoch(session) != Some(*epoch) {
                continue;
            }
            match kept {
                Some(Kept::Ours) => {}
                Some(Kept::Newer) => {
                    self.probe.writes_fenced.increment();
                    self.lose(session, Loss::Replaced);
                }
                Some(Kept::Ended) => {
                    let reason = Some("ended while this node was away".into());
                    self.lose(session, Loss::Ended { reason });
                }
                None => self.compare_again(session, *epoch),
            }
        }
    }

    fn evicted(&mut self, Eviction { session, epoch, why }: Eviction) {
        let Some(known) = self.local.epoch(session) else { return };
        match why {
            Why::Replaced if known < epoch => self.lose(session, Loss::Replaced),
            Why::Ended { reason } if known <= epoch => self.lose(session, Loss::Ended { reason }),
            // It has come back since.
            Why::Replaced | Why::Ended { .. } => {}
        }
    }

    /// Another process has this node's name, and with it the sessions.
    fn dethrone(&mut self) {
        self.lease.failed();
        self.dethroned = true;
        let mut all: Vec<SessionId> = Vec::new();
        self.local.each(&mut |known| all.push(known.identity.session));
        all.into_iter().for_each(|session| self.lose(session, Loss::Identity));
    }

    fn failed(&mut self, command: Command, fault: &Fault) {
        match command {
            Command::Claim(claiming) => {
                self.claims = self.claims.saturating_sub(1);
                self.claim_failed(*claiming, fault);
            }
            Command::Keep { held, why, .. } => {
                self.no_longer_under_way(why);
                held.iter().for_each(|held| self.compare_again(held.identity.session, held.epoch));
            }
            Command::Cursors { .. } => {
                self.cursors_sent = None;
                self.keep_cursors(command);
            }
            Command::Poll { .. } => self.lease.failed(),
            Command::OfAccount { account, answer, .. } => {
                let _unheard = answer.send(self.local_of_account(&account));
            }
            Command::Release(_) | Command::Remove { .. } | Command::End(_) => {
                self.keep_unsent(command);
            }
            Command::Find { answer, .. } => {
                let _unheard = answer.send(Whereabouts::Unknown);
            }
            Command::Confirm { .. } => {}
        }
    }

    fn claim_failed(&mut self, claiming: Claiming, fault: &Fault) {
        debug!(reason = %fault, "a claim was not decided");
        let Claiming { claimed, session, epoch, rules, at, .. } = claiming;
        let before = self.decided.len();
        self.claim_alone(claimed, epoch);
        let refused = self
            .decided
            .iter()
            .skip(before)
            .any(|decision| matches!(decision.answer, ToShard::Refused { .. }));
        // If it was granted all the same, whoever comes next finds a session that waits. An earlier claim of
        // this node may have been granted with the epoch.
        let anothers = self.local.epoch(session) == Some(epoch);
        if refused && !anothers && matches!(fault, Fault::Unreachable | Fault::TimedOut) {
            let release =
                Release { session, epoch, identity: None, ended: at, cursor: None, rules, at };
            self.keep_unsent(Command::Release(Box::new(release)));
        }
    }
}

/// Times that a claim is made again because another one came first.
const RETRIES_MAX: u32 = 8;
