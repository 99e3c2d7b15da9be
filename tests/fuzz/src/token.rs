//! Tokens, published keys and the auth service's answers: nothing that is not signed is accepted, and
//! what is accepted names a session and has not expired.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use corelane::auth::{
    Algorithm, JwksSpec, JwtAuthenticator, KeyRing, KeyRules, KeySpec, Told, parse_set, understand,
};
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::SessionId;
use corelane_shard::identity::{Authenticator, Identity, Judgement};
use jsonwebtoken::EncodingKey;

/// Seconds.
const NOW: u64 = 1_700_000_000;

/// The first byte says what the rest is.
pub fn token(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    match first % 5 {
        0 => unsigned(&String::from_utf8_lossy(rest)),
        1 => unsigned(&parts(rest).map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")),
        2 => signed(br#"{"alg":"HS256","kid":"hs256"}"#, rest),
        3 => {
            let [header, claims, _] = parts(rest);
            signed(header, claims);
        }
        _ => published(rest),
    }
}

/// Three parts, with nothing but the bytes between them to tell where one ends.
fn parts(bytes: &[u8]) -> [&[u8]; 3] {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn unsigned(token: &str) {
    let now = now();
    let own = matches!(authenticator().judge(token, now), Judgement::Accepted(_));
    assert!(!own, "nobody has signed {token}");
    match authenticator().asking().judge(token, now) {
        Judgement::Accepted(_) => panic!("nobody has signed {token}"),
        Judgement::Refused(_) | Judgement::Ask(_) => {}
    }
}

fn signed(header: &[u8], claims: &[u8]) {
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let algorithm = jsonwebtoken::Algorithm::HS256;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &SECRET, algorithm);
    let token = format!("{message}.{}", signature.expect("HMAC signs anything"));
    let mut authenticator = authenticator();
    let first = authenticator.judge(&token, now());
    if let Judgement::Accepted(identity) = &first {
        check(identity);
    }
    assert_eq!(authenticator.judge(&token, now()), first, "from memory as at first");
}

fn check(identity: &Identity) {
    assert!(identity.session != SessionId(0), "somebody's session");
    assert!(identity.expires_at.is_none_or(|at| at.get() > NOW), "still good");
    assert!(identity.standing.roles.is_sorted(), "equal sets compare equal");
}

fn published(body: &[u8]) {
    let spec = JwksSpec {
        url: "http://keys".into(),
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        native: true,
        refresh: Duration::from_secs(60),
    };
    if let Ok(keys) = parse_set(&spec, body) {
        assert!(!keys.is_empty() && keys.len() <= body.len());
    }
    for status in [200, 401, 503] {
        if let Told::Accepted(validated) = understand(status, body, NOW * 1000) {
            assert_eq!(status, 200);
            check(&Identity::from(*validated));
        }
    }
}

const ISSUER: &str = "test-issuer";
const AUDIENCE: &str = "test-audience";

fn now() -> Now {
    Now { mono: Instant(NOW * 1_000_000_000), unix_ms: NOW * 1000 }
}

fn authenticator() -> JwtAuthenticator {
    JwtAuthenticator::new(KEYS.published())
}

fn key_file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../keys").join(name)
}

static KEYS: LazyLock<KeyRing> = LazyLock::new(|| {
    let algorithms = [
        (Algorithm::Hs256, "trusted.hs256.secret"),
        (Algorithm::Rs256, "trusted.rs256.public.pem"),
        (Algorithm::Es256, "trusted.es256.public.pem"),
        (Algorithm::EdDsa, "trusted.eddsa.public.pem"),
    ];
    let keys = algorithms.map(|(algorithm, file)| KeySpec {
        id: algorithm.name().to_lowercase(),
        algorithm,
        file: key_file(file),
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        native: true,
    });
    let session_claims = KeyRules::default_session_claims();
    let rules = KeyRules { keys: keys.into(), jwks: Vec::new(), session_claims };
    KeyRing::open(&rules).expect("the keys of the tests")
});

static SECRET: LazyLock<EncodingKey> = LazyLock::new(|| {
    let secret = std::fs::read(key_file("trusted.hs256.secret")).expect("the key of the tests");
    EncodingKey::from_secret(secret.trim_ascii_end())
});
