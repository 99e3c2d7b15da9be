//! The four questions about an endpoint that a meta request can ask.

/// What the client wants to know about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKind {
    Info,
    RequestSchema,
    ResponseSchema,
    Full,
}

impl MetaKind {
    #[must_use]
    pub const fn from_channel(channel: u16) -> Self {
        match channel {
            1 => Self::RequestSchema,
            2 => Self::ResponseSchema,
            3 => Self::Full,
            _ => Self::Info,
        }
    }

    /// Appended to the endpoint's path.
    #[must_use]
    pub const fn path_suffix(self) -> &'static str {
        match self {
            Self::Info => "/meta/info",
            Self::RequestSchema => "/meta/request-schema",
            Self::ResponseSchema => "/meta/response-schema",
            Self::Full => "/meta/schema",
        }
    }
}
