//! What a whole control frame says. Header rules are [`crate::wire::frame`]'s.

use super::{Arrival, InboundError};
use crate::wire::close::is_valid_on_wire;
use crate::wire::frame::{ControlKind, ControlPayload};

/// `payload` is unmasked.
pub(super) fn arrival(kind: ControlKind, payload: ControlPayload) -> Result<Arrival, InboundError> {
    match kind {
        ControlKind::Ping => Ok(Arrival::Ping(payload)),
        ControlKind::Pong => Ok(Arrival::Pong(payload)),
        ControlKind::Close => close(payload.as_slice()),
    }
}

/// RFC 6455 §5.5.1 and §7.4.
fn close(payload: &[u8]) -> Result<Arrival, InboundError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(Arrival::Close { code: None, reason: ControlPayload::EMPTY }),
            _ => Err(InboundError::TruncatedCloseCode),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !is_valid_on_wire(code) {
        return Err(InboundError::InvalidCloseCode);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(InboundError::InvalidUtf8);
    }
    Ok(Arrival::Close { code: Some(code), reason: ControlPayload::new(reason) })
}
