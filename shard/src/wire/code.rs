//! Response codes, and the one place that says which of them answers what: backend statuses and
//! the gateway's own overloads and errors.

use crate::probe::Shed;

/// Last byte of the 16-byte header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResponseCode {
    Ok = 0,
    RequestError = 10,
    RequestTooLarge = 11,
    TooManyRequests = 12,
    InvalidRequestChannel = 13,
    TextProtocolNotSupported = 14,
    Unauthorized = 20,
    ServiceNotFound = 30,
    ClientNotFound = 31,
    MessageNotFound = 32,
    BroadcastNotAllowed = 40,
    BackendBadRequest = 50,
    BackendNotFound = 51,
    BackendUnauthorized = 52,
    BackendConflict = 53,
    BackendError = 60,
    ShortcutExpired = 70,
    ShortcutTargetNotFound = 71,
    ShortcutRevoked = 72,
}

impl ResponseCode {
    pub const ALL: [Self; 19] = [
        Self::Ok,
        Self::RequestError,
        Self::RequestTooLarge,
        Self::TooManyRequests,
        Self::InvalidRequestChannel,
        Self::TextProtocolNotSupported,
        Self::Unauthorized,
        Self::ServiceNotFound,
        Self::ClientNotFound,
        Self::MessageNotFound,
        Self::BroadcastNotAllowed,
        Self::BackendBadRequest,
        Self::BackendNotFound,
        Self::BackendUnauthorized,
        Self::BackendConflict,
        Self::BackendError,
        Self::ShortcutExpired,
        Self::ShortcutTargetNotFound,
        Self::ShortcutRevoked,
    ];

    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    #[must_use]
    pub fn from_value(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.value() == value)
    }

    /// The name that the protocol gives it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::RequestError => "RequestError",
            Self::RequestTooLarge => "RequestTooLarge",
            Self::TooManyRequests => "TooManyRequests",
            Self::InvalidRequestChannel => "InvalidRequestChannel",
            Self::TextProtocolNotSupported => "TextProtocolNotSupported",
            Self::Unauthorized => "Unauthorized",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::ClientNotFound => "ClientNotFound",
            Self::MessageNotFound => "MessageNotFound",
            Self::BroadcastNotAllowed => "BroadcastNotAllowed",
            Self::BackendBadRequest => "Service_BadRequest",
            Self::BackendNotFound => "Service_NotFound",
            Self::BackendUnauthorized => "Service_Unauthorized",
            Self::BackendConflict => "Service_Conflict",
            Self::BackendError => "Service_InternalServerError",
            Self::ShortcutExpired => "ShortcutExpired",
            Self::ShortcutTargetNotFound => "ShortcutTargetNotFound",
            Self::ShortcutRevoked => "ShortcutRevoked",
        }
    }

    /// Code for a backend's HTTP status. The body is passed on for [`Self::Ok`] only.
    #[must_use]
    pub const fn from_http_status(status: u16) -> Self {
        match status {
            200 | 201 | 202 | 204 => Self::Ok,
            400 => Self::BackendBadRequest,
            401 | 403 => Self::BackendUnauthorized,
            404 => Self::BackendNotFound,
            409 => Self::BackendConflict,
            _ => Self::BackendError,
        }
    }
}

/// What the gateway itself refuses or fails inside a session; each is answered by one code and
/// counted under one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionRefusal {
    /// The lane to the target's shard is full.
    LaneFull,
    PeerOutboxFull,
    /// The target of a peer message is unknown, has left, or the GUID is forged.
    PeerGone,
    RateLimited,
    /// The session's line of waiting calls is full, also when it waits for link credit.
    CallLineFull,
    /// The service's cap of running calls on this shard is reached.
    ServiceBusy,
    /// No block is left to keep the message in.
    BlocksExhausted,
    BreakerOpen,
    CallTimedOut,
    BackendUnreachable,
    /// The session is told to go and takes no new call, or does not wait for its calls any longer.
    Departing,
    BackendBodyTooLong,
    /// The answer had to wait for earlier ones and there was no room left for it.
    HeldAnswerFull,
    MessageTooLong,
    /// An answer (0x40) that no pending RPC waits for.
    UnmatchedAnswer,
    /// A compressed payload that cannot be inflated.
    CompressedBadly,
    /// This turn has inflated as much as it may.
    InflatingBusy,
    /// The shard has too little memory left for new calls.
    ShortOfMemory,
}

