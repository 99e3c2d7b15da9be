//! Why the receive side gives up.

use crate::wire::frame::FrameError;

/// Why a connection must end; [`CloseCode`](crate::wire::close::CloseCode) says with
/// which code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("continuation frame without a message to continue")]
    ContinuationWithoutStart,
    #[error("new message inside an unfinished one")]
    MessageInsideMessage,
    #[error("close frame with half a code")]
    TruncatedCloseCode,
    #[error("close code that may not be sent")]
    InvalidCloseCode,
    #[error("text that is not UTF-8")]
    InvalidUtf8,
    #[error("message above the hard limit")]
    MessageTooLong,
    #[error("too many fragments")]
    TooManyFragments,
    #[error("too many empty fragments")]
    TooManyEmptyFragments,
    #[error("too many control frames in a second")]
    TooManyControlFrames,
    #[error("no block left to collect a message in")]
    OutOfBlocks,
}
