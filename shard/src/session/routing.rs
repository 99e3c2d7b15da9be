//! The routing decision of one session: which way a client's message goes, in the order that
//! docs/PROTOCOL.md promises ("Which way a message goes").
//!
//! The caller owns the message, the clocks and everything that sessions share; nothing here
//! allocates but a full GUID table on the rare path ([`super::guid_index`]).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, Now};
use crate::id::{EndpointId, SessionId};
use crate::identity::Identity;
use crate::session::capability::CapabilitySet;
use crate::session::client_ack;
use crate::session::fingerprints::FingerprintTables;
use crate::session::guid_index::{GuidIndex, Remembered};
use crate::session::message_id::MessageIds;
use crate::session::rate::{Allowance, Offences, OverLimit, RateLimits, Tolerance};
use crate::session::rpc::PendingRpcs;
use crate::session::shortcuts::{Shortcut, ShortcutIndex, Shortcuts};
use crate::session::verdict::{CloseReason, TextVerdict, Verdict};
use crate::snapshot::{CapabilitySource, ConnectionMode, Snapshot};
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::guid::{Guid, PeerKeys};
use crate::wire::header::{Flags, Header, Priority, ReplyTo, RequestHeader, ResponseHeader};
use crate::wire::meta::MetaKind;

/// One authenticated client connection; owned by its slot on its shard.
#[derive(Debug)]
pub struct Session {
    identity: Arc<Identity>,
    capabilities: Rc<CapabilitySet>,
    index: GuidIndex,
    allowance: Allowance,
    short_frames: Offences,
    message_ids: MessageIds,
    text_refusals: u32,
    inbound_priority: InboundPriority,
    granted_by: GrantedBy,
    shortcuts: Shortcuts,
    rpcs: PendingRpcs,
}

/// What a decision needs and a session does not own.
#[derive(Debug)]
pub struct RoutingContext<'a> {
    /// The version that the session's capability set was made from.
    pub snapshot: &'a Snapshot,
    /// Of the same snapshot.
    pub rates: &'a RateLimits,
    pub peer_keys: &'a PeerKeys,
    pub tables: &'a mut FingerprintTables,
    pub now: Now,
}

/// Whether the client's 0x08 flag has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InboundPriority {
    Honoured,
    Ignored,
}

/// What a session's capability set follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantedBy {
    /// Nothing: there is no manifest yet.
    Nobody,
    Roles,
    /// An event: it outlives a change of the configuration.
    Event,
}

/// Where an analysed message goes.
#[derive(Debug, Clone, Copy)]
enum Target {
    Endpoint(EndpointId),
    Shortcut(ShortcutIndex),
    Peer,
    Broadcast,
}

/// Why analysis found no target.
#[derive(Debug, Clone, Copy)]
enum Invalid {
    Code(ResponseCode),
    /// The GUID might be one of the session's, but finding out costs more than is left to it.
    TooManyUnknown,
}

impl Session {
    /// `capabilities` and `snapshot` are of one version. `seed` makes the message ids.
    #[must_use]
    pub fn new(
        identity: Arc<Identity>,
        capabilities: Rc<CapabilitySet>,
        snapshot: &Snapshot,
        seed: u64,
    ) -> Self {
        Self {
            inbound_priority: inbound_priority(&identity, snapshot),
            identity,
            capabilities,
            index: GuidIndex::default(),
            allowance: Allowance::default(),
            short_frames: Offences::default(),
            message_ids: MessageIds::new(seed),
            text_refusals: 0,
            granted_by: match snapshot.session.capabilities {
                CapabilitySource::Roles => GrantedBy::Roles,
                CapabilitySource::Events => GrantedBy::Nobody,
            },
            shortcuts: Shortcuts::default(),
            rpcs: PendingRpcs::default(),
        }
    }

    #[must_use]
    pub fn id(&self) -> SessionId {
        self.identity.session
    }

    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    #[must_use]
    pub fn capabilities(&self) -> &CapabilitySet {
        &self.capabilities
    }

    #[must_use]
    pub fn granted_by(&self) -> GrantedBy {
        self.granted_by
    }

    #[must_use]
    pub fn shortcut(&self, index: ShortcutIndex) -> Option<&Shortcut> {
        self.shortcuts.at(index)
    }

    #[must_use]
    pub fn shortcuts(&self) -> &Shortcuts {
        &self.shortcuts
    }

    pub fn shortcuts_mut(&mut self) -> &mut Shortcuts {
        &mut self.shortcuts
    }

