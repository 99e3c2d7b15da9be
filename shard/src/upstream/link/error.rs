//! What ends a link, and the close code each cause is told with.

use thiserror::Error;

/// The backend broke the protocol, or does not answer. The link is closed; its calls answer 60.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkError {
    #[error("the upgrade response is not valid HTTP")]
    MalformedResponse,
    #[error("the upgrade was refused with status {0}")]
    Refused(u16),
    #[error("the upgrade response lacks a header or has a wrong one")]
    BadUpgrade,
    #[error("the backend did not choose the subprotocol corelane-link.1")]
    WrongSubprotocol,
    #[error("the backend chose an extension that was not offered")]
    UnofferedExtension,
    #[error("the connection was not established in time")]
    DialTimeout,
    #[error("the backend's hello did not come in time")]
    HelloTimeout,
    #[error("the backend answers no Ping")]
    Silent,
    #[error("a text message")]
    Text,
    #[error("a message shorter than its prefix")]
    Short,
    #[error("a message of an unknown kind, or of one that only the gateway sends")]
    UnknownKind,
    #[error("a flag that is not defined")]
    UnknownFlag,
    #[error("a message before the hello")]
    BeforeHello,
    #[error("a body that is not the JSON expected")]
    BadBody,
    #[error("no protocol version in common")]
    NoCommonVersion,
}

impl LinkError {
    /// `None` while there is no WebSocket yet: the socket is just closed.
    #[must_use]
    pub fn close_code(self) -> Option<u16> {
        match self {
            Self::MalformedResponse
            | Self::Refused(_)
            | Self::BadUpgrade
            | Self::WrongSubprotocol
            | Self::UnofferedExtension
            | Self::DialTimeout => None,
            Self::Text
            | Self::Short
            | Self::UnknownKind
            | Self::UnknownFlag
            | Self::BeforeHello
            | Self::BadBody => Some(1002),
            Self::HelloTimeout | Self::NoCommonVersion => Some(1008),
            Self::Silent => Some(1001),
        }
    }
}

/// Why a message was not written. The link is unharmed and nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotSent {
    #[error("the link is not open")]
    NotOpen,
    #[error("the link takes no new sessions")]
    GoingAway,
    #[error("the session's window is used up")]
    NoCredit,
    #[error("too many calls are outstanding")]
    NoTag,
    #[error("the send buffer has no room")]
    NoRoom,
}
