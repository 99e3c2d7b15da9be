//! The door: from the first byte of a request head to an open WebSocket, or a whole refusal.
//!
//! `/connect` passes reading, authentication (a bounded number of fresh tokens a turn, a bounded number
//! of questions to the auth service) and the claim on its session id, which the control core grants;
//! only then comes the 101.

use std::rc::Rc;
use std::sync::Arc;

use super::connection::{Connection, Fin, Hold, Phase};
use super::door::{Acceptance, internal_identity};
use super::players::Resumption;
use super::{Engine, Role};
use crate::block::Block;
use crate::clock::Instant;
use crate::id::{ConnectionKey, Epoch, SessionId};
use crate::identity::{AuthRefusal, Identity, Judgement, TokenFingerprint, Validated};
use crate::lane::{
    Claim, ClaimRefusal, Claimant, Credential as Proof, End, Resumed, ToControl, UpgradeRefused,
};
use crate::probe::{CredentialRoute, Upgrade as Outcome};
use crate::session::liveness::Liveness;
use crate::snapshot::ConnectionMode;
use crate::sockets::Sockets;
use crate::upstream::trace::Trace;
use crate::wire::handshake::{
    ACCEPT_BYTES_MAX, Credential, HEALTH_BYTES_MAX, Parsed, REFUSAL_BYTES_MAX, Refusal, Request,
    health_response, resume,
};

use crate::wire::reconnect_token::Seal;

/// Fresh tokens judged in one turn; further upgrades wait for the next.
const FRESH_TOKENS_PER_TURN: u64 = 8;

/// Bytes that a client may send behind its request head before the 101.
const EARLY_BYTES_MAX: usize = 16 << 10;

/// A client at the door.
#[derive(Debug)]
pub(super) struct Head {
    /// The head so far, when it did not come in one piece or waits to be authenticated; once the
    /// claim is made, the frames that came early.
    carry: Option<Block>,
    /// Bytes of `carry` known not to end the head.
    scanned: usize,
    until: Instant,
    /// The shard was full when it came: it is read and told so.
    crowded: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Reading,
    /// The head is whole and waits for a turn that may judge its token.
    Authenticating,
    Validating(Validation),
    Claiming(Claiming),
}

/// A token that the auth service is to judge.
#[derive(Debug)]
struct Validation {
    acceptance: Acceptance,
    token: TokenFingerprint,
}

/// A claim that the control core has not answered.
#[derive(Debug)]
struct Claiming {
    acceptance: Acceptance,
    /// `None` with a reconnect token: the session's record knows.
    identity: Option<Rc<Identity>>,
    /// The newest claim that has overtaken this one.
    evicted: Option<Epoch>,
}

impl Head {
    pub(super) fn new(until: Instant, crowded: bool) -> Self {
        Self { carry: None, scanned: 0, until, crowded, stage: Stage::Reading }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }
}

/// What is to be done about a head.
enum Verdict {
    Incomplete,
    /// Whole, but this turn has verified enough.
    Later,
    Refuse(Refusal),
    Health,
    Echo {
        acceptance: Acceptance,
        head_len: usize,
    },
    Claim {
        acceptance: Acceptance,
        visitor: Visitor,
        trace: Option<Trace>,
        head_len: usize,
    },
    Validate {
        validation: Validation,
        token: Box<str>,
        trace: Option<Trace>,
        head_len: usize,
    },
}

/// What a credential leads to.
enum Admission {
    Visitor(Visitor),
    Ask(TokenFingerprint, Box<str>),
}

/// Who is at the door, as far as the shard can tell.
enum Visitor {
    Known(Rc<Identity>),
    /// With a token of the shape of a reconnect token.
    Returning(SessionId, Seal),
}

impl<S: Sockets> Engine<S> {
    /// Reads more of the head of `key`. When the door opened at once, returns where in `bytes` the
    /// first frame may begin.
    pub(super) fn read_head(&mut self, key: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        let connection = self.table.get_mut(key)?;
        let Role::Head(head) = &mut connection.role else {
            return None;
        };
        let (scanned, crowded) = (head.scanned, head.crowded);
        let carried = head.carry.take();
        let reading = matches!(head.stage, Stage::Reading);
        let carry = match self.append(carried, bytes) {
            Ok(carry) => carry,
            Err(refusal) => {
                self.refuse(key, refusal);
                return None;
            }
        };
        if !reading {
            self.keep_early(key, carry, bytes);
            return None;
        }
        let verdict = self.judge(carry.as_ref().map_or(bytes, Block::as_slice), scanned, crowded);
        self.follow(key, verdict, carry, bytes)
    }