    #[must_use]
    pub fn rpcs(&self) -> &PendingRpcs {
        &self.rpcs
    }

    pub fn rpcs_mut(&mut self) -> &mut PendingRpcs {
        &mut self.rpcs
    }

    /// A fresh id for a message of the gateway to this client.
    pub fn next_message_id(&mut self, now: Now) -> u64 {
        self.message_ids.next(now)
    }

    /// The greatest id of a message of the gateway to this client.
    #[must_use]
    pub fn newest_message_id(&self) -> u64 {
        self.message_ids.newest()
    }

    /// Replaces everything that came from the configuration. Must happen before the next message
    /// is routed with the new snapshot: indices of two versions do not mix. The allowance starts
    /// anew, since what is spent of it was measured by the old limits.
    pub fn adopt(
        &mut self,
        capabilities: Rc<CapabilitySet>,
        snapshot: &Snapshot,
        tables: &mut FingerprintTables,
    ) {
        self.replace_capabilities(capabilities, tables);
        self.inbound_priority = inbound_priority(&self.identity, snapshot);
        self.allowance = Allowance::default();
    }

    /// An event has said what the session may call.
    pub fn grant(&mut self, capabilities: Rc<CapabilitySet>, tables: &mut FingerprintTables) {
        self.replace_capabilities(capabilities, tables);
        self.granted_by = GrantedBy::Event;
    }

    /// The same capabilities under another version of the configuration, or others.
    pub fn replace_capabilities(
        &mut self,
        capabilities: Rc<CapabilitySet>,
        tables: &mut FingerprintTables,
    ) {
        self.index.clear(tables);
        self.capabilities = capabilities;
    }

    /// Nothing has come from the client for a while: what only helps with its calls is let go.
    pub fn rest(&mut self) {
        self.index.rest();
    }

    /// Gives back what the session holds of the shard's pools.
    pub fn end(&mut self, tables: &mut FingerprintTables) {
        self.index.clear(tables);
    }

    /// Decides about one whole binary message. `None` only when it is too short to be answered.
    pub fn on_binary(
        &mut self,
        message: &[u8],
        ctx: &mut RoutingContext<'_>,
    ) -> (Option<ReplyTo>, Verdict) {
        debug_assert_eq!(ctx.snapshot.version, self.capabilities.version());
        let Ok(header) = Header::parse(message) else {
            return (None, self.short_frame(ctx.now.mono));
        };
        let verdict = match &header {
            Header::Response(answer) => self.route_answer(answer, ctx),
            Header::Request(request) => {
                let payload = &message[RequestHeader::LEN..];
                self.route_request(request, payload, ctx)
            }
        };
        (Some(header.reply_to()), verdict)
    }

    /// Decides about a message that is longer than allowed, from the bytes that are there of it;
    /// the rest of it is being discarded.
    pub fn on_too_long(
        &mut self,
        head: &[u8],
        ctx: &RoutingContext<'_>,
    ) -> (Option<ReplyTo>, Verdict) {
        let Ok(header) = Header::parse(head) else {
            return (None, Verdict::Close(CloseReason::MessageTooLong));
        };
        let verdict = match self.allowance.spend_lax(ctx.rates, ctx.now.mono) {
            Ok(()) => Verdict::Refuse(SessionRefusal::MessageTooLong),
            Err(over) => over.into(),
        };
        (Some(header.reply_to()), verdict)
    }

    /// Text is answered 14 from a sequence of its own, or 12 when there was too much of it. In the
    /// Internal mode nothing is answered.
    pub fn on_text(&mut self, mode: ConnectionMode, rates: &RateLimits, now: Now) -> TextVerdict {
        if mode == ConnectionMode::Internal {
            return TextVerdict::Ignore;
        }
        let code = match self.allowance.spend_lax(rates, now.mono) {
            Ok(()) => ResponseCode::TextProtocolNotSupported,
            Err(OverLimit::Refused) => ResponseCode::TooManyRequests,
            Err(OverLimit::Abused) => return TextVerdict::Close(CloseReason::RateAbuse),
        };
        self.text_refusals = self.text_refusals.wrapping_add(1);
        let answer = ResponseHeader {
            flags: Flags::RESPONSE,
            channel: 0,
            sequence: self.text_refusals,
            message_id: self.message_ids.next(now),
            code: code.value(),
        };
        TextVerdict::Refuse(answer.to_bytes())
    }

