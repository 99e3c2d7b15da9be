//! What the gateway sends on a link. Every method writes whole frames or nothing.

use std::time::Duration;

use super::body::{self, Gateway};
use super::credit::saturated;
use super::error::NotSent;
use super::frame::{OpCode, SendBuffer, message_len, write_control, write_message};
use super::prefix::{Kind, NO_ENDPOINT, Prefix};
use super::sessions::Opening;
use super::{Client, Link, LinkState, Pending};
use crate::clock::Instant;
use crate::id::{ConnectionKey, SessionId};
use crate::upstream::trace::Trace;

/// One frame for the backend: its header with the payload, in up to two pieces.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    /// From [`Link::endpoint`]; [`NO_ENDPOINT`] for a client's answer to an RPC.
    pub endpoint: u16,
    pub trace: Option<Trace>,
    pub frame: [&'a [u8]; 2],
}

impl Data<'_> {
    fn bytes(&self) -> usize {
        self.frame[0].len() + self.frame[1].len()
    }
}

impl<C> Link<C> {
    /// Says who calls and what may be called; after the upgrade, and again when the endpoints have
    /// grown.
    pub fn write_hello(
        &mut self,
        gateway: Gateway<'_>,
        out: &mut impl SendBuffer,
    ) -> Result<(), NotSent> {
        if matches!(self.state, LinkState::Dialling | LinkState::Upgrading | LinkState::Closed) {
            return Err(NotSent::NotOpen);
        }
        self.json.clear();
        body::hello(&mut self.json, gateway, self.endpoints.announced(), self.limits.window);
        self.write_json(Prefix::of(Kind::Hello, SessionId(0)), out)
    }

    /// Whether a message of this size need not wait: the question that the line of waiting calls
    /// asks. While the link is being established everything waits. On a link that is closed or
    /// takes no new sessions nothing does: [`Self::call`] then says why it was not sent.
    #[must_use]
    pub fn has_credit(&self, session: SessionId, owner: ConnectionKey, bytes: usize) -> bool {
        match self.state {
            LinkState::Dialling | LinkState::Upgrading | LinkState::Hello => false,
            LinkState::Closed => true,
            LinkState::Open | LinkState::GoingAway => match self.sessions.find(session) {
                Some((_, open)) if open.owner == owner => {
                    open.sent.admits(bytes, self.backend_window)
                }
                _ => true,
            },
        }
    }

    /// Sends a call that wants one answer by `deadline`, and opens its session first where needed.
    pub fn call(
        &mut self,
        client: &Client<'_>,
        data: Data<'_>,
        call: C,
        deadline: Instant,
        out: &mut impl SendBuffer,
    ) -> Result<(), NotSent> {
        if self.tags.is_full() {
            return Err(NotSent::NoTag);
        }
        let opening = self.admit(client, &data, out)?;
        let session = client.identity.session;
        let bytes = saturated(data.bytes());
        let tag = self.tags.issue(Pending { call, session, opening, bytes }, deadline);
        let sent = self.write_data(session, opening, tag, data, out);
        if sent.is_err() {
            // Opening the session may have taken the room that there was: nobody will answer.
            self.tags.redeem(tag);
        }
        sent
    }

    /// Sends what wants no answer: an event request, or a client's answer to an RPC.
    pub fn post(
        &mut self,
        client: &Client<'_>,
        data: Data<'_>,
        out: &mut impl SendBuffer,
    ) -> Result<(), NotSent> {
        let opening = self.admit(client, &data, out)?;
        self.write_data(client.identity.session, opening, 0, data, out)
    }

    /// Tells the backend that the client has gone, if its session is open here. On
    /// [`NotSent::NoRoom`] it stays open and this is to be called again.
    pub fn end_session(
        &mut self,
        session: SessionId,
        owner: ConnectionKey,
        reason: &str,
        out: &mut impl SendBuffer,
    ) -> Result<(), NotSent> {
        match self.sessions.find(session) {
            Some((_, open)) if open.owner == owner => {
                self.write_close_session(session, reason, out)
            }
            _ => Ok(()),
        }
    }

    /// A push of `bytes` has been handed on or dropped. Its credit goes back in one message per
    /// half window; without room it goes with a later one.
    pub fn handled(&mut self, session: SessionId, bytes: usize, out: &mut impl SendBuffer) {
        let window = self.limits.window;
        let Some(open) = self.sessions.find_mut(session) else {
            return;
        };
        if open.owed.messages() < open.received.messages() {
            open.owed.take(bytes);
        }
        if !open.owed.is_due(window) {
            return;
        }
        let owed = open.owed;
        self.json.clear();
        body::credit(&mut self.json, owed.messages(), owed.bytes());
        if self.write_json(Prefix::of(Kind::Credit, session), out).is_err() {
            return;
        }
        if let Some(open) = self.sessions.find_mut(session) {
            open.received.give_back(owed.messages(), owed.bytes());
            open.owed = Default::default();
        }
    }

