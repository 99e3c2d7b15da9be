//! The door: a request head, from its first byte to the verdict about it. A bounded number of fresh
//! tokens is judged in a turn.
//!
//! What a verdict leads to is elsewhere: to a claim, and only then a 101 ([`super::claiming`]), or to
//! a whole refusal ([`super::refusing`]).

use super::claiming::{Claiming, Validation, Visitor};
use super::door::{Acceptance, internal_identity};
use super::{Engine, Role};
use crate::block::Block;
use crate::clock::Instant;
use crate::id::ConnectionKey;
use crate::identity::{AuthRefusal, Judgement, TokenFingerprint};
use crate::probe::{CredentialRoute, Upgrade as Outcome};
use crate::session::liveness::Liveness;
use crate::snapshot::ConnectionMode;
use crate::sockets::Sockets;
use crate::upstream::trace::Trace;
use crate::wire::handshake::{
    ACCEPT_BYTES_MAX, Credential, HEALTH_BYTES_MAX, Parsed, Refusal, Request, health_response,
    resume,
};
use crate::wire::proxy_protocol;

/// Fresh tokens judged in one turn; further upgrades wait for the next.
const FRESH_TOKENS_PER_TURN: u64 = 8;

/// Bytes that a client may send behind its request head before the 101.
const EARLY_BYTES_MAX: usize = 16 << 10;

/// A client at the door.
#[derive(Debug)]
pub(super) struct Head {
    /// The head so far, when it did not come in one piece or waits to be authenticated; once the
    /// claim is made, the frames that came early.
    pub(super) carry: Option<Block>,
    /// Bytes of `carry` known not to end the head.
    scanned: usize,
    until: Instant,
    /// It came at the wrong moment: it is read and told so.
    turned_away: Option<Refusal>,
    /// Sent by a trusted proxy: its client's address is in its fields.
    pub(super) names_its_client: bool,
    /// Among those who wait, by the address of its connection.
    pub(super) counted: bool,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    Reading,
    /// The head is whole and waits for a turn that may judge its token.
    Authenticating,
    Validating(Validation),
    Claiming(Claiming),
}

impl Head {
    pub(super) fn new(until: Instant, turned_away: Option<Refusal>) -> Self {
        Self {
            carry: None,
            scanned: 0,
            until,
            turned_away,
            names_its_client: false,
            counted: false,
            stage: Stage::Reading,
        }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn wait_until(&mut self, until: Instant) {
        self.until = until;
    }

    pub(super) fn is_turned_away(&self) -> bool {
        self.turned_away.is_some()
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

impl<S: Sockets> Engine<S> {
    /// Reads more of the head of `key`. When the door opened at once, returns where in `bytes` the
    /// first frame may begin.
    pub(super) fn read_head(&mut self, key: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        let connection = self.table.get_mut(key)?;
        let Role::Head(head) = &mut connection.role else {
            return None;
        };
        let (scanned, turned_away) = (head.scanned, head.turned_away);
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
        let all = carry.as_ref().map_or(bytes, Block::as_slice);
        let verdict = self.judge(key, all, scanned, turned_away);
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
            let (turned_away, carry) = (head.turned_away, head.carry.take());
            head.stage = Stage::Reading;
            let bytes = carry.as_ref().map_or(&[][..], Block::as_slice);
            let verdict = self.judge(key, bytes, 0, turned_away);
            self.follow(key, verdict, carry, &[]);
        }
    }

    pub(super) fn append(
        &mut self,
        carry: Option<Block>,
        bytes: &[u8],
    ) -> Result<Option<Block>, Refusal> {
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

    /// The order of the door: address, path and method, capacity, origin, credential, signature.
    fn judge(
        &mut self,
        key: ConnectionKey,
        all: &[u8],
        scanned: usize,
        turned_away: Option<Refusal>,
    ) -> Verdict {
        if self.options.door.proxies.header.is_some() && proxy_protocol::is_header(all) {
            return Verdict::Refuse(Refusal::ForeignProxyHeader);
        }
        let (request, head_len) = match resume(all, scanned, &self.options.head) {
            Ok(Parsed::Incomplete) => return Verdict::Incomplete,
            Ok(Parsed::Request { request, head_len }) => (request, head_len),
            Err(refusal) => return Verdict::Refuse(refusal),
        };
        if let Err(refusal) = self.name_forwarded(key, &request) {
            return Verdict::Refuse(refusal);
        }
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
        if let Some(refusal) = turned_away {
            return Verdict::Refuse(refusal);
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

    fn may_judge_token(&self) -> bool {
        self.authenticator.fresh_tokens() - self.fresh_before_turn < FRESH_TOKENS_PER_TURN
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
            let opened = std::mem::replace(&mut connection.role, Role::Echo(Box::new(liveness)));
            let peer = connection.peer;
            self.left_the_door(&opened, peer);
        }
        self.set_deadline(key);
        let _said = self.say(key, &answer[..len]);
    }

    fn answer_health(&mut self, key: ConnectionKey) {
        let mut answer = [0; HEALTH_BYTES_MAX];
        let len = health_response(self.drain.health(), &mut answer);
        self.probe.upgrade(Outcome::Health);
        let _said = self.say(key, &answer[..len]);
        self.end_head(key);
    }

    pub(super) fn release_head(&mut self, head: Head) {
        self.blocks_back(head.carry);
    }

    pub(super) fn blocks_back(&mut self, block: Option<Block>) {
        if let Some(block) = block {
            self.blocks.give_back(block);
        }
    }
}