    /// A Pong that answers no Ping: ignored, but not for free.
    pub fn on_unsolicited_pong(&mut self, rates: &RateLimits, now: Now) -> Result<(), CloseReason> {
        match self.allowance.spend_lax(rates, now.mono) {
            Ok(()) | Err(OverLimit::Refused) => Ok(()),
            Err(OverLimit::Abused) => Err(CloseReason::RateAbuse),
        }
    }

    /// Step 1. What matches no RPC has no GUID to be routed by.
    fn route_answer(&mut self, answer: &ResponseHeader, ctx: &RoutingContext<'_>) -> Verdict {
        if let Some(rpc) = self.rpcs.take(answer.message_id) {
            return Verdict::RpcAnswer { rpc, code: answer.code };
        }
        match self.allowance.spend_lax(ctx.rates, ctx.now.mono) {
            Ok(()) => Verdict::Refuse(SessionRefusal::UnmatchedAnswer),
            Err(over) => over.into(),
        }
    }

    /// Steps 2 to 5: analysis, meta, errors of the analysis, rate limit.
    fn route_request(
        &mut self,
        request: &RequestHeader,
        payload: &[u8],
        ctx: &mut RoutingContext<'_>,
    ) -> Verdict {
        if request.guid == Guid::NULL && request.flags == Flags::EVENT {
            return self.client_ack(payload, ctx);
        }
        let empty = payload.is_empty();
        let is_meta = request.flags.contains(Flags::META);
        let target = if is_meta && is_reserved(request.guid) {
            Err(Invalid::Code(ResponseCode::ServiceNotFound))
        } else {
            self.analyse(request, empty, ctx)
        };
        let target = match target {
            Ok(target) => target,
            Err(Invalid::Code(code)) => return self.invalid(code, ctx),
            Err(Invalid::TooManyUnknown) => {
                return self.allowance.refuse(ctx.rates, ctx.now.mono).into();
            }
        };
        if is_meta {
            return self.meta(request, target, ctx);
        }
        match self.allowance.spend_routed(ctx.rates, ctx.now.mono) {
            Ok(()) => self.dispatch(request, target, ctx),
            Err(over) => over.into(),
        }
    }

    /// Stands before step 2: the only message of a client to the gateway itself.
    fn client_ack(&mut self, payload: &[u8], ctx: &RoutingContext<'_>) -> Verdict {
        let Ok(sequence) = client_ack::sequence(payload) else {
            return self.invalid(ResponseCode::RequestError, ctx);
        };
        match self.allowance.spend_lax(ctx.rates, ctx.now.mono) {
            Ok(()) => Verdict::Acknowledged { sequence },
            Err(over) => over.into(),
        }
    }

    /// Step 2, in the protocol's order.
    fn analyse(
        &mut self,
        request: &RequestHeader,
        empty: bool,
        ctx: &mut RoutingContext<'_>,
    ) -> Result<Target, Invalid> {
        let flags = request.flags;
        let shortcut = self.shortcuts.find(request.guid);
        let may_be_empty = flags.contains(Flags::EVENT) || flags.contains(Flags::META);
        if empty && !may_be_empty && shortcut.is_none() {
            return Err(Invalid::Code(ResponseCode::RequestError));
        }
        if let Some((index, shortcut)) = shortcut {
            if shortcut.expires_unix_ms.is_some_and(|at| at <= ctx.now.unix_ms) {
                self.shortcuts.revoke(request.guid);
                return Err(Invalid::Code(ResponseCode::ShortcutExpired));
            }
            return match shortcut.target {
                Some(_) => Ok(Target::Shortcut(index)),
                None => Err(Invalid::Code(ResponseCode::ShortcutTargetNotFound)),
            };
        }
        if request.guid == Guid::BROADCAST {
            return if flags.contains(Flags::CLIENT) {
                Ok(Target::Broadcast)
            } else {
                Err(Invalid::Code(ResponseCode::RequestError))
            };
        }
        let target = if flags.contains(Flags::CLIENT) {
            Target::Peer
        } else {
            Target::Endpoint(self.look_up(request.guid, ctx)?)
        };
        if request.channel > ctx.snapshot.session.channel_max {
            return Err(Invalid::Code(ResponseCode::InvalidRequestChannel));
        }
        Ok(target)
    }

