//! Response codes, and the one place that says which of them answers what: backend statuses and
//! the gateway's own overloads and errors.

use crate::probe::Shed;

/// The enum, the list of all of it and their names from one table, so that the list is whole.
macro_rules! response_codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $value:literal => $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($variant = $value,)+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that the protocol gives it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

response_codes! {
    /// Last byte of the 16-byte header: what the gateway answers. The protocol names two codes more,
    /// 32 (MessageNotFound) and 72 (ShortcutRevoked), that are never sent: they cannot be said here.
    ResponseCode {
        Ok = 0 => "OK",
        RequestError = 10 => "RequestError",
        RequestTooLarge = 11 => "RequestTooLarge",
        TooManyRequests = 12 => "TooManyRequests",
        InvalidRequestChannel = 13 => "InvalidRequestChannel",
        TextProtocolNotSupported = 14 => "TextProtocolNotSupported",
        Unauthorized = 20 => "Unauthorized",
        ServiceNotFound = 30 => "ServiceNotFound",
        ClientNotFound = 31 => "ClientNotFound",
        BroadcastNotAllowed = 40 => "BroadcastNotAllowed",
        BackendBadRequest = 50 => "Service_BadRequest",
        BackendNotFound = 51 => "Service_NotFound",
        BackendUnauthorized = 52 => "Service_Unauthorized",
        BackendConflict = 53 => "Service_Conflict",
        BackendError = 60 => "Service_InternalServerError",
        ShortcutExpired = 70 => "ShortcutExpired",
        ShortcutTargetNotFound = 71 => "ShortcutTargetNotFound",
    }
}

impl ResponseCode {
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    #[must_use]
    pub fn from_value(value: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.value() == value)
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
        assert_eq!(known, [0, 10, 11, 12, 13, 14, 20, 30, 31, 40, 50, 51, 52, 53, 60, 70, 71]);
        for code in ResponseCode::ALL {
            assert_eq!(ResponseCode::from_value(code.value()), Some(*code));
        }
    }

    #[test]
    fn what_the_protocol_never_sends_cannot_be_said() {
        for unused in [32, 72] {
            assert_eq!(ResponseCode::from_value(unused), None);
            assert!(ResponseCode::ALL.iter().all(|code| code.value() != unused), "{unused}");
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
