//! The request head at the door, from its first byte: strict, and refused as early as the bytes
//! allow. What a request *asks* for is answered by methods, one question each.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::head::{self, BadFields, Fields, is_token_byte};
use super::refusal::{Malformed, Refusal};
use super::request_line::{RequestLine, Target, is_target_byte, is_token68, request_line};

/// Bounds of one request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Request line, fields and the empty line.
    pub head_bytes_max: usize,
    /// At most 100, whatever is written here.
    pub headers_max: usize,
    pub target_bytes_max: usize,
    pub token_bytes_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: 16 << 10,
            headers_max: head::HEADERS_MAX,
            target_bytes_max: 12 << 10,
            token_bytes_max: 8 << 10,
        }
    }
}

/// What the bytes so far are.
#[derive(Debug)]
pub enum Parsed<'a> {
    Incomplete,
    /// Whatever stands behind the first `head_len` bytes belongs to what follows the handshake.
    Request {
        request: Request<'a>,
        head_len: usize,
    },
}

/// A well-formed HTTP/1.1 request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Any token; compared as it is, methods are case-sensitive.
    pub method: &'a str,
    pub target: Target<'a>,
    pub host: &'a str,
    pub origin: Option<&'a str>,
    pub fields: Fields<'a>,
}

/// What `Authorization` carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    Bearer(&'a str),
    Reconnect(&'a str),
}

/// A request for a WebSocket of version 13.
#[derive(Debug, Clone, Copy)]
pub struct Upgrade<'a> {
    /// Base64 of 16 bytes, as it came: what the accept value is computed from.
    pub key: &'a [u8; 24],
    fields: Fields<'a>,
}

/// Reads the head that `bytes`, all that a connection has sent so far, begin with.
///
/// The answer to a prefix stands: more bytes never turn a refusal or a request into another one.
pub fn parse<'a>(bytes: &'a [u8], limits: &HeadLimits) -> Result<Parsed<'a>, Refusal> {
    resume(bytes, 0, limits)
}

/// As [`parse`], when it has already found the first `scanned` of `bytes` incomplete: of a head
/// that arrives byte by byte then only the request line is read again and again.
pub fn resume<'a>(
    bytes: &'a [u8],
    scanned: usize,
    limits: &HeadLimits,
) -> Result<Parsed<'a>, Refusal> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Err(Refusal::PlainTls);
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Err(Refusal::Http2Preface);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Ok(Parsed::Incomplete);
    }
    let window = &bytes[..bytes.len().min(limits.head_bytes_max)];
    let line = request_line(window, limits)?;
    let head_len = head::end(window, scanned).map_err(|head::BadByte| Malformed::ControlByte)?;
    match (line, head_len) {
        (Some(line), Some(head_len)) => {
            let request = line.with_fields(&bytes[line.len..head_len], limits)?;
            Ok(Parsed::Request { request, head_len })
        }
        _ if bytes.len() >= limits.head_bytes_max => Err(Refusal::HeadTooLarge),
        _ => Ok(Parsed::Incomplete),
    }
}