    /// An unknown GUID costs a derivation of the whole set, so it is paid for in advance.
    fn look_up(&mut self, guid: Guid, ctx: &mut RoutingContext<'_>) -> Result<EndpointId, Invalid> {
        let found = match self.index.recall(guid, ctx.tables) {
            Remembered::Found(endpoint) => return Ok(endpoint),
            Remembered::Unknown => None,
            Remembered::Missed if self.allowance.lax_is_spent(ctx.rates, ctx.now.mono) => {
                return Err(Invalid::TooManyUnknown);
            }
            Remembered::Missed => {
                self.index.derive(guid, self.identity.session, &self.capabilities, ctx.tables)
            }
        };
        found.ok_or(Invalid::Code(ResponseCode::ServiceNotFound))
    }

    /// Step 3.
    fn meta(
        &mut self,
        request: &RequestHeader,
        target: Target,
        ctx: &RoutingContext<'_>,
    ) -> Verdict {
        let endpoint = match target {
            Target::Endpoint(endpoint) => Ok(endpoint),
            Target::Shortcut(index) => self.endpoint_of(index).ok_or(ResponseCode::Unauthorized),
            Target::Peer | Target::Broadcast => Err(ResponseCode::ServiceNotFound),
        };
        let endpoint = match endpoint {
            Ok(endpoint) => endpoint,
            Err(code) => return self.invalid(code, ctx),
        };
        match self.allowance.spend_lax(ctx.rates, ctx.now.mono) {
            Ok(()) => Verdict::Meta { endpoint, kind: MetaKind::from_channel(request.channel) },
            Err(over) => over.into(),
        }
    }

    /// Step 6.
    fn dispatch(
        &self,
        request: &RequestHeader,
        target: Target,
        ctx: &RoutingContext<'_>,
    ) -> Verdict {
        let wants_reply = request.flags.wants_reply();
        match target {
            Target::Endpoint(endpoint) => Verdict::Call { endpoint, wants_reply },
            Target::Shortcut(shortcut) => Verdict::Shortcut { shortcut, wants_reply },
            Target::Peer if !ctx.snapshot.session.peer_routing => {
                Verdict::Reply(ResponseCode::BroadcastNotAllowed)
            }
            Target::Peer => match ctx.peer_keys.decode(request.guid) {
                Some(route) => Verdict::Peer {
                    route,
                    guid: request.guid,
                    acknowledge: wants_reply,
                    priority: self.priority(request.flags),
                },
                None => Verdict::Refuse(SessionRefusal::PeerGone),
            },
            Target::Broadcast => match ctx.snapshot.mode {
                ConnectionMode::External => Verdict::Reply(ResponseCode::BroadcastNotAllowed),
                ConnectionMode::Relayed | ConnectionMode::Internal => {
                    Verdict::Broadcast { priority: self.priority(request.flags) }
                }
            },
        }
    }

    /// The endpoint that is a shortcut's target, if the session may call it by itself too.
    fn endpoint_of(&self, index: ShortcutIndex) -> Option<EndpointId> {
        let target = self.shortcuts.at(index)?.target?;
        self.capabilities.contains(target).then_some(target)
    }

    fn priority(&self, flags: Flags) -> Priority {
        match self.inbound_priority {
            InboundPriority::Honoured if flags.contains(Flags::PRIORITY) => Priority::Urgent,
            InboundPriority::Honoured | InboundPriority::Ignored => Priority::Normal,
        }
    }

    /// Answers an invalid message, as long as there are not too many of them.
    fn invalid(&mut self, code: ResponseCode, ctx: &RoutingContext<'_>) -> Verdict {
        match self.allowance.spend_lax(ctx.rates, ctx.now.mono) {
            Ok(()) => Verdict::Reply(code),
            Err(over) => over.into(),
        }
    }

    fn short_frame(&mut self, now: Instant) -> Verdict {
        match self.short_frames.add(SHORT_FRAMES_MAX, SHORT_FRAMES_WINDOW, now) {
            Tolerance::Tolerated => Verdict::Ignore,
            Tolerance::Exhausted => Verdict::Close(CloseReason::ShortFrames),
        }
    }
}

fn inbound_priority(identity: &Identity, snapshot: &Snapshot) -> InboundPriority {
    let honoured = &snapshot.session.priority_roles;
    if identity.standing.roles.iter().any(|role| honoured.contains(role)) {
        InboundPriority::Honoured
    } else {
        InboundPriority::Ignored
    }
}

fn is_reserved(guid: Guid) -> bool {
    guid == Guid::NULL || guid == Guid::BROADCAST
}

const SHORT_FRAMES_MAX: u32 = 10;
const SHORT_FRAMES_WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