    /// Judges heads that were put off, now that tokens may be judged again.
    pub(super) fn authenticate_waiting(&mut self) {
        self.fresh_before_turn = self.authenticator.fresh_tokens();
        while self.may_judge_token() {
            let Some(key) = self.authenticating.pop_front() else {
                return;
            };
            let Some(connection) = self.table.get_mut(key) else {
                continue;
            };
            let Role::Head(head) = &mut connection.role else {
                continue;
            };
            let (crowded, carry) = (head.crowded, head.carry.take());
            head.stage = Stage::Reading;
            let bytes = carry.as_ref().map_or(&[][..], Block::as_slice);
            let verdict = self.judge(bytes, 0, crowded);
            self.follow(key, verdict, carry, &[]);
        }
    }

    fn append(&mut self, carry: Option<Block>, bytes: &[u8]) -> Result<Option<Block>, Refusal> {
        let Some(carry) = carry else { return Ok(None) };
        match self.blocks.grow(carry, bytes.len()) {
            Ok(mut carry) => {
                carry.append(bytes);
                Ok(Some(carry))
            }
            Err(carry) => {
                self.blocks.give_back(carry);
                Err(Refusal::Full)
            }
        }
    }

    fn follow(
        &mut self,
        key: ConnectionKey,
        verdict: Verdict,
        carry: Option<Block>,
        bytes: &[u8],
    ) -> Option<usize> {
        match verdict {
            Verdict::Incomplete => self.keep_head(key, carry, bytes, Stage::Reading),
            Verdict::Later => {
                self.keep_head(key, carry, bytes, Stage::Authenticating);
                self.authenticating.push_back(key);
            }
            Verdict::Refuse(refusal) => {
                self.blocks_back(carry);
                self.refuse(key, refusal);
            }
            Verdict::Health => {
                self.blocks_back(carry);
                self.answer_health(key);
            }
            Verdict::Echo { acceptance, head_len } => {
                self.open_echo(key, acceptance);
                let Some(mut carry) = carry else {
                    return Some(head_len);
                };
                self.read_early(key, &mut carry.as_mut_slice()[head_len..]);
                self.blocks.give_back(carry);
            }
            Verdict::Claim { acceptance, visitor, trace, head_len } => {
                self.keep_brought_trace(key, trace);
                self.claim(key, acceptance, visitor);
                self.keep_behind(key, head_len, carry, bytes);
            }
            Verdict::Validate { validation, token, trace, head_len } => {
                self.keep_brought_trace(key, trace);
                self.validate(key, validation, token);
                self.keep_behind(key, head_len, carry, bytes);
            }
        }
        None
    }

    /// Keeps what came behind a head that has been judged.
    fn keep_behind(
        &mut self,
        key: ConnectionKey,
        head_len: usize,
        carry: Option<Block>,
        bytes: &[u8],
    ) {
        match carry {
            Some(mut carry) => {
                carry.consume(head_len);
                self.keep_early(key, Some(carry), &[]);
            }
            None => self.keep_early(key, None, &bytes[head_len..]),
        }
    }

    /// The order of the door: path and method, capacity, origin, credential, signature.
    fn judge(&mut self, all: &[u8], scanned: usize, crowded: bool) -> Verdict {
        let (request, head_len) = match resume(all, scanned, &self.options.head) {
            Ok(Parsed::Incomplete) => return Verdict::Incomplete,
            Ok(Parsed::Request { request, head_len }) => (request, head_len),
            Err(refusal) => return Verdict::Refuse(refusal),
        };
        let path = request.target.path;
        let echo = self.options.echo_path.as_deref() == Some(path);
        if path == "/health" {
            return match request.method {
                "GET" => Verdict::Health,
                _ => Verdict::Refuse(Refusal::MethodNotAllowed),
            };
        }
        if !echo && path != "/connect" {
            return Verdict::Refuse(Refusal::NotFound);
        }
        let nonce = match request.upgrade() {
            Ok(upgrade) => *upgrade.key,
            Err(refusal) => return Verdict::Refuse(refusal),
        };
        if crowded {
            return Verdict::Refuse(Refusal::Full);
        }
        if self.drain.refuses_sessions() {
            return Verdict::Refuse(Refusal::Draining);
        }
        if !self.options.door.admits_origin(request.origin) {
            return Verdict::Refuse(Refusal::OriginRefused);
        }
        let acceptance = self.options.door.acceptance(nonce, &request);
        if echo {
            return Verdict::Echo { acceptance, head_len };
        }
        if !self.may_judge_token() {
            return Verdict::Later;
        }
        match self.authenticate(&request) {
            Ok(Admission::Visitor(visitor)) => {
                let trace = self.brought_trace(&request);
                Verdict::Claim { acceptance, visitor, trace, head_len }
            }
            Ok(Admission::Ask(fingerprint, token)) => {
                let trace = self.brought_trace(&request);
                let validation = Validation { acceptance, token: fingerprint };
                Verdict::Validate { validation, token, trace, head_len }
            }
            Err(refusal) => Verdict::Refuse(refusal),
        }
    }

