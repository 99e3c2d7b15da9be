//! From a good credential to an open session: the question to the auth service, where only that
//! knows, and the claim on the session id, which the control core grants.

use std::sync::Arc;

use super::connection::Hold;
use super::door::Acceptance;
use super::players::Resumption;
use super::upgrade::Stage;
use super::{Engine, Role};
use crate::id::{ConnectionKey, Epoch, SessionId};
use crate::identity::{AuthRefusal, Identity, TokenFingerprint, Validated};
use crate::lane::{Claim, ClaimRefusal, Credential, End, Resumed, ToControl};
use crate::probe::Upgrade as Outcome;
use crate::sockets::Sockets;
use crate::wire::handshake::{ACCEPT_BYTES_MAX, Refusal};
use crate::wire::reconnect_token::Seal;

/// Who is at the door, as far as the shard can tell.
pub(super) enum Visitor {
    Known(Arc<Identity>),
    /// With a token of the shape of a reconnect token.
    Returning(SessionId, Seal),
}

/// A token that the auth service is to judge.
#[derive(Debug)]
pub(super) struct Validation {
    pub(super) acceptance: Acceptance,
    pub(super) token: TokenFingerprint,
}

/// A claim that the control core has not answered.
#[derive(Debug)]
pub(super) struct Claiming {
    acceptance: Acceptance,
    /// `None` with a reconnect token: the session's record knows.
    identity: Option<Arc<Identity>>,
    /// The newest claim that has overtaken this one.
    evicted: Option<Epoch>,
}

impl<S: Sockets> Engine<S> {
    /// Asks the control core about a token; the head waits.
    pub(super) fn validate(&mut self, key: ConnectionKey, validation: Validation, token: Box<str>) {
        let question = ToControl::Validate { key, token };
        if self.lanes.tell_control(question, self.now.mono).is_err() {
            let refusal = self.refused_token(AuthRefusal::Unavailable);
            return self.refuse(key, refusal);
        }
        self.validating += 1;
        if let Some(connection) = self.table.get_mut(key)
            && let Role::Head(head) = &mut connection.role
        {
            head.stage = Stage::Validating(validation);
        }
    }

    /// The answer to [`Self::validate`].
    pub(super) fn validated(
        &mut self,
        key: ConnectionKey,
        told: Result<Box<Validated>, AuthRefusal>,
    ) {
        self.validating -= 1;
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let Role::Head(head) = &mut connection.role else {
            return;
        };
        let Validation { acceptance, token } =
            match std::mem::replace(&mut head.stage, Stage::Reading) {
                Stage::Validating(validation) => validation,
                other => {
                    head.stage = other;
                    return;
                }
            };
        match told {
            Ok(told) => {
                let identity = self.authenticator.learn(token, *told, self.now);
                self.claim(key, acceptance, Visitor::Known(identity));
            }
            Err(why) => {
                let refusal = self.refused_token(why);
                self.refuse(key, refusal);
            }
        }
    }

    pub(super) fn claim(&mut self, key: ConnectionKey, acceptance: Acceptance, visitor: Visitor) {
        let peer = self.table.get(key).and_then(|connection| connection.peer);
        let (credential, identity) = match visitor {
            Visitor::Known(identity) => (Credential::Token(Arc::clone(&identity)), Some(identity)),
            Visitor::Returning(session, seal) => (Credential::Reconnect { session, seal }, None),
        };
        let claim = Box::new(Claim { credential, peer: peer.map(|(address, _)| address) });
        if self.lanes.tell_control(ToControl::Claim { key, claim }, self.now.mono).is_err() {
            return self.refuse(key, Refusal::Unavailable);
        }
        if let Some(connection) = self.table.get_mut(key)
            && let Role::Head(head) = &mut connection.role
        {
            head.stage = Stage::Claiming(Claiming { acceptance, identity, evicted: None });
        }
    }

    /// The control core has granted a claim.
    pub(super) fn granted(
        &mut self,
        key: ConnectionKey,
        session: SessionId,
        epoch: Epoch,
        resumed: Resumed,
    ) {
        let claim = self.table.get_mut(key).and_then(|connection| match &mut connection.role {
            Role::Head(head) => match std::mem::replace(&mut head.stage, Stage::Reading) {
                Stage::Claiming(claim) => Some((claim, head.carry.take())),
                Stage::Reading | Stage::Authenticating | Stage::Validating(_) => None,
            },
            _ => None,
        });
        let Some((Claiming { acceptance, identity, evicted }, early)) = claim else {
            // The client left while the claim was under way.
            return self.news.push(ToControl::Release { key, session, epoch, end: End::Resumable });
        };
        let (resumption, recorded) = match resumed {
            Resumed::Nothing => (Resumption::Fresh, None),
            Resumed::Session(recorded) => (Resumption::TakenUp, recorded),
        };
        let identity = match identity.or(recorded) {
            Some(identity) if evicted.is_none_or(|newest| epoch > newest) => identity,
            _ => {
                self.blocks_back(early);
                return self.refuse(key, Refusal::Replaced);
            }
        };
        let mut answer = [0; ACCEPT_BYTES_MAX];
        let len = acceptance.write(&mut answer);
        if self.say(key, &answer[..len]).is_err() {
            self.blocks_back(early);
            return self.news.push(ToControl::Release { key, session, epoch, end: End::Resumable });
        }
        self.probe.upgrade(Outcome::Accepted);
        // The 101 leaves alone; whatever comes next waits for the first frame's time.
        if let Some(connection) = self.table.get_mut(key) {
            connection.hold = Hold::BehindThis;
        }
        self.open_session(key, identity, epoch, resumption, acceptance.accepts_brotli);
        if let Some(mut early) = early {
            self.read_early(key, early.as_mut_slice());
            self.blocks.give_back(early);
        }
    }

    pub(super) fn claim_refused(&mut self, key: ConnectionKey, why: ClaimRefusal) {
        let claiming = self.table.get(key).is_some_and(|connection| {
            matches!(&connection.role, Role::Head(head) if matches!(head.stage, Stage::Claiming(_)))
        });
        if claiming {
            self.refuse(
                key,
                match why {
                    ClaimRefusal::Full => Refusal::Full,
                    ClaimRefusal::Draining => Refusal::Draining,
                    ClaimRefusal::Unavailable => Refusal::Unavailable,
                    ClaimRefusal::TooMany => Refusal::TooMany,
                    ClaimRefusal::Unknown | ClaimRefusal::Revoked | ClaimRefusal::Mismatch => {
                        Refusal::BadCredential
                    }
                },
            );
        }
    }

    /// A newer claim has overtaken the one of `key`: told when its own answer comes.
    pub(super) fn claim_overtaken(&mut self, key: ConnectionKey, epoch: Epoch) {
        if let Some(connection) = self.table.get_mut(key)
            && let Role::Head(head) = &mut connection.role
            && let Stage::Claiming(claim) = &mut head.stage
        {
            claim.evicted = claim.evicted.max(Some(epoch));
        }
    }
}
