//! Tokens minted with the keys under `tests/keys`, good ones and forged ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::SessionId;
use corelane_shard::identity::{
    AuthRefusal, Authenticator, Identity, Judgement, TokenFingerprint, UnixSeconds, Validated,
};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

mod arbitrary;
mod identities;
mod published;
mod rotation;

const ISSUER: &str = "test-issuer";
const AUDIENCE: &str = "test-audience";
/// Seconds; the moment at which all tests happen.
const NOW: u64 = 1_700_000_000;
const SESSION: &str = "3f2504e04f8941d39a0c0305e82c3301";
const ALL: [Algorithm; 4] =
    [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

fn now() -> Now {
    at(NOW)
}

fn at(seconds: u64) -> Now {
    Now { mono: Instant(seconds * 1_000_000_000), unix_ms: seconds * 1000 }
}

fn key_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
}

fn stem(algorithm: Algorithm) -> String {
    algorithm.name().to_lowercase()
}

fn public_file(owner: &str, algorithm: Algorithm) -> PathBuf {
    match algorithm {
        Algorithm::Hs256 => key_path(&format!("{owner}.hs256.secret")),
        _ => key_path(&format!("{owner}.{}.public.pem", stem(algorithm))),
    }
}

fn spec(algorithm: Algorithm) -> KeySpec {
    KeySpec {
        id: stem(algorithm),
        algorithm,
        file: public_file("trusted", algorithm),
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        native: true,
    }
}

fn rules(keys: impl IntoIterator<Item = KeySpec>) -> KeyRules {
    KeyRules {
        keys: keys.into_iter().collect(),
        jwks: Vec::new(),
        session_claims: KeyRules::default_session_claims(),
    }
}

fn authenticator(keys: impl IntoIterator<Item = KeySpec>) -> JwtAuthenticator {
    JwtAuthenticator::new(KeyRing::open(&rules(keys)).unwrap().published())
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "account-1", "exp": NOW + 600,
        "nbf": NOW - 10, "session_key": SESSION,
    })
}

fn claims_with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn encoding_key(owner: &str, algorithm: Algorithm) -> EncodingKey {
    let pem = || fs::read(key_path(&format!("{owner}.{}.private.pem", stem(algorithm)))).unwrap();
    match algorithm {
        Algorithm::Hs256 => {
            let secret = fs::read(public_file(owner, algorithm)).unwrap();
            EncodingKey::from_secret(secret.trim_ascii_end())
        }
        Algorithm::Rs256 => EncodingKey::from_rsa_pem(&pem()).unwrap(),
        Algorithm::Es256 => EncodingKey::from_ec_pem(&pem()).unwrap(),
        Algorithm::EdDsa => EncodingKey::from_ed_pem(&pem()).unwrap(),
    }
}

fn mint_by(owner: &str, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(algorithm.wire());
    header.kid = kid.map(Into::into);
    jsonwebtoken::encode(&header, claims, &encoding_key(owner, algorithm)).unwrap()
}

fn mint(algorithm: Algorithm, claims: &Value) -> String {
    mint_by("trusted", algorithm, Some(&stem(algorithm)), claims)
}

/// A token with an arbitrary header, signed by HMAC under `secret`.
fn forge(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_secret(secret);
    let hmac = jsonwebtoken::Algorithm::HS256;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, hmac).unwrap();
    format!("{message}.{signature}")
}

fn outcome(algorithm: Algorithm, changes: &Value) -> Result<Arc<Identity>, AuthRefusal> {
    let token = mint(algorithm, &claims_with(changes));
    authenticator([spec(algorithm)]).verify(&token, now())
}

#[test]
fn every_algorithm_verifies_its_own_tokens_and_no_others() {
    let mut all = authenticator(ALL.map(spec));
    for algorithm in ALL {
        let identity = all.verify(&mint(algorithm, &claims()), now()).unwrap();
        assert_eq!(identity.session.to_string(), "3f2504e0-4f89-41d3-9a0c-0305e82c3301");
        assert_eq!(identity.expires_at.map(UnixSeconds::get), Some(NOW + 600));
        let foreign = mint_by("stranger", algorithm, Some(&stem(algorithm)), &claims());
        assert_eq!(all.verify(&foreign, now()), Err(AuthRefusal::BadSignature), "{algorithm}");
    }
}

