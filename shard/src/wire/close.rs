//! Close codes: which one says what, which may stand in a close frame, and which error ends in
//! which code.

use super::frame::FrameError;
use super::inbound::InboundError;

/// Every code that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    Normal = 1000,
    GoingAway = 1001,
    ProtocolError = 1002,
    UnsupportedMessage = 1003,
    InvalidText = 1007,
    PolicyViolation = 1008,
    MessageTooLong = 1009,
    InternalError = 1011,
    /// Slow consumer, or load is shed.
    TryAgainLater = 1013,
    /// Expired or invalidated.
    SessionEnded = 4001,
    /// Kicked, or a newer connection took the session.
    Replaced = 4002,
    RateAbuse = 4003,
    Idle = 4004,
    /// This node is no longer who the store thinks it is.
    IdentityLost = 4005,
}

/// What a conforming client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    No,
    /// At once, spread by its own jitter.
    WithJitter,
    Later,
    AfterLogin,
}

impl CloseCode {
    pub const ALL: [Self; 14] = [
        Self::Normal,
        Self::GoingAway,
        Self::ProtocolError,
        Self::UnsupportedMessage,
        Self::InvalidText,
        Self::PolicyViolation,
        Self::MessageTooLong,
        Self::InternalError,
        Self::TryAgainLater,
        Self::SessionEnded,
        Self::Replaced,
        Self::RateAbuse,
        Self::Idle,
        Self::IdentityLost,
    ];

    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The code for clients that know none of the gateway's own: what is no fault of theirs is 1000, and
    /// the reason tells the rest.
    #[must_use]
    pub const fn as_upstream(self) -> u16 {
        match self {
            Self::Normal
            | Self::GoingAway
            | Self::SessionEnded
            | Self::Replaced
            | Self::RateAbuse
            | Self::Idle
            | Self::IdentityLost => Self::Normal.code(),
            Self::ProtocolError
            | Self::UnsupportedMessage
            | Self::InvalidText
            | Self::PolicyViolation
            | Self::MessageTooLong
            | Self::InternalError
            | Self::TryAgainLater => self.code(),
        }
    }

    /// The reason text where the situation has none of its own.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Normal => "Session ended",
            Self::GoingAway => "Server shutdown",
            Self::ProtocolError => "Protocol error",
            Self::UnsupportedMessage => "Unsupported message kind",
            Self::InvalidText => "Invalid UTF-8",
            Self::PolicyViolation => "Policy violation",
            Self::MessageTooLong => "Message too long",
            Self::InternalError => "Internal error",
            Self::TryAgainLater => "Try again later",
            Self::SessionEnded => "Session invalidated",
            Self::Replaced => "New connection established",
            Self::RateAbuse => "Message rate exceeded",
            Self::Idle => "Idle",
            Self::IdentityLost => "Node identity lost",
        }
    }

    #[must_use]
    pub const fn reconnect(self) -> Reconnect {
        match self {
            Self::Normal
            | Self::ProtocolError
            | Self::UnsupportedMessage
            | Self::InvalidText
            | Self::PolicyViolation
            | Self::MessageTooLong
            | Self::Replaced => Reconnect::No,
            Self::GoingAway | Self::Idle | Self::IdentityLost => Reconnect::WithJitter,
            Self::InternalError | Self::TryAgainLater | Self::RateAbuse => Reconnect::Later,
            Self::SessionEnded => Reconnect::AfterLogin,
        }
    }

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Normal => "1000",
            Self::GoingAway => "1001",
            Self::ProtocolError => "1002",
            Self::UnsupportedMessage => "1003",
            Self::InvalidText => "1007",
            Self::PolicyViolation => "1008",
            Self::MessageTooLong => "1009",
            Self::InternalError => "1011",
            Self::TryAgainLater => "1013",
            Self::SessionEnded => "4001",
            Self::Replaced => "4002",
            Self::RateAbuse => "4003",
            Self::Idle => "4004",
            Self::IdentityLost => "4005",
        }
    }
}

impl From<InboundError> for CloseCode {
    fn from(error: InboundError) -> Self {
        match error {
            InboundError::Frame(error) => error.into(),
            InboundError::ContinuationWithoutStart
            | InboundError::MessageInsideMessage
            | InboundError::TruncatedCloseCode
            | InboundError::InvalidCloseCode => Self::ProtocolError,
            InboundError::InvalidUtf8 => Self::InvalidText,
            InboundError::TooManyControlFrames => Self::PolicyViolation,
            // By its bytes or by its frames, it is too big to process.
            InboundError::MessageTooLong
            | InboundError::TooManyFragments
            | InboundError::TooManyEmptyFragments => Self::MessageTooLong,
            InboundError::OutOfBlocks => Self::TryAgainLater,
        }
    }
}

impl From<FrameError> for CloseCode {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::ReservedBits
            | FrameError::UnknownOpCode
            | FrameError::FragmentedControl
            | FrameError::ControlTooLong
            | FrameError::NonMinimalLength
            | FrameError::LengthOverflow
            | FrameError::Unmasked
            | FrameError::Masked => Self::ProtocolError,
        }
    }
}

/// Whether an endpoint may put `code` into a close frame: RFC 6455 §7.4 with the codes that the
/// IANA registry added (1012–1014). 1004–1006 and 1015 are never sent.
#[must_use]
pub const fn is_valid_on_wire(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_an_endpoint_may_send_are_valid() {
        let valid =
            [1000, 1001, 1002, 1003, 1007, 1008, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
        let invalid = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535];
        assert!(valid.into_iter().all(is_valid_on_wire));
        assert!(!invalid.into_iter().any(is_valid_on_wire));
    }

    #[test]
    fn every_code_is_valid_labelled_by_its_number_and_its_reason_fits() {
        for code in CloseCode::ALL {
            assert!(is_valid_on_wire(code.code()), "{code:?}");
            assert_eq!(code.label(), code.code().to_string());
            assert!((1..=123).contains(&code.reason().len()), "{code:?}");
        }
    }

    #[test]
    fn a_replaced_session_must_not_reconnect_and_a_drained_one_may() {
        assert_eq!(CloseCode::Replaced.reconnect(), Reconnect::No);
        assert_eq!(CloseCode::GoingAway.reconnect(), Reconnect::WithJitter);
        assert_eq!(CloseCode::TryAgainLater.reconnect(), Reconnect::Later);
        assert_eq!(CloseCode::SessionEnded.reconnect(), Reconnect::AfterLogin);
    }

    #[test]
    fn errors_end_in_the_codes_of_the_rfc() {
        for (error, code) in [
            (InboundError::Frame(FrameError::ReservedBits), 1002),
            (InboundError::ContinuationWithoutStart, 1002),
            (InboundError::MessageInsideMessage, 1002),
            (InboundError::TruncatedCloseCode, 1002),
            (InboundError::InvalidCloseCode, 1002),
            (InboundError::InvalidUtf8, 1007),
            (InboundError::TooManyControlFrames, 1008),
            (InboundError::MessageTooLong, 1009),
            (InboundError::TooManyFragments, 1009),
            (InboundError::TooManyEmptyFragments, 1009),
            (InboundError::OutOfBlocks, 1013),
        ] {
            assert_eq!(CloseCode::from(error).code(), code, "{error:?}");
        }
    }
}
