//! Request heads: the answer to a prefix stands, whatever is taken for a request is one for another
//! parser too, and whatever is taken for a token keeps its bounds.

use corelane_shard::wire::handshake::{
    ACCEPT_BYTES_MAX, Credential, HeadLimits, Parsed, REFUSAL_BYTES_MAX, Refusal, Request, accept,
    parse, resume,
};

use crate::receiver::pieces;

/// One byte says how the head is cut; the rest is the head and what follows it.
pub fn handshake(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let limits = match first & 0x80 {
        0 => HeadLimits::default(),
        _ => HeadLimits {
            head_bytes_max: 300,
            headers_max: 6,
            target_bytes_max: 60,
            token_bytes_max: 20,
        },
    };
    let whole = Outcome::of(parse(bytes, &limits));
    let mut len = 0;
    let mut scanned = 0;
    for piece in pieces(first & 0x7F) {
        len = bytes.len().min(len + piece);
        let outcome = Outcome::of(resume(&bytes[..len], scanned, &limits));
        assert_eq!(outcome, Outcome::of(parse(&bytes[..len], &limits)), "as read at once");
        if outcome != Outcome::Incomplete {
            assert_eq!(outcome, whole, "more bytes change no answer");
        }
        if len == bytes.len() || outcome != Outcome::Incomplete {
            break;
        }
        scanned = len;
    }
    match parse(bytes, &limits) {
        Ok(Parsed::Request { request, head_len }) => {
            agrees_with_another(&request, &bytes[..head_len]);
            ask_everything(&request, &limits);
        }
        Ok(Parsed::Incomplete) => assert!(bytes.len() < limits.head_bytes_max, "heads end"),
        Err(refusal) => answer(refusal),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Incomplete,
    Request { head_len: usize },
    Refused(Refusal),
}

impl Outcome {
    fn of(parsed: Result<Parsed<'_>, Refusal>) -> Self {
        match parsed {
            Ok(Parsed::Incomplete) => Self::Incomplete,
            Ok(Parsed::Request { head_len, .. }) => Self::Request { head_len },
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

fn agrees_with_another(request: &Request<'_>, head: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut other = httparse::Request::new(&mut fields);
    let status = other.parse(head).expect("strict heads are heads");
    assert_eq!(status, httparse::Status::Complete(head.len()));
    assert_eq!(other.method, Some(request.method));
    let target = match request.target.query {
        Some(query) => format!("{}?{query}", request.target.path),
        None => request.target.path.to_owned(),
    };
    assert_eq!(other.path, Some(&*target));
    let named = |name: &str| {
        let values = other.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        values.map(|field| field.value.trim_ascii().to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(named("host"), [request.host.as_bytes()]);
    for name in ["origin", "authorization", "cookie", "sec-websocket-protocol"] {
        assert_eq!(request.fields.values(name).collect::<Vec<_>>(), named(name), "{name}");
    }
}

fn ask_everything(request: &Request<'_>, limits: &HeadLimits) {
    let check = |token: &str| {
        assert!(!token.is_empty() && token.len() <= limits.token_bytes_max, "a bounded token");
        assert!(token.bytes().all(|byte| byte.is_ascii_graphic()), "a printable token");
    };
    match request.credential(limits) {
        Ok(Some(Credential::Bearer(token) | Credential::Reconnect(token))) => check(token),
        Ok(None) => {}
        Err(refusal) => answer(refusal),
    }
    match request.offered_token(limits) {
        Ok(token) => token.into_iter().for_each(check),
        Err(refusal) => answer(refusal),
    }
    match request.cookie("sid", limits) {
        Ok(token) => token.into_iter().for_each(check),
        Err(refusal) => answer(refusal),
    }
    match request.target.token(limits) {
        Ok(token) => token.iter().for_each(|token| check(token)),
        Err(refusal) => answer(refusal),
    }
    if let Err(refusal) = request.service_token() {
        answer(refusal);
    }
    match request.upgrade() {
        Ok(upgrade) => {
            let mut out = [0; ACCEPT_BYTES_MAX];
            for subprotocol in upgrade.subprotocols().map(Some).chain([None]) {
                let len = accept(upgrade.key, subprotocol, &mut out);
                ends_one_head(&out[..len]);
            }
        }
        Err(refusal) => answer(refusal),
    }
    let _wants = (request.accepts_brotli(), request.is_authorized_somehow());
}

fn answer(refusal: Refusal) {
    let mut out = [0; REFUSAL_BYTES_MAX];
    let len = refusal.write(u32::MAX, &mut out);
    let mut fields = [httparse::EMPTY_HEADER; 20];
    let mut response = httparse::Response::new(&mut fields);
    assert!(response.parse(&out[..len]).is_ok_and(|status| status.is_complete()), "an answer");
    assert_eq!(response.code, Some(refusal.status()));
}

/// Nothing that a client has sent may end the head of the answer early.
fn ends_one_head(bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 20];
    let mut response = httparse::Response::new(&mut fields);
    let status = response.parse(bytes);
    assert_eq!(status, Ok(httparse::Status::Complete(bytes.len())));
}
