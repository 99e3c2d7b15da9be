//! The routes by which a browser can bring a token, since it cannot set `Authorization`: a cookie,
//! or a subprotocol that is none. The query's is with the request line.

use super::head::{ascii, is_token_byte};
use super::refusal::{Malformed, Refusal};
use super::request::{HeadLimits, Request};
use super::request_line::is_token68;

/// What a client offers and is answered when it brings its token as a subprotocol: a browser drops a
/// connection whose offers are all passed over, and the token itself must not come back.
pub const SUBPROTOCOL: &str = "corelane";

/// Stands before the token among the offered subprotocols.
const BEARER: &[u8] = b"bearer.";

impl<'a> Request<'a> {
    /// Whether [`SUBPROTOCOL`] is among those offered.
    #[must_use]
    pub fn offers_subprotocol(&self) -> bool {
        let mut offered = self.fields.elements("Sec-WebSocket-Protocol");
        offered.any(|name| name == SUBPROTOCOL.as_bytes())
    }

    /// The token that is offered as `bearer.<token>`; `None` without such an offer.
    pub fn offered_token(&self, limits: &HeadLimits) -> Result<Option<&'a str>, Refusal> {
        let offered = self.fields.elements("Sec-WebSocket-Protocol");
        let mut tokens = offered.filter_map(|name| name.strip_prefix(BEARER));
        let Some(token) = tokens.next() else {
            return Ok(None);
        };
        if tokens.next().is_some() {
            return Err(Malformed::Credential.into());
        }
        if !self.offers_subprotocol() {
            return Err(Malformed::Subprotocol.into());
        }
        let legal = token.iter().all(|byte| is_token_byte(*byte));
        checked(token, limits).filter(|_| legal).map(Some).ok_or(Refusal::BadCredential)
    }

    /// The token in the cookie `name`; `None` without that cookie. A name that comes twice is refused:
    /// a neighbouring host may have set the other one.
    pub fn cookie(&self, name: &str, limits: &HeadLimits) -> Result<Option<&'a str>, Refusal> {
        let cookies = self.fields.values("Cookie").flat_map(|value| value.split(|b| *b == b';'));
        let mut values = cookies.filter_map(|cookie| {
            let value = cookie.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(unquoted(value))
        });
        let Some(token) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(Malformed::Credential.into());
        }
        checked(token, limits).map(Some).ok_or(Refusal::BadCredential)
    }

    /// The value of `X-Service-Token`.
    pub fn service_token(&self) -> Result<Option<&'a str>, Refusal> {
        Ok(self.fields.single("X-Service-Token").map_err(|_| Malformed::Credential)?)
    }

    /// Whether there is an `Authorization` that says anything at all.
    #[must_use]
    pub fn is_authorized_somehow(&self) -> bool {
        self.fields.values("Authorization").any(|value| !value.is_empty())
    }
}

/// A cookie's value may stand in quotes (RFC 6265 §4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