    /// Announces that this link takes no new sessions and will be closed within `within`.
    pub fn go_away(&mut self, within: Duration, out: &mut impl SendBuffer) -> Result<(), NotSent> {
        if self.state != LinkState::Open {
            return Err(NotSent::NotOpen);
        }
        self.json.clear();
        body::goaway(&mut self.json, within);
        self.write_json(Prefix::of(Kind::GoAway, SessionId(0)), out)?;
        self.state = LinkState::GoingAway;
        Ok(())
    }

    /// Answers a Ping.
    pub fn pong(&mut self, payload: &[u8], out: &mut impl SendBuffer) -> Result<(), NotSent> {
        self.write_control(out, OpCode::Pong, payload)
    }

    /// Ends the link with a WebSocket Close; `reason` is at most 123 bytes. Then
    /// [`Self::pop_lost`].
    pub fn close(
        &mut self,
        code: u16,
        reason: &str,
        out: &mut impl SendBuffer,
    ) -> Result<(), NotSent> {
        let mut payload = [0; 125];
        let len = 2 + reason.floor_char_boundary(123);
        payload[..2].copy_from_slice(&code.to_be_bytes());
        payload[2..len].copy_from_slice(&reason.as_bytes()[..len - 2]);
        self.state = LinkState::Closed;
        self.write_control(out, OpCode::Close, &payload[..len])
    }

    /// Checks that the frame may go: state, credit, room. Opens the session if it is not open.
    fn admit(
        &mut self,
        client: &Client<'_>,
        data: &Data<'_>,
        out: &mut impl SendBuffer,
    ) -> Result<Opening, NotSent> {
        if !matches!(self.state, LinkState::Open | LinkState::GoingAway) {
            return Err(NotSent::NotOpen);
        }
        let len = message_len(data.bytes(), data.trace);
        match self.sessions.find(client.identity.session) {
            Some((opening, open)) if open.owner == client.owner => {
                if !open.sent.admits(data.bytes(), self.backend_window) {
                    return Err(NotSent::NoCredit);
                }
                if out.room() < len {
                    return Err(NotSent::NoRoom);
                }
                Ok(opening)
            }
            _ if self.state == LinkState::GoingAway => Err(NotSent::GoingAway),
            earlier => {
                let replaced = earlier.is_some();
                self.open_session(client, data.trace, replaced, len, out)
            }
        }
    }

    /// Opens the client's session; when another connection of it still stands open here, that one
    /// ends first.
    fn open_session(
        &mut self,
        client: &Client<'_>,
        trace: Option<Trace>,
        replaced: bool,
        data_len: usize,
        out: &mut impl SendBuffer,
    ) -> Result<Opening, NotSent> {
        let session = client.identity.session;
        self.json.clear();
        body::open(&mut self.json, client, trace);
        let mut len = data_len + message_len(self.json.len(), None);
        if replaced {
            len += message_len(REPLACED_BODY.len(), None);
        }
        if out.room() < len {
            return Err(NotSent::NoRoom);
        }
        if replaced {
            let mask = self.mask();
            let prefix = Prefix::of(Kind::Close, session);
            write_message(out, mask, prefix, None, [REPLACED_BODY.as_bytes(), &[]])?;
            self.sessions.close(session);
        }
        self.write_json(Prefix::of(Kind::Open, session), out)?;
        Ok(self.sessions.open(session, client.owner))
    }

    fn write_data(
        &mut self,
        session: SessionId,
        opening: Opening,
        tag: u32,
        data: Data<'_>,
        out: &mut impl SendBuffer,
    ) -> Result<(), NotSent> {
        let prefix = Prefix { kind: Kind::Data, endpoint: data.endpoint, tag, session };
        let mask = self.mask();
        write_message(out, mask, prefix, data.trace, data.frame)?;
        if let Some(open) = self.sessions.at(opening) {
            open.sent.take(data.bytes());
        }
        Ok(())
    }

    fn write_close_session(
        &mut self,
        session: SessionId,
        reason: &str,
        out: &mut impl SendBuffer,
    ) -> Result<(), NotSent> {
        self.json.clear();
        body::close(&mut self.json, reason);
        self.write_json(Prefix::of(Kind::Close, session), out)?;
        self.sessions.close(session);
        Ok(())
    }

    fn write_json(&mut self, prefix: Prefix, out: &mut impl SendBuffer) -> Result<(), NotSent> {
        debug_assert_eq!(prefix.endpoint, NO_ENDPOINT, "JSON concerns no endpoint");
        let mask = self.mask();
        write_message(out, mask, prefix, None, [&self.json, &[]])
    }

    pub(super) fn write_control(
        &mut self,
        out: &mut impl SendBuffer,
        opcode: OpCode,
        payload: &[u8],
    ) -> Result<(), NotSent> {
        let mask = self.mask();
        write_control(out, mask, opcode, payload)
    }
}

const REPLACED_BODY: &str = r#"{"reason":"replaced"}"#;
