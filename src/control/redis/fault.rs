//! What goes wrong with Redis, as far as it makes a difference.

use redis::{ErrorKind, RedisError, ServerError};
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("it cannot be reached")]
    Unreachable,
    #[error("it does not answer in time")]
    TimedOut,
    #[error("user or password is not accepted: {0}; see redis.user and redis.password_file")]
    Refused(Box<str>),
    #[error("it is a replica; name the primary in redis.url, or redis.sentinel")]
    ReadOnly,
    #[error("it is still loading its data, or has lost its primary")]
    NotReady,
    #[error("its memory is used up; raise its maxmemory")]
    OutOfMemory,
    #[error("it has lost a script")]
    NoScript,
    #[error("it says: {0}")]
    Server(Box<str>),
    #[error("no Sentinel knows a primary called {0:?}; see redis.sentinel")]
    UnknownPrimary(Box<str>),
    #[error("cannot read redis.password_file: {0}")]
    PasswordFile(Box<str>),
}

impl Fault {
    pub(super) const LABELS: [&'static str; 10] = [
        "unreachable",
        "timed_out",
        "refused",
        "read_only",
        "not_ready",
        "out_of_memory",
        "no_script",
        "server",
        "unknown_primary",
        "password_file",
    ];

    /// Position in [`Self::LABELS`].
    pub(super) fn index(&self) -> usize {
        match self {
            Self::Unreachable => 0,
            Self::TimedOut => 1,
            Self::Refused(_) => 2,
            Self::ReadOnly => 3,
            Self::NotReady => 4,
            Self::OutOfMemory => 5,
            Self::NoScript => 6,
            Self::Server(_) => 7,
            Self::UnknownPrimary(_) => 8,
            Self::PasswordFile(_) => 9,
        }
    }

    /// Another connection may do better.
    pub(super) fn is_of_the_link(&self) -> bool {
        match self {
            Self::Unreachable
            | Self::TimedOut
            | Self::Refused(_)
            | Self::ReadOnly
            | Self::NotReady => true,
            Self::OutOfMemory
            | Self::NoScript
            | Self::Server(_)
            | Self::UnknownPrimary(_)
            | Self::PasswordFile(_) => false,
        }
    }

    pub(super) fn of_code(code: &str, text: String) -> Self {
        match code {
            "READONLY" => Self::ReadOnly,
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::Refused(text.into()),
            "LOADING" | "MASTERDOWN" => Self::NotReady,
            "OOM" => Self::OutOfMemory,
            "NOSCRIPT" => Self::NoScript,
            // What a command within a script says stands in the text of the script's own error.
            _ if text.contains("READONLY") => Self::ReadOnly,
            _ if text.contains("OOM command not allowed") => Self::OutOfMemory,
            _ => Self::Server(text.into()),
        }
    }
}

impl From<&ServerError> for Fault {
    fn from(error: &ServerError) -> Self {
        let detail = error.details().unwrap_or_default();
        Self::of_code(error.code(), format!("{} {detail}", error.code()))
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Refused(error.to_string().into()),
            ErrorKind::Io => Self::Unreachable,
            _ => match error.code() {
                Some(code) => Self::of_code(code, error.to_string()),
                None => Self::Server(error.to_string().into()),
            },
        }
    }
}