impl SessionRefusal {
    pub const ALL: [Self; 18] = [
        Self::LaneFull,
        Self::PeerOutboxFull,
        Self::PeerGone,
        Self::RateLimited,
        Self::CallLineFull,
        Self::ServiceBusy,
        Self::BlocksExhausted,
        Self::BreakerOpen,
        Self::CallTimedOut,
        Self::BackendUnreachable,
        Self::Departing,
        Self::BackendBodyTooLong,
        Self::HeldAnswerFull,
        Self::MessageTooLong,
        Self::UnmatchedAnswer,
        Self::CompressedBadly,
        Self::InflatingBusy,
        Self::ShortOfMemory,
    ];

    #[must_use]
    pub const fn code(self) -> ResponseCode {
        match self {
            Self::LaneFull | Self::PeerOutboxFull | Self::PeerGone => ResponseCode::ClientNotFound,
            Self::RateLimited
            | Self::CallLineFull
            | Self::ServiceBusy
            | Self::BlocksExhausted
            | Self::InflatingBusy
            | Self::ShortOfMemory => ResponseCode::TooManyRequests,
            Self::BreakerOpen
            | Self::CallTimedOut
            | Self::BackendUnreachable
            | Self::Departing
            | Self::BackendBodyTooLong
            | Self::HeldAnswerFull => ResponseCode::BackendError,
            Self::MessageTooLong => ResponseCode::RequestTooLarge,
            Self::UnmatchedAnswer => ResponseCode::ServiceNotFound,
            Self::CompressedBadly => ResponseCode::RequestError,
        }
    }

    /// Where it is counted; `None` for what is a failure of the backend and nothing was shed.
    #[must_use]
    pub const fn shed(self) -> Option<Shed> {
        match self {
            Self::LaneFull => Some(Shed::LaneFull),
            Self::PeerOutboxFull => Some(Shed::PeerOutboxFull),
            Self::PeerGone => Some(Shed::PeerGone),
            Self::RateLimited => Some(Shed::RateLimited),
            Self::CallLineFull => Some(Shed::CallLineFull),
            Self::ServiceBusy => Some(Shed::ServiceBusy),
            Self::BlocksExhausted => Some(Shed::BlocksExhausted),
            Self::BreakerOpen => Some(Shed::BreakerOpen),
            Self::CallTimedOut => Some(Shed::CallTimedOut),
            Self::BackendUnreachable => None,
            Self::Departing => Some(Shed::Departing),
            Self::BackendBodyTooLong => Some(Shed::BackendBodyTooLong),
            Self::HeldAnswerFull => Some(Shed::HeldAnswerFull),
            Self::MessageTooLong => Some(Shed::MessageTooLong),
            Self::UnmatchedAnswer => Some(Shed::UnmatchedAnswer),
            Self::CompressedBadly => Some(Shed::CompressedBadly),
            Self::InflatingBusy => Some(Shed::InflatingBusy),
            Self::ShortOfMemory => Some(Shed::ShortOfMemory),
        }
    }

    /// Metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.shed().map_or("backend_unreachable", Shed::label)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_and_labels_are_distinct_and_values_round_trip() {
        let labels: HashSet<_> = ResponseCode::ALL.iter().map(|code| code.label()).collect();
        assert_eq!(labels.len(), ResponseCode::ALL.len());
        let known: Vec<u8> =
            (0..=u8::MAX).filter(|value| ResponseCode::from_value(*value).is_some()).collect();
        assert_eq!(
            known,
            [0, 10, 11, 12, 13, 14, 20, 30, 31, 32, 40, 50, 51, 52, 53, 60, 70, 71, 72]
        );
        for code in ResponseCode::ALL {
            assert_eq!(ResponseCode::from_value(code.value()), Some(code));
        }
    }

    #[test]
    fn http_statuses_outside_the_table_are_backend_errors() {
        let table = [
            (200, 0),
            (201, 0),
            (202, 0),
            (204, 0),
            (400, 50),
            (401, 52),
            (403, 52),
            (404, 51),
            (409, 53),
        ];
        for status in 0..1000 {
            let expected =
                table.iter().find(|(known, _)| *known == status).map_or(60, |(_, code)| *code);
            assert_eq!(ResponseCode::from_http_status(status).value(), expected, "{status}");
        }
    }

    #[test]
    fn every_refusal_has_its_own_label_and_is_answered_with_an_error() {
        let labels: HashSet<_> = SessionRefusal::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), SessionRefusal::ALL.len());
        let codes: Vec<u8> = SessionRefusal::ALL.iter().map(|r| r.code().value()).collect();
        assert_eq!(codes, [31, 31, 31, 12, 12, 12, 12, 60, 60, 60, 60, 60, 60, 11, 30, 10, 12, 12]);
    }
}
