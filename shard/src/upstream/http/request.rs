//! Heads of requests to a backend, rendered once per endpoint so that a call only copies.

use thiserror::Error;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::id::SessionId;
use crate::snapshot::Method;
use crate::wire::handshake::head::{Cursor, DECIMAL_BYTES_MAX};
use crate::wire::meta::MetaKind;

/// Why an endpoint cannot be called over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeadError {
    #[error(
        "the path does not begin with a slash, or holds a space, a control character, '?' or '#'"
    )]
    Path,
    #[error("the host is empty, or holds a space or a control character")]
    Host,
}

/// Everything of an endpoint's requests that does not change from call to call.
/// Built with a configuration snapshot, one per HTTP endpoint and shard.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// `POST /path`
    line: Box<[u8]>,
    /// The path begins here in `line`.
    path_at: usize,
    /// From behind the path up to the session id's value.
    rest: Box<[u8]>,
    payload: Payload,
}

/// Whether a payload is sent along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    Sent,
    Dropped,
}

impl RequestHead {
    pub fn new(method: Method, host: &str, path: &str) -> Result<Self, HeadError> {
        let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !path.starts_with('/') || !visible(path) || path.contains(['?', '#']) {
            return Err(HeadError::Path);
        }
        if host.is_empty() || !visible(host) {
            return Err(HeadError::Host);
        }
        let payload = match method {
            Method::Post | Method::Put | Method::Patch => Payload::Sent,
            Method::Get | Method::Delete => Payload::Dropped,
        };
        let rest = format!(
            " HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nX-Bannou-Session-Id: "
        );
        Ok(Self {
            line: format!("{} {path}", method.as_str()).into_bytes().into_boxed_slice(),
            path_at: method.as_str().len() + 1,
            rest: rest.into_bytes().into_boxed_slice(),
            payload,
        })
    }

    /// What of a message's payload follows the head: all, or nothing for GET and DELETE.
    #[must_use]
    pub fn body<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        match self.payload {
            Payload::Sent => payload,
            Payload::Dropped => &[],
        }
    }

    /// Room that either writer needs, beside its `extra`.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        const META: usize = b"GET ".len() + b"/meta/response-schema".len();
        let body = CONTENT_TYPE.len() + CONTENT_LENGTH.len() + DECIMAL_BYTES_MAX + LINE_END.len();
        self.line.len() + META + self.rest.len() + Hyphenated::LENGTH + body + 2 * LINE_END.len()
    }

    /// Writes the head of a call and returns its length. `body_len` is that of [`Self::body`];
    /// `extra` are whole header lines, each with its CR LF, never a client's bytes.
    pub fn write_call(
        &self,
        session: SessionId,
        body_len: usize,
        extra: &str,
        out: &mut [u8],
    ) -> usize {
        let mut head = Cursor::new(out);
        head.put(&self.line);
        self.put_common(&mut head, session, extra);
        if self.payload == Payload::Sent {
            // Without a body too: a POST that says nothing of its length may be refused (411).
            head.put(CONTENT_LENGTH).put_decimal(body_len as u64).put(LINE_END);
            if body_len > 0 {
                head.put(CONTENT_TYPE);
            }
        }
        head.put(LINE_END).len()
    }

    /// Writes the head of a meta request, which has no body, and returns its length.
    pub fn write_meta(
        &self,
        kind: MetaKind,
        session: SessionId,
        extra: &str,
        out: &mut [u8],
    ) -> usize {
        let mut head = Cursor::new(out);
        head.put(b"GET ").put(&self.line[self.path_at..]).put(kind.path_suffix().as_bytes());
        self.put_common(&mut head, session, extra);
        head.put(LINE_END).len()
    }

    fn put_common(&self, head: &mut Cursor<'_>, session: SessionId, extra: &str) {
        let mut id = [0; Hyphenated::LENGTH];
        let id = Uuid::from_u128(session.0).hyphenated().encode_lower(&mut id);
        head.put(&self.rest).put(id.as_bytes()).put(LINE_END).put(extra.as_bytes());
    }
}