    fn authenticate(&mut self, request: &Request<'_>) -> Result<Admission, Refusal> {
        if self.snapshot.mode == ConnectionMode::Internal {
            let route = self.options.door.internal.admit(request)?;
            self.probe.door.credential(route);
            let identity = internal_identity(&self.internal_standing, &mut self.random);
            return Ok(Admission::Visitor(Visitor::Known(identity)));
        }
        let (routes, limits) = (&self.options.door.routes, &self.options.head);
        let (route, token) = match request.credential(limits)? {
            Some(Credential::Bearer(token)) if routes.header => {
                (CredentialRoute::Header, token.into())
            }
            Some(Credential::Reconnect(token)) if routes.header => {
                self.probe.door.credential(CredentialRoute::Reconnect);
                let read = self.reconnect_keys.read(token);
                let (session, seal) = read.ok_or(Refusal::BadCredential)?;
                return Ok(Admission::Visitor(Visitor::Returning(session, seal)));
            }
            Some(Credential::Bearer(_) | Credential::Reconnect(_)) => {
                return Err(Refusal::BadCredential);
            }
            None => routes.other_token(request, limits)?.ok_or(Refusal::NoCredential)?,
        };
        self.probe.door.credential(route);
        match self.authenticator.judge(&token, self.now) {
            Judgement::Accepted(identity) => Ok(Admission::Visitor(Visitor::Known(identity))),
            Judgement::Refused(why) => Err(self.refused_token(why)),
            Judgement::Ask(_) if self.validating >= self.options.door.validations_max => {
                Err(self.refused_token(AuthRefusal::Unavailable))
            }
            Judgement::Ask(fingerprint) => Ok(Admission::Ask(fingerprint, (*token).into())),
        }
    }

    fn refused_token(&self, why: AuthRefusal) -> Refusal {
        self.probe.door.refused(why);
        match why {
            AuthRefusal::Unavailable => Refusal::Unavailable,
            AuthRefusal::Malformed
            | AuthRefusal::AlgorithmMismatch
            | AuthRefusal::UnknownKey
            | AuthRefusal::BadSignature
            | AuthRefusal::Expired
            | AuthRefusal::NotYetValid
            | AuthRefusal::WrongParty
            | AuthRefusal::NoSession
            | AuthRefusal::Revoked
            | AuthRefusal::NotAccepted => Refusal::BadCredential,
        }
    }