#[test]
fn a_changed_payload_or_signature_does_not_verify() {
    for algorithm in ALL {
        let mut one = authenticator([spec(algorithm)]);
        let token = mint(algorithm, &claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let header = message.split_once('.').unwrap().0;
        let other = URL_SAFE_NO_PAD.encode(claims_with(&json!({"sub": "account-2"})).to_string());
        let payload = format!("{header}.{other}.{signature}");
        assert_eq!(one.verify(&payload, now()), Err(AuthRefusal::BadSignature), "{algorithm}");
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[7] ^= 1;
        let signed = format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(one.verify(&signed, now()), Err(AuthRefusal::BadSignature), "{algorithm}");
        let cut = &token[..token.len() - 8];
        assert!(one.verify(cut, now()).is_err(), "{algorithm}");
    }
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let public = fs::read(public_file("trusted", algorithm)).unwrap();
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": stem(algorithm)});
        let token = forge(&header, &claims(), &public);
        let refused = authenticator(ALL.map(spec)).verify(&token, now());
        assert_eq!(refused, Err(AuthRefusal::AlgorithmMismatch));
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": "hs256"});
        let refused =
            authenticator(ALL.map(spec)).verify(&forge(&header, &claims(), &public), now());
        assert_eq!(refused, Err(AuthRefusal::BadSignature));
    }
}

#[test]
fn the_header_cannot_choose_the_algorithm() {
    let mut one = authenticator([spec(Algorithm::Hs256)]);
    let secret = fs::read(public_file("trusted", Algorithm::Hs256)).unwrap();
    let secret = secret.trim_ascii_end();
    let mut refusal = |header: Value| one.verify(&forge(&header, &claims(), secret), now()).err();
    for alg in ["none", "None", "", "HS384", "hs256", "RS256"] {
        let refused = refusal(json!({"alg": alg, "kid": "hs256"}));
        assert_eq!(refused, Some(AuthRefusal::AlgorithmMismatch), "{alg}");
    }
    assert_eq!(refusal(json!({"kid": "hs256"})), Some(AuthRefusal::Malformed));
    assert_eq!(refusal(json!({"alg": 1, "kid": "hs256"})), Some(AuthRefusal::Malformed));
    assert_eq!(refusal(json!({"alg": "HS256", "kid": 1})), Some(AuthRefusal::Malformed));
    let critical = json!({"alg": "HS256", "kid": "hs256", "crit": ["b64"], "b64": false});
    assert_eq!(refusal(critical), Some(AuthRefusal::Malformed));
    assert_eq!(refusal(json!({"alg": "HS256", "kid": "hs256"})), None);
}

#[test]
fn an_unsigned_token_is_malformed() {
    let mut one = authenticator([spec(Algorithm::Hs256)]);
    let token = mint(Algorithm::Hs256, &claims());
    let (message, _) = token.rsplit_once('.').unwrap();
    for text in
        ["", ".", "..", "...", "a.b", message, &format!("{message}."), &format!("{token}.x")]
    {
        assert_eq!(one.verify(text, now()), Err(AuthRefusal::Malformed), "{text}");
    }
    assert_eq!(one.counts().signatures, 0);
}

#[test]
fn without_key_id_a_token_is_understood_only_while_there_is_one_key() {
    let token = mint_by("trusted", Algorithm::Es256, None, &claims());
    assert!(authenticator([spec(Algorithm::Es256)]).verify(&token, now()).is_ok());
    let refused = authenticator(ALL.map(spec)).verify(&token, now());
    assert_eq!(refused, Err(AuthRefusal::UnknownKey));
    let named = mint_by("trusted", Algorithm::Es256, Some("other"), &claims());
    let refused = authenticator([spec(Algorithm::Es256)]).verify(&named, now());
    assert_eq!(refused, Err(AuthRefusal::UnknownKey));
    assert_eq!(authenticator([]).verify(&token, now()), Err(AuthRefusal::UnknownKey));
}