const CONTENT_TYPE: &[u8] = b"Content-Type: application/json; charset=utf-8\r\n";
const CONTENT_LENGTH: &[u8] = b"Content-Length: ";
const LINE_END: &[u8] = b"\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(0x3f2504e0_4f89_41d3_9a0c_0305e82c3301);

    fn call(method: Method, body_len: usize, extra: &str) -> String {
        let head = RequestHead::new(method, "backend:8080", "/account/get").unwrap();
        let mut out = vec![0; head.bytes_max() + extra.len()];
        let len = head.write_call(SESSION, body_len, extra, &mut out);
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_call_with_a_body_names_its_type_and_length() {
        assert_eq!(
            call(Method::Post, 1090, ""),
            "POST /account/get HTTP/1.1\r\nHost: backend:8080\r\nAccept: application/json\r\n\
             X-Bannou-Session-Id: 3f2504e0-4f89-41d3-9a0c-0305e82c3301\r\nContent-Length: 1090\r\n\
             Content-Type: application/json; charset=utf-8\r\n\r\n"
        );
    }

    #[test]
    fn a_call_without_a_body_names_no_type() {
        let text = call(Method::Put, 0, "");
        assert!(text.ends_with("\r\nContent-Length: 0\r\n\r\n"), "{text}");
    }

    #[test]
    fn get_and_delete_drop_the_payload() {
        for method in [Method::Get, Method::Delete] {
            assert!(!call(method, 0, "").contains("Content-"));
            let head = RequestHead::new(method, "h", "/").unwrap();
            assert!(head.body(b"payload").is_empty());
        }
        assert_eq!(RequestHead::new(Method::Patch, "h", "/").unwrap().body(b"payload"), b"payload");
    }

    #[test]
    fn extra_lines_stand_inside_the_head() {
        let text = call(Method::Post, 1, "traceparent: 00-1-2-01\r\n");
        assert!(text.contains("3301\r\ntraceparent: 00-1-2-01\r\nContent-Length: 1\r\n"), "{text}");
    }

    #[test]
    fn meta_requests_are_gets_of_the_suffixed_path() {
        let head = RequestHead::new(Method::Delete, "h", "/a/b").unwrap();
        for channel in [0, 1, 2, 3, 4, 999] {
            let kind = MetaKind::from_channel(channel);
            let mut out = vec![0; head.bytes_max()];
            let len = head.write_meta(kind, SESSION, "", &mut out);
            let text = std::str::from_utf8(&out[..len]).unwrap();
            assert!(
                text.starts_with(&format!(
                    "GET /a/b{} HTTP/1.1\r\nHost: h\r\n",
                    kind.path_suffix()
                )),
                "{text}"
            );
            assert!(text.ends_with("3301\r\n\r\n"), "{text}");
        }
        assert_eq!(MetaKind::from_channel(999), MetaKind::Info);
        assert_eq!(MetaKind::from_channel(3).path_suffix(), "/meta/schema");
    }

    #[test]
    fn the_room_asked_for_is_enough_for_the_longest_head() {
        let head = RequestHead::new(Method::Patch, "h", "/").unwrap();
        let mut out = vec![0; head.bytes_max()];
        head.write_call(SESSION, usize::MAX, "", &mut out);
        let head = RequestHead::new(Method::Get, "h", "/").unwrap();
        head.write_meta(MetaKind::ResponseSchema, SESSION, "", &mut out);
    }

    #[test]
    fn what_would_break_the_head_is_refused() {
        for path in ["", "a", "/a b", "/a\r\nX: y", "/a#b", "/a?b", "/\u{e9}"] {
            assert_eq!(
                RequestHead::new(Method::Post, "h", path).unwrap_err(),
                HeadError::Path,
                "{path}"
            );
        }
        for host in ["", "a b", "a\r\nX: y"] {
            assert_eq!(
                RequestHead::new(Method::Post, host, "/").unwrap_err(),
                HeadError::Host,
                "{host}"
            );
        }
    }
}