fn checked<'a>(token: &'a [u8], limits: &HeadLimits) -> Option<&'a str> {
    ascii(token).filter(|token| is_token68(token) && token.len() <= limits.token_bytes_max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::handshake::{Parsed, parse};

    fn head(fields: &[&str]) -> Vec<u8> {
        let mut text = "GET /connect HTTP/1.1\r\nHost: a\r\n".to_owned();
        for field in fields {
            text += field;
            text += "\r\n";
        }
        (text + "\r\n").into_bytes()
    }

    fn ask<T>(fields: &[&str], question: impl FnOnce(Request<'_>, &HeadLimits) -> T) -> T {
        let (bytes, limits) = (head(fields), HeadLimits::default());
        match parse(&bytes, &limits) {
            Ok(Parsed::Request { request, .. }) => question(request, &limits),
            other => panic!("{other:?}"),
        }
    }

    fn cookie(fields: &[&str]) -> Result<Option<String>, Refusal> {
        ask(fields, |request, limits| Ok(request.cookie("sid", limits)?.map(str::to_owned)))
    }

    fn offered(fields: &[&str]) -> Result<Option<String>, Refusal> {
        ask(fields, |request, limits| Ok(request.offered_token(limits)?.map(str::to_owned)))
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        for (line, token) in [
            ("Cookie: sid=a.b-c", Some("a.b-c")),
            ("cookie: x=1; sid=a.b; y=2", Some("a.b")),
            ("Cookie: x=1;sid=\"a.b\"", Some("a.b")),
            ("Cookie: xsid=a; sid2=b; SID=c; sid", None),
            ("Cookie:", None),
            ("X: sid=a", None),
        ] {
            assert_eq!(cookie(&[line]), Ok(token.map(str::to_owned)), "{line}");
        }
        let spread = cookie(&["Cookie: a=b", "Cookie: sid=c"]);
        assert_eq!(spread, Ok(Some("c".to_owned())));
    }

    #[test]
    fn a_cookie_that_comes_twice_or_holds_no_token_is_refused() {
        let twice = Err(Malformed::Credential.into());
        assert_eq!(cookie(&["Cookie: sid=a; sid=a"]), twice);
        assert_eq!(cookie(&["Cookie: sid=a", "Cookie: sid=b"]), twice);
        let long = format!("Cookie: sid={}", "x".repeat(8193));
        for bad in ["Cookie: sid=", "Cookie: sid=a b", "Cookie: sid=\"a", &long] {
            assert_eq!(cookie(&[bad]), Err(Refusal::BadCredential), "{bad}");
        }
    }

    #[test]
    fn a_token_is_offered_beside_the_subprotocol_that_answers_it() {
        for lines in [
            &["Sec-WebSocket-Protocol: corelane, bearer.a.b-c_d"][..],
            &["Sec-WebSocket-Protocol: bearer.a.b-c_d,x,corelane"],
            &["Sec-WebSocket-Protocol: bearer.a.b-c_d", "Sec-WebSocket-Protocol: corelane"],
        ] {
            assert_eq!(offered(lines), Ok(Some("a.b-c_d".to_owned())), "{lines:?}");
            assert!(ask(lines, |request, _| request.offers_subprotocol()));
        }
        for none in ["Sec-WebSocket-Protocol: corelane", "Sec-WebSocket-Protocol: Bearer.a", "X: y"]
        {
            assert_eq!(offered(&[none]), Ok(None), "{none}");
        }
    }

    #[test]
    fn an_offer_that_could_not_be_answered_is_refused() {
        let offer = |list: &str| offered(&[&format!("Sec-WebSocket-Protocol: {list}")]);
        for alone in ["bearer.a", "bearer.a, Corelane", "bearer.a, corelane.1"] {
            assert_eq!(offer(alone), Err(Malformed::Subprotocol.into()), "{alone}");
        }
        assert_eq!(offer("corelane, bearer.a, bearer.b"), Err(Malformed::Credential.into()));
        for bad in ["bearer.", "bearer.a/b", "bearer.a=", "bearer.a b", "bearer.é"] {
            let refused = offer(&format!("corelane, {bad}"));
            assert_eq!(refused, Err(Refusal::BadCredential), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_for_a_token_stands_in_the_field(
            cookie in "(sid=)?[a-c\\.=;\" ]{0,12}(; ?sid=[a-c\\./]{0,6})?",
            offer in "(corelane)?[, ]{0,3}(bearer\\.)?[a-c\\./=, ]{0,12}",
        ) {
            let fields = [format!("Cookie: {cookie}"), format!("Sec-WebSocket-Protocol: {offer}")];
            ask(&[&fields[0], &fields[1]], |request, limits| {
                if let Ok(Some(token)) = request.cookie("sid", limits) {
                    assert!(is_token68(token) && cookie.contains(token));
                }
                if let Ok(Some(token)) = request.offered_token(limits) {
                    assert!(is_token68(token) && offer.contains(&format!("bearer.{token}")));
                    assert!(request.offers_subprotocol());
                }
            });
        }
    }

    #[test]
    fn an_empty_authorization_says_nothing() {
        let says = |fields: &[&str]| ask(fields, |request, _| request.is_authorized_somehow());
        assert!(says(&["Authorization: Internal"]));
        assert!(!says(&["Authorization:"]));
        assert!(!says(&[]));
    }

    #[test]
    fn a_service_token_comes_once() {
        let token = |fields: &[&str]| {
            ask(fields, |request, _| Ok(request.service_token()?.map(str::to_owned)))
        };
        assert_eq!(token(&["X-Service-Token: a b"]), Ok(Some("a b".to_owned())));
        assert_eq!(token(&[]), Ok(None));
        let twice = token(&["X-Service-Token: a", "x-service-token: a"]);
        assert_eq!(twice, Err(Refusal::from(Malformed::Credential)));
    }
}