impl<'a> RequestLine<'a> {
    fn with_fields(self, block: &'a [u8], limits: &HeadLimits) -> Result<Request<'a>, Refusal> {
        let fields = Fields::parse(block, limits.headers_max).map_err(|bad| match bad {
            BadFields::TooMany => Refusal::HeadTooLarge,
            BadFields::Syntax => Malformed::Field.into(),
        })?;
        let host = fields
            .single("Host")
            .ok()
            .flatten()
            .filter(|host| is_host(host))
            .ok_or(Malformed::Host)?;
        let origin = fields.single("Origin").map_err(|_| Malformed::Origin)?;
        fields.single("Authorization").map_err(|_| Malformed::Credential)?;
        Ok(Request { method: self.method, target: self.target, host, origin, fields })
    }
}

/// Could this be `uri-host [":" port]` (RFC 3986 §3.2.2)? What it names is nobody's question here.
/// A comma is left out: it is how an intermediary joins two fields into one.
fn is_host(host: &str) -> bool {
    let port = match host.strip_prefix('[') {
        Some(literal) => literal.split_once(']').and_then(|(address, port)| {
            let valid = !address.is_empty()
                && address.bytes().all(|b| b.is_ascii_alphanumeric() || b":.".contains(&b));
            valid.then_some(port)
        }),
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            let valid = !name.is_empty()
                && name.bytes().all(|b| is_target_byte(b) && !b"/:?@,".contains(&b));
            valid.then_some(port)
        }
    };
    port.is_some_and(|port| port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_port(port: &str) -> bool {
    port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
}

impl<'a> Request<'a> {
    /// The WebSocket that this request asks for, or why it cannot have one.
    pub fn upgrade(&self) -> Result<Upgrade<'a>, Refusal> {
        if self.method != "GET" {
            return Err(Refusal::MethodNotAllowed);
        }
        if !self.fields.lists("Upgrade", "websocket") || !self.fields.lists("Connection", "Upgrade")
        {
            return Err(Refusal::UpgradeRequired);
        }
        match self
            .fields
            .single("Sec-WebSocket-Version")
            .map_err(|_| Malformed::WebSocketVersion)?
        {
            Some("13") => {}
            Some(_) | None => return Err(Refusal::BadVersion),
        }
        let no_length = self.fields.values("Content-Length").all(|value| value == b"0");
        if !no_length || self.fields.values("Transfer-Encoding").next().is_some() {
            return Err(Malformed::Body.into());
        }
        let key = self.fields.single("Sec-WebSocket-Key").ok().flatten();
        let key = key.and_then(websocket_key).ok_or(Malformed::WebSocketKey)?;
        Ok(Upgrade { key, fields: self.fields })
    }

    /// Whether the client takes Brotli: `?compress=br` or `X-Connect-Compress: br`.
    #[must_use]
    pub fn accepts_brotli(&self) -> bool {
        self.target.parameter("compress") == Some("br")
            || self.fields.lists("X-Connect-Compress", "br")
    }

    /// The credential of `Authorization`; `None` without that field.
    pub fn credential(&self, limits: &HeadLimits) -> Result<Option<Credential<'a>>, Refusal> {
        let Some(value) = self.fields.single("Authorization").map_err(|_| Malformed::Credential)?
        else {
            return Ok(None);
        };
        let (scheme, rest) = value.split_once(' ').ok_or(Refusal::BadCredential)?;
        let credential = if scheme.eq_ignore_ascii_case("Bearer") {
            Credential::Bearer(rest)
        } else if scheme.eq_ignore_ascii_case("Reconnect") {
            Credential::Reconnect(rest.trim_matches(' '))
        } else {
            return Err(Refusal::BadCredential);
        };
        let (Credential::Bearer(token) | Credential::Reconnect(token)) = credential;
        if is_token68(token) && token.len() <= limits.token_bytes_max {
            Ok(Some(credential))
        } else {
            Err(Refusal::BadCredential)
        }
    }
}

fn websocket_key(text: &str) -> Option<&[u8; 24]> {
    let mut nonce = [0; 18];
    let decoded = STANDARD.decode_slice(text, &mut nonce).ok()?;
    (decoded == 16).then_some(text.as_bytes().try_into().ok()?)
}

impl<'a> Upgrade<'a> {
    /// Subprotocols offered, the most wanted first.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        let offered = self.fields.elements("Sec-WebSocket-Protocol");
        offered.filter(|name| name.iter().all(|byte| is_token_byte(*byte))).filter_map(head::ascii)
    }
}

/// Content type of a TLS handshake record: how a ClientHello begins.
const TLS_HANDSHAKE: u8 = 0x16;

/// As much of the HTTP/2 connection preface (RFC 9113 §3.4) as tells it from a request.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
