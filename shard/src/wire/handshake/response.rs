//! The answers that are not refusals: the 101 of an accepted upgrade, and the health check's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::head::Cursor;

/// Longest subprotocol that [`accept`] can echo.
pub const SUBPROTOCOL_BYTES_MAX: usize = 64;

/// Room that [`accept`] needs.
pub const ACCEPT_BYTES_MAX: usize = 256;

/// Room that [`health_response`] needs.
pub const HEALTH_BYTES_MAX: usize = 256;

/// What `GET /health` says of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Ready,
    Unavailable,
}

/// Writes the 101 (RFC 6455 §4.2.2) and returns its length. `subprotocol` is one of the server's
/// own that the client has offered, at most [`SUBPROTOCOL_BYTES_MAX`] long; a longer one is left out.
/// `out` has room for [`ACCEPT_BYTES_MAX`].
pub fn accept(key: &[u8; 24], subprotocol: Option<&str>, out: &mut [u8]) -> usize {
    let digest = Sha1::new().chain_update(key).chain_update(WEBSOCKET_GUID).finalize();
    let mut value = [0; 28];
    STANDARD.encode_slice(digest, &mut value).expect("20 bytes make 28 characters");
    let mut head = Cursor::new(out);
    head.put(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    head.put(b"Sec-WebSocket-Accept: ").put(&value).put(b"\r\n");
    if let Some(name) = subprotocol.filter(|name| name.len() <= SUBPROTOCOL_BYTES_MAX) {
        head.put(b"Sec-WebSocket-Protocol: ").put(name.as_bytes()).put(b"\r\n");
    }
    head.put(b"\r\n").len()
}

/// Writes the whole answer to `GET /health`, after which the connection is closed, and returns its
/// length. `out` has room for [`HEALTH_BYTES_MAX`].
pub fn health_response(health: Health, out: &mut [u8]) -> usize {
    let (status, body): (&[u8], &[u8]) = match health {
        Health::Ready => (b"200 OK", b"Healthy"),
        Health::Unavailable => (b"503 Service Unavailable", b"Service unavailable"),
    };
    let mut head = Cursor::new(out);
    head.put(b"HTTP/1.1 ").put(status).put(b"\r\nConnection: close\r\nCache-Control: no-store\r\n");
    head.put(b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: ");
    head.put_decimal(body.len() as u64).put(b"\r\n\r\n").put(body).len()
}

/// RFC 6455 §1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
