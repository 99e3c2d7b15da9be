//! What a backend sends on a link. A broken link message ends the link; a message that is only
//! useless (unknown tag, closed session) is dropped and the link goes on.

use std::ops::Range;
use std::time::Duration;

use super::body;
use super::error::LinkError;
use super::prefix::{Kind, Prefix};
use super::{Link, LinkState};
use crate::id::{ConnectionKey, SessionId};

/// What a message means. Ranges are offsets into the message: a frame with its 16- or 31-byte
/// header, as the client is to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound<C> {
    /// Both hellos have been said: calls that waited for the link may go.
    Ready,
    Answer {
        call: C,
        /// 0 or 50–60.
        code: u8,
        frame: Range<usize>,
    },
    /// The backend has answered with something that is no answer: 60.
    BadAnswer { call: C },
    /// For the client of `owner`. Then [`Link::handled`] with the frame's length.
    Push { owner: ConnectionKey, session: SessionId, kind: Push, frame: Range<usize> },
    /// Calls of `owner` that waited for credit may go.
    Credit { owner: ConnectionKey },
    /// The backend has forgotten the session; its next call opens it again.
    Forgotten { owner: ConnectionKey },
    /// No new sessions here; the backend closes within this time.
    GoAway { within: Option<Duration> },
    /// Counted by the caller.
    Dropped(Dropped),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    Event,
    /// The client answers with a 16-byte header frame.
    Rpc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// An answer to no outstanding call of this session: late, repeated or made up.
    UnknownTag,
    /// Push, credit or close for a session that is not open on this link.
    UnknownSession,
    /// A push beyond the session's window.
    PushWithoutCredit,
    /// A push without a whole 31-byte header, or with flags that no push has.
    MalformedPush,
    /// The link is closed already.
    Closed,
}

const RESPONSE_HEADER_LEN: usize = 16;
const REQUEST_HEADER_LEN: usize = 31;

const FLAG_BINARY: u8 = 0x01;
const FLAG_EVENT: u8 = 0x10;
const FLAG_CLIENT: u8 = 0x20;
const FLAG_RESPONSE: u8 = 0x40;
const FLAG_META: u8 = 0x80;

impl<C> Link<C> {
    /// Takes one whole binary message. After an error the link is to be closed with
    /// [`LinkError::close_code`]. A text message is [`LinkError::Text`].
    pub fn receive(&mut self, message: &[u8]) -> Result<Inbound<C>, LinkError> {
        let (prefix, at) = Prefix::parse(message)?;
        let body = &message[at..];
        match self.state {
            LinkState::Open | LinkState::GoingAway => {}
            LinkState::Hello if prefix.kind == Kind::Hello => {}
            LinkState::Dialling | LinkState::Upgrading | LinkState::Hello => {
                return Err(LinkError::BeforeHello);
            }
            LinkState::Closed => return Ok(Inbound::Dropped(Dropped::Closed)),
        }
        match prefix.kind {
            Kind::Hello => {
                self.backend_window = body::parse_hello(body)?;
                if self.state == LinkState::Hello {
                    self.state = LinkState::Open;
                }
                Ok(Inbound::Ready)
            }
            Kind::Open => Err(LinkError::UnknownKind),
            Kind::Close => Ok(match self.sessions.close(prefix.session) {
                Some(open) => Inbound::Forgotten { owner: open.owner },
                None => Inbound::Dropped(Dropped::UnknownSession),
            }),
            Kind::Data if prefix.tag == 0 => Ok(self.push(prefix.session, body, at)),
            Kind::Data => Ok(self.answer(prefix, body, at)),
            Kind::Credit => {
                let (messages, bytes) = body::parse_credit(body)?;
                Ok(match self.sessions.find_mut(prefix.session) {
                    Some(open) => {
                        open.sent.give_back(messages, bytes);
                        Inbound::Credit { owner: open.owner }
                    }
                    None => Inbound::Dropped(Dropped::UnknownSession),
                })
            }
            Kind::GoAway => {
                let within = body::parse_goaway(body)?;
                if self.state == LinkState::Open {
                    self.state = LinkState::GoingAway;
                }
                Ok(Inbound::GoAway { within })
            }
        }
    }

    fn answer(&mut self, prefix: Prefix, body: &[u8], at: usize) -> Inbound<C> {
        // The session must be the call's own: a tag alone gives no backend a way to another client.
        let known = self.tags.peek(prefix.tag).is_some_and(|p| p.session == prefix.session);
        let Some(pending) = known.then(|| self.tags.redeem(prefix.tag)).flatten() else {
            return Inbound::Dropped(Dropped::UnknownTag);
        };
        let call = self.settle(pending);
        let code = match body.first_chunk::<RESPONSE_HEADER_LEN>() {
            Some(header) if header[0] & FLAG_RESPONSE != 0 => header[15],
            _ => return Inbound::BadAnswer { call },
        };
        match code {
            0 => Inbound::Answer { call, code, frame: at..at + body.len() },
            // Only success carries a payload.
            50..=60 => Inbound::Answer { call, code, frame: at..at + RESPONSE_HEADER_LEN },
            _ => Inbound::BadAnswer { call },
        }
    }

    fn push(&mut self, session: SessionId, body: &[u8], at: usize) -> Inbound<C> {
        let window = self.limits.window;
        let Some(open) = self.sessions.find_mut(session) else {
            return Inbound::Dropped(Dropped::UnknownSession);
        };
        if !open.received.admits(body.len(), window) {
            return Inbound::Dropped(Dropped::PushWithoutCredit);
        }
        open.received.take(body.len());
        let kind = match body.first_chunk::<REQUEST_HEADER_LEN>() {
            Some([flags, ..]) if flags & (FLAG_CLIENT | FLAG_RESPONSE | FLAG_META) == 0 => {
                match (flags & FLAG_EVENT, flags & FLAG_BINARY) {
                    (0, 0) => None,
                    (0, _) => Some(Push::Rpc),
                    _ => Some(Push::Event),
                }
            }
            _ => None,
        };
        let Some(kind) = kind else {
            // The backend spent credit on it all the same; it goes back with the next grant.
            open.owed.take(body.len());
            return Inbound::Dropped(Dropped::MalformedPush);
        };
        let owner = open.owner;
        Inbound::Push { owner, session, kind, frame: at..at + body.len() }
    }
}
