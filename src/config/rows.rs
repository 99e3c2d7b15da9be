//! The tables that may stand many times: certificates, keys of issuers, services with their endpoints,
//! roles.

use std::path::PathBuf;
use std::time::Duration;

use corelane_shard::snapshot::Method;

use super::key::table;
use super::scalar::{Choice, Count, File, Flag, Name, Size, Span, Text, UrlPath};
pub use crate::auth::Algorithm;

use super::shape::{Auto, AutoOr, OffOr, some};
use super::upstream::{HttpUrl, ServiceAddress, Url, WebAddress};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

table! {
    /// A certificate of `listen.tls`. Which one a client is shown follows from the name that it wants: a
    /// name in the certificate, or a wildcard for its first label; the first certificate where none fits.
    /// Both files are watched: put new ones in their place, and handshakes from the next second on have
    /// them.
    ["listen.tls.certificate"] Each CertificateFiles {
        /// PEM file: the certificate, then those that lead to a root.
        certificate: PathBuf = required r#""fullchain.pem""#, Live => File;
        /// PEM file: its private key, not encrypted.
        key: PathBuf = required r#""privkey.pem""#, Live => File;
    }
}

table! {
    /// One key of one token issuer, found by the token's `kid`. Algorithm, issuer and audience are
    /// pinned: a token that differs in any of them is refused.
    ["auth.key"] Each AuthKey {
        /// The `kid` of the tokens that this key signs.
        id: String = required r#""main""#, Live => Text;
        /// Algorithm of the signature.
        algorithm: Algorithm = required r#""RS256""#, Live => Choice(&[
            ("HS256", Algorithm::Hs256),
            ("RS256", Algorithm::Rs256),
            ("ES256", Algorithm::Es256),
            ("EdDSA", Algorithm::EdDsa),
        ]);
        /// File with the key: the shared secret for HS256, otherwise PEM. `token mint` needs the
        /// private key, the gateway only the public one.
        file: PathBuf = required r#""issuer.pem""#, Live => File;
        /// The token's `iss`.
        issuer: String = required r#""https://login.example""#, Live => Text;
        /// The token's `aud`.
        audience: String = required r#""https://game.example""#, Live => Text;
        /// This issuer's UUID claims are used as they are; those of others are hashed with issuer
        /// and tenant. For one issuer at most.
        native: bool = "false", Live => Flag;
    }
}

table! {
    /// A set of keys that an issuer publishes (RFC 7517), such as `/.well-known/jwks.json`. RSA, P-256 and
    /// Ed25519 keys for signatures are used, each with its one algorithm, under their `kid`; a key file
    /// with the same id comes first.
    ["auth.jwks"] Each AuthJwks {
        /// Where it is fetched: `http://` or `https://`. An https certificate must be one that the system
        /// trusts.
        url: HttpUrl = required r#""https://login.example/.well-known/jwks.json""#, Live => WebAddress;
        /// The `iss` of the tokens.
        issuer: String = required r#""https://login.example""#, Live => Text;
        /// The `aud` of the tokens.
        audience: String = required r#""https://game.example""#, Live => Text;
        /// As for `[[auth.key]]`: for one issuer at most.
        native: bool = "false", Live => Flag;
        /// Time between two fetches. After one that fails the next follows sooner, and the keys stay.
        refresh: Duration = r#""5m""#, Live => Span(SECOND, 24 * HOUR);
    }
}

table! {
    /// A backend service. Its addresses are all of one kind:
    /// `http://host:port` or `http+unix:/run/demo.sock` are called with one POST per message;
    /// `link://host:port/path` or `link+unix:/run/demo.sock:/path` carry all sessions over a few
    /// long-lived connections (the path may be left out: `/corelane-link`). A service with endpoints
    /// of both kinds stands twice, under one name.
    ["service"] Each ServiceSettings {
        /// Name in endpoint keys and manifests.
        name: String = required r#""demo""#, Live => Name;
        /// Where its backends listen.
        addresses: Vec<ServiceAddress> = required r#"["http://127.0.0.1:7000"]"#, Live => some(Url);
        /// Deadline of one call, retries included. "auto" is `session.http_client_timeout_seconds`.
        call_timeout: Auto<Duration> = r#""auto""#, Live => AutoOr(Span(MS, HOUR));
        /// Time for a connection to a backend.
        connect_timeout: Duration = r#""2s""#, Live => Span(MS, 60 * SECOND);
        /// Calls under way per shard; one more is answered 12.
        running_max: usize = "1024", Live => Count(1, 65_536);
        /// Connections per shard to all addresses (http), or links per shard and address (link).
        /// "auto" is 64 for http and 1 for link.
        connections_max: Auto<usize> = r#""auto""#, Live => AutoOr(Count(1, 4096));
        /// An unused http connection is closed after this time; shorter than the backend's own.
        pool_idle: Duration = r#""4s""#, Live => Span(MS, HOUR);
        /// Failures in a row that open the circuit breaker. 0 switches it off.
        breaker_failures: u32 = "5", Live => Count(0, 1_000_000);
        /// How long an open breaker refuses calls.
        breaker_open_for: Duration = r#""5s""#, Live => Span(MS, HOUR);
        /// Longest head of an http response.
        response_head_bytes_max: usize = r#""16KiB""#, Live => Size(KIB, 64 * KIB);
        /// Longest body of a response; a longer one is answered 60.
        response_body_bytes_max: usize = r#""1MiB""#, Live => Size(KIB, 32 * MIB);
        /// File with the service token that a link presents.
        token_file: Option<PathBuf> = r#""off""#, Live => OffOr(File);
    }
}

table! {
    /// One callable path of a service.
    ["service.endpoints"] Each EndpointSettings {
        /// Path; with the service's name the key of its GUIDs.
        path: String = required r#""/demo/echo""#, Live => UrlPath;
        /// Method of the request to an http backend.
        method: Method = r#""POST""#, Live => Choice(&[
            ("GET", Method::Get),
            ("POST", Method::Post),
            ("PUT", Method::Put),
            ("DELETE", Method::Delete),
            ("PATCH", Method::Patch),
        ]);
        /// May be sent again when a reused connection ended before any byte of the response.
        idempotent: bool = "false", Live => Flag;
    }
}

table! {
    /// What the bearers of a role may call.
    ["role"] Each RoleSettings {
        /// Name, as in the token's `roles`.
        name: String = required r#""user""#, Live => Text;
        /// Endpoints as `service:/path`, or `service:*` for all of a service.
        endpoints: Vec<String> = required r#"["demo:*"]"#, Live => some(Text);
    }
}
