//! Who is let in.

use std::time::Duration;

use super::{HOUR, MS, OnExpiry, SECOND};
use crate::config::key::table;
use crate::config::scalar::{Choice, Count, Flag, Name, Origin, Span, Text};
use crate::config::shape::{OffOr, list, some};
use crate::config::upstream::{HttpUrl, WebAddress};

table! {
    /// How clients prove who they are. The keys themselves are `[[auth.key]]`.
    ["auth"] Once Auth {
        /// Accept the token in `Authorization: Bearer`.
        header: bool = "true", Restart => Flag;
        /// Accept the token as the subprotocol `bearer.<token>`, offered beside `corelane`: for browsers,
        /// which cannot set headers. Never logged.
        subprotocol: bool = "false", Restart => Flag;
        /// Accept the token as `?token=`, for browsers too. Never logged here, but proxies log paths; and
        /// a link on another page may bring a foreign token into a player's browser.
        query: bool = "true", Restart => Flag;
        /// Name of a cookie whose value is accepted as the token. A browser sends it along whichever page
        /// asks, so that any page may connect as its visitor: set `origins` too.
        cookie: Option<String> = r#""off""#, Restart => OffOr(Name);
        /// Origins of the pages that may connect, as browsers send them in `Origin`; empty: all. Others
        /// are answered 403. Clients that send no `Origin` are no pages and are not asked for one.
        origins: Vec<String> = "[]", Restart => list(Origin);
        /// Claims that may name the session; the first one present wins. With "random" as the last of
        /// them a token that has none opens a new session with each connection; without, it is refused.
        session_claim: Vec<String> = r#"["session_key", "sid", "jti"]"#, Live => some(Text);
        /// A token with an unknown key id has the sets of `[[auth.jwks]]` fetched, at most once in this time.
        unknown_key_interval: Duration = r#""30s""#, Live => Span(SECOND, HOUR);
        /// "close" ends a session with 4001 when the token that opened it expires; "keep" lets it live.
        on_expiry: OnExpiry = r#""keep""#, Live
            => Choice(&[("keep", OnExpiry::Keep), ("close", OnExpiry::Close)]);
        /// Longest life of a token that `corelane token mint` makes. The gateway itself takes any `exp`.
        max_token_life: Duration = r#""24h""#, Live
            => Span(Duration::from_secs(60), Duration::from_secs(30 * 86_400));
    }
}

table! {
    /// The auth service, which judges tokens that no configured key can have signed. It is asked by
    /// `POST` with the token in `Authorization: Bearer`, and what it accepts is remembered for a minute.
    ["auth.validate"] Once Validate {
        /// Where it is asked: `http://host:port/auth/validate`, or https.
        url: Option<HttpUrl> = r#""off""#, Restart => OffOr(WebAddress);
        /// Time for an answer; then 503.
        timeout: Duration = r#""5s""#, Restart => Span(Duration::from_millis(10), 60 * SECOND);
        /// Clients per shard that may wait for an answer; one more is answered 503.
        waiting_max: usize = "256", Restart => Count(1, 2048);
        /// Failures in a row (unreachable, time-out, 5xx) after which it is not asked for a while; clients
        /// are answered 503. 0 switches that off.
        breaker_failures: u32 = "5", Restart => Count(0, 1_000_000);
        /// How long it is not asked.
        breaker_open_for: Duration = r#""5s""#, Restart => Span(MS, HOUR);
    }
}
