//! What is to be done with a message. The session says it, the engine does it.

use thiserror::Error;

use crate::id::EndpointId;
use crate::session::rate::OverLimit;
use crate::session::rpc::PendingRpc;
use crate::session::shortcuts::ShortcutIndex;
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::guid::{Guid, PeerRoute};
use crate::wire::header::{Priority, ResponseHeader, WantsReply};
use crate::wire::meta::MetaKind;

/// The engine still holds the message; a verdict never carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Call the endpoint with the payload.
    Call {
        endpoint: EndpointId,
        wants_reply: WantsReply,
    },
    /// Ask the endpoint's backend about the endpoint; always answered.
    Meta {
        endpoint: EndpointId,
        kind: MetaKind,
    },
    /// Call the shortcut's target with the shortcut's payload, see
    /// [`super::routing::Session::shortcut`].
    Shortcut {
        shortcut: ShortcutIndex,
        wants_reply: WantsReply,
    },
    /// Forward the message unchanged. The route's seal is verified; whether someone is there is
    /// not. A failure is answered 31 whatever `acknowledge` says.
    Peer {
        route: PeerRoute,
        guid: Guid,
        acknowledge: WantsReply,
        priority: Priority,
    },
    /// Forward the message unchanged to every other session; never acknowledged.
    Broadcast {
        priority: Priority,
    },
    /// Hand the client's answer to whoever sent the RPC.
    RpcAnswer {
        rpc: PendingRpc,
        code: u8,
    },
    /// The client's application has handled the events up to this message id.
    Acknowledged {
        sequence: u64,
    },
    /// Answer with this code and no payload.
    Reply(ResponseCode),
    /// Count the refusal and answer with its code and no payload.
    Refuse(SessionRefusal),
    /// A message too short to be answered; to be counted.
    Ignore,
    Close(CloseReason),
}

impl From<OverLimit> for Verdict {
    fn from(over: OverLimit) -> Self {
        match over {
            OverLimit::Refused => Self::Refuse(SessionRefusal::RateLimited),
            OverLimit::Abused => Self::Close(CloseReason::RateAbuse),
        }
    }
}

/// Why a session must end over what its client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CloseReason {
    #[error("too many messages shorter than their header")]
    ShortFrames,
    #[error("the message rate limit was ignored for too long")]
    RateAbuse,
    #[error("a message is too long and has no readable header")]
    MessageTooLong,
}

impl CloseReason {
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::ShortFrames => 1002,
            Self::RateAbuse => 4003,
            Self::MessageTooLong => 1009,
        }
    }
}

/// Answer to a text message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextVerdict {
    /// Send this 16-byte message.
    Refuse([u8; ResponseHeader::LEN]),
    /// Count it and say nothing.
    Ignore,
    Close(CloseReason),
}