    /// Asks the control core about a token; the head waits.
    fn validate(&mut self, key: ConnectionKey, validation: Validation, token: Box<str>) {
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

    fn may_judge_token(&self) -> bool {
        self.authenticator.fresh_tokens() - self.fresh_before_turn < FRESH_TOKENS_PER_TURN
    }

    fn claim(&mut self, key: ConnectionKey, acceptance: Acceptance, visitor: Visitor) {
        let peer = self.table.get(key).and_then(|connection| connection.peer);
        let (session, credential, identity) = match visitor {
            Visitor::Known(identity) => {
                let claimant = Claimant {
                    account: identity.account.clone(),
                    standing: Arc::clone(&identity.standing),
                    expires_at: identity.expires_at,
                    issued_at: identity.issued_at,
                };
                (identity.session, Proof::Token(claimant), Some(identity))
            }
            Visitor::Returning(session, seal) => (session, Proof::Reconnect(seal), None),
        };
        let claim = Box::new(Claim { session, credential, peer: peer.map(|(address, _)| address) });
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
            Resumed::Session(claimant) => (Resumption::TakenUp, claimant),
        };
        let identity = identity.or_else(|| recorded.map(|who| Rc::new(who.identity(session))));
        let identity = match identity {
            Some(identity) if evicted.is_none_or(|newest| epoch > newest) => identity,
            _ => {
                self.blocks_back(early);
                return self.refuse(key, Refusal::Replaced);
            }
        };
        let mut answer = [0; ACCEPT_BYTES_MAX];
        let len = acceptance.write(&mut answer);
        self.probe.upgrade(Outcome::Accepted);
        self.say(key, &answer[..len]);
        let opening = self.table.get_mut(key).filter(|connection| connection.phase == Phase::Open);
        let Some(connection) = opening else {
            // The 101 found no room.
            self.blocks_back(early);
            return self.news.push(ToControl::Release { key, session, epoch, end: End::Resumable });
        };
        // Whatever comes next waits for the first frame's time.
        connection.hold = Hold::BehindThis;
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

    fn keep_early(&mut self, key: ConnectionKey, carry: Option<Block>, bytes: &[u8]) {
        let kept = match carry {
            Some(carry) => Some(carry),
            None if bytes.is_empty() => None,
            None => match self.blocks.take(bytes.len()) {
                Some(mut block) => {
                    block.append(bytes);
                    Some(block)
                }
                None => return self.refuse(key, Refusal::Full),
            },
        };
        let too_much = kept.as_ref().is_some_and(|kept| kept.len() > EARLY_BYTES_MAX);
        match self.table.get_mut(key).map(|connection| &mut connection.role) {
            Some(Role::Head(head)) if !too_much => head.carry = kept,
            Some(Role::Head(_)) => {
                self.blocks_back(kept);
                self.refuse(key, Refusal::HeadTooLarge);
            }
            _ => self.blocks_back(kept),
        }
    }

    fn keep_head(&mut self, key: ConnectionKey, carry: Option<Block>, bytes: &[u8], stage: Stage) {
        let carry = carry.or_else(|| {
            let mut block = self.blocks.take(bytes.len())?;
            block.append(bytes);
            Some(block)
        });
        let Some(carry) = carry else {
            return self.refuse(key, Refusal::Full);
        };
        if let Some(connection) = self.table.get_mut(key)
            && let Role::Head(head) = &mut connection.role
        {
            head.scanned = carry.len();
            head.carry = Some(carry);
            head.stage = stage;
        }
    }

    fn open_echo(&mut self, key: ConnectionKey, acceptance: Acceptance) {
        let mut answer = [0; ACCEPT_BYTES_MAX];
        let len = acceptance.write(&mut answer);
        self.probe.upgrade(Outcome::Accepted);
        if let Some(connection) = self.table.get_mut(key) {
            let liveness = Liveness::new(&self.limits.session, self.now.mono);
            connection.role = Role::Echo(Box::new(liveness));
        }
        self.set_deadline(key);
        self.say(key, &answer[..len]);
    }

    fn answer_health(&mut self, key: ConnectionKey) {
        let mut answer = [0; HEALTH_BYTES_MAX];
        let len = health_response(self.drain.health(), &mut answer);
        self.probe.upgrade(Outcome::Health);
        self.say(key, &answer[..len]);
        self.end_head(key);
    }

    /// Answers a refusal whole, then ends the connection.
    pub(super) fn refuse(&mut self, key: ConnectionKey, refusal: Refusal) {
        let mut answer = [0; REFUSAL_BYTES_MAX];
        let len = refusal.write(self.retry_after_s(), &mut answer);
        self.probe.upgrade(refusal.outcome());
        self.report_refusal(key, refusal);
        self.say(key, &answer[..len]);
        self.end_head(key);
    }

    pub(super) fn head_timed_out(&mut self, key: ConnectionKey) {
        let ours = self.table.get(key).is_some_and(|connection| {
            matches!(
                &connection.role,
                Role::Head(head) if matches!(head.stage, Stage::Validating(_) | Stage::Claiming(_))
            )
        });
        self.refuse(key, if ours { Refusal::Unavailable } else { Refusal::HeadTimeout });
    }

    pub(super) fn release_head(&mut self, head: Head) {
        self.blocks_back(head.carry);
    }

    /// One line for the operators; lost when the lane is full, the counter is not.
    fn report_refusal(&mut self, key: ConnectionKey, refusal: Refusal) {
        let line = UpgradeRefused {
            shard: self.options.shard,
            peer: self.table.get(key).and_then(Connection::peer_address),
            status: refusal.status(),
            reason: refusal.label(),
        };
        if self.log_lines.take() {
            drop(self.lanes.tell_control(ToControl::UpgradeRefused(Box::new(line)), self.now.mono));
        }
    }

    fn end_head(&mut self, key: ConnectionKey) {
        self.end_role(key, 0, "refused at the door");
        self.start_leaving(key, Fin::Flushed);
    }

    fn say(&mut self, key: ConnectionKey, bytes: &[u8]) {
        if self.queue_raw(key, bytes).is_err() {
            self.cut(key, "no block for the answer at the door");
        }
    }

    pub(super) fn blocks_back(&mut self, block: Option<Block>) {
        if let Some(block) = block {
            self.blocks.give_back(block);
        }
    }

    /// Seconds to come back after, spread so that those refused together do not return together.
    fn retry_after_s(&mut self) -> u32 {
        self.random.u32(1..=5)
    }
}