#[test]
fn tokens_are_valid_from_their_first_to_their_last_second_exactly() {
    let token = mint(Algorithm::EdDsa, &claims());
    let verify =
        |seconds| authenticator([spec(Algorithm::EdDsa)]).verify(&token, at(seconds)).err();
    assert_eq!(verify(NOW - 11), Some(AuthRefusal::NotYetValid));
    assert_eq!(verify(NOW - 10), None);
    assert_eq!(verify(NOW + 599), None);
    assert_eq!(verify(NOW + 600), Some(AuthRefusal::Expired));
}

#[test]
fn an_expired_token_costs_no_signature() {
    let mut one = authenticator([spec(Algorithm::Rs256)]);
    let token = mint(Algorithm::Rs256, &claims_with(&json!({"exp": NOW})));
    assert_eq!(one.verify(&token, now()), Err(AuthRefusal::Expired));
    assert_eq!(one.counts(), VerifyCounts { cache_hits: 0, signatures: 0 });
}

#[test]
fn times_must_be_numbers_and_expiry_must_be_there() {
    use AuthRefusal::{Expired, Malformed, NotYetValid};
    for (changes, refusal) in [
        (json!({"exp": null}), Malformed),
        (json!({"exp": "soon"}), Malformed),
        (json!({"exp": -1}), Expired),
        (json!({"exp": 0.5}), Expired),
        (json!({"nbf": "now"}), Malformed),
        (json!({"nbf": 1e300}), NotYetValid),
        (json!({"nbf": NOW as f64 + 0.5}), NotYetValid),
    ] {
        assert_eq!(outcome(Algorithm::EdDsa, &changes), Err(refusal), "{changes}");
    }
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove("exp");
    let refused =
        authenticator([spec(Algorithm::EdDsa)]).verify(&mint(Algorithm::EdDsa, &claims), now());
    assert_eq!(refused, Err(Malformed));
    assert!(outcome(Algorithm::EdDsa, &json!({"exp": 1e300, "nbf": 0})).is_ok());
}

#[test]
fn issuer_and_audience_are_the_pinned_ones() {
    for changes in [
        json!({"iss": "other"}),
        json!({"iss": null}),
        json!({"iss": [ISSUER]}),
        json!({"aud": "other"}),
        json!({"aud": null}),
        json!({"aud": []}),
        json!({"aud": ["other", 1]}),
    ] {
        assert_eq!(outcome(Algorithm::Es256, &changes), Err(AuthRefusal::WrongParty), "{changes}");
    }
    assert!(outcome(Algorithm::Es256, &json!({"aud": ["other", AUDIENCE]})).is_ok());
}

#[test]
fn a_token_seen_again_is_answered_from_the_cache_for_a_minute() {
    let mut one = authenticator([spec(Algorithm::Rs256)]);
    let token = mint(Algorithm::Rs256, &claims());
    let first = one.verify(&token, now()).unwrap();
    let again = one.verify(&token, at(NOW + 59)).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(one.counts(), VerifyCounts { cache_hits: 1, signatures: 1 });
    one.verify(&token, at(NOW + 60)).unwrap();
    assert_eq!(one.counts(), VerifyCounts { cache_hits: 1, signatures: 2 });
    assert_eq!(one.verify(&token, at(NOW + 600)), Err(AuthRefusal::Expired));
    assert_eq!(one.fresh_tokens(), 3, "all but the one from the cache, also without a signature");
}

#[test]
fn refusals_are_not_cached_and_do_not_serve_similar_tokens() {
    let mut one = authenticator([spec(Algorithm::Hs256)]);
    let foreign = mint_by("stranger", Algorithm::Hs256, Some("hs256"), &claims());
    for _ in 0..2 {
        assert_eq!(one.verify(&foreign, now()), Err(AuthRefusal::BadSignature));
    }
    assert_eq!(one.counts(), VerifyCounts { cache_hits: 0, signatures: 2 });
}

#[test]
fn the_longest_token_is_eight_kibibytes() {
    let filled = |length: usize| {
        let claims = claims_with(&json!({"filler": "x".repeat(length)}));
        mint(Algorithm::Hs256, &claims)
    };
    let long = (5500..6200).map(filled).take_while(|token| token.len() <= 8192).last().unwrap();
    let mut one = authenticator([spec(Algorithm::Hs256)]);
    assert!(long.len() > 8188);
    assert!(one.verify(&long, now()).is_ok());
    assert_eq!(one.verify(&filled(6200), now()), Err(AuthRefusal::Malformed));
}
