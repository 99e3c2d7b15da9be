//! Key sets that issuers publish, and tokens that the auth service judges.

use jsonwebtoken::jwk::Jwk;

use super::*;

const URL: &str = "http://login.example/keys";

fn set(url: &str) -> JwksSpec {
    JwksSpec {
        url: url.into(),
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        native: true,
        refresh: std::time::Duration::from_secs(300),
    }
}

fn jwk(owner: &str, algorithm: Algorithm) -> Value {
    let jwk = Jwk::from_encoding_key(&encoding_key(owner, algorithm), algorithm.wire()).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    jwk["kid"] = stem(algorithm).into();
    jwk
}

fn changed(mut jwk: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(jwk.as_object_mut().unwrap().remove(name)),
            value => jwk[name] = value.clone(),
        }
    }
    jwk
}

fn parse(keys: &[Value]) -> Result<Vec<Arc<Key>>, JwksFault> {
    parse_set(&set(URL), json!({ "keys": keys }).to_string().as_bytes())
}

fn ring(urls: &[&str]) -> KeyRing {
    let jwks = urls.iter().map(|url| set(url)).collect();
    KeyRing::open(&KeyRules { jwks, ..rules([]) }).unwrap()
}

const PUBLIC: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

#[test]
fn published_keys_verify_the_tokens_of_their_algorithm() {
    for (algorithm, named) in PUBLIC.into_iter().flat_map(|one| [(one, true), (one, false)]) {
        let alg = if named { algorithm.name().into() } else { Value::Null };
        let key = changed(jwk("trusted", algorithm), &json!({ "alg": alg, "use": "sig" }));
        let mut ring = ring(&[URL]);
        let mut shard = JwtAuthenticator::new(ring.published());
        ring.learn(&set(URL), Some(parse(&[key]).unwrap()));
        let identity = shard.verify(&mint(algorithm, &claims()), now()).unwrap();
        assert_eq!(identity.session.to_string(), "3f2504e0-4f89-41d3-9a0c-0305e82c3301");
        let foreign = mint_by("stranger", algorithm, Some(&stem(algorithm)), &claims());
        assert_eq!(shard.verify(&foreign, now()), Err(AuthRefusal::BadSignature), "{algorithm}");
        let hmac = json!({"alg": "HS256", "kid": stem(algorithm)});
        let forged = forge(&hmac, &claims(), b"whatever");
        assert_eq!(shard.verify(&forged, now()), Err(AuthRefusal::AlgorithmMismatch));
        let other = mint(algorithm, &claims_with(&json!({"iss": "somebody else"})));
        assert_eq!(shard.verify(&other, now()), Err(AuthRefusal::WrongParty));
    }
}

#[test]
fn what_is_no_key_for_signatures_is_passed_over() {
    let good = jwk("trusted", Algorithm::EdDsa);
    let es = || jwk("trusted", Algorithm::Es256);
    let rs = || jwk("trusted", Algorithm::Rs256);
    let short = URL_SAFE_NO_PAD.encode([0xFF; 128]);
    let padded = URL_SAFE_NO_PAD.encode([&[0; 200][..], &[0xFF; 128]].concat());
    for bad in [
        changed(es(), &json!({"kid": null})),
        changed(es(), &json!({"kid": ""})),
        changed(es(), &json!({"use": "enc"})),
        changed(es(), &json!({"key_ops": ["sign"]})),
        changed(es(), &json!({"alg": "ES384"})),
        changed(es(), &json!({"alg": "HS256"})),
        changed(es(), &json!({"crv": "P-384"})),
        changed(es(), &json!({"x": null})),
        changed(es(), &json!({"y": "AAAA"})),
        changed(es(), &json!({"y": "not base64!"})),
        changed(rs(), &json!({"n": short})),
        changed(rs(), &json!({"n": padded})),
        changed(rs(), &json!({"e": ""})),
        changed(rs(), &json!({"alg": "PS256"})),
        json!({"kty": "oct", "kid": "es256", "alg": "HS256", "k": "c2VjcmV0"}),
        json!({"kty": "new", "kid": "es256"}),
        json!("no key"),
    ] {
        let keys = parse(&[bad.clone(), good.clone()]).unwrap();
        assert_eq!(keys.iter().map(|key| &*key.id).collect::<Vec<_>>(), ["eddsa"], "{bad}");
        assert_eq!(parse(std::slice::from_ref(&bad)).unwrap_err(), JwksFault::NoKey, "{bad}");
    }
    assert_eq!(parse(&[good.clone(), good]).unwrap().len(), 1, "one of an id");
    for bad in ["", "[]", "{}", "{\"keys\": 1}", "<html>"] {
        assert_eq!(parse_set(&set(URL), bad.as_bytes()).unwrap_err(), JwksFault::NotASet, "{bad}");
    }
}

#[test]
fn before_the_first_fetch_and_while_fetches_fail_nothing_is_said_of_unknown_keys() {
    let mut ring = ring(&[URL, "http://other.example/"]);
    let mut shard = JwtAuthenticator::new(ring.published());
    let token = mint(Algorithm::Es256, &claims());
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::Unavailable));
    ring.learn(&set(URL), Some(parse(&[jwk("trusted", Algorithm::Es256)]).unwrap()));
    assert!(shard.verify(&token, now()).is_ok());
    let unknown = mint(Algorithm::EdDsa, &claims());
    assert_eq!(shard.verify(&unknown, now()), Err(AuthRefusal::Unavailable), "the other set");
    let others = parse(&[jwk("stranger", Algorithm::Rs256)]).unwrap();
    ring.learn(&set("http://other.example/"), Some(others));
    ring.unknown().settle();
    assert_eq!(shard.verify(&unknown, now()), Err(AuthRefusal::UnknownKey));

    ring.learn(&set(URL), None);
    assert!(shard.verify(&token, now()).is_ok(), "the last good keys stay");
    assert_eq!(shard.verify(&unknown, now()), Err(AuthRefusal::Unavailable));
}

#[test]
fn a_token_of_an_unknown_key_asks_for_a_fetch_and_is_answered_when_that_is_over() {
    let mut ring = ring(&[URL]);
    ring.learn(&set(URL), Some(parse(&[jwk("trusted", Algorithm::Es256)]).unwrap()));
    let mut shard = JwtAuthenticator::new(ring.published());
    let unknown = ring.unknown();
    assert!(shard.verify(&mint(Algorithm::Es256, &claims()), now()).is_ok());
    assert!(!unknown.is_asked());
    let token = mint(Algorithm::EdDsa, &claims());
    for _ in 0..2 {
        assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::Unavailable));
        assert!(unknown.is_asked());
    }
    unknown.settle();
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::UnknownKey));
    assert!(!unknown.is_asked());
    unknown.reopen();
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::Unavailable));
}

#[test]
fn the_same_keys_again_leave_the_cache_alone_and_others_empty_it() {
    let mut ring = ring(&[URL]);
    let fetch = |owner| Some(parse(&[jwk(owner, Algorithm::Rs256)]).unwrap());
    ring.learn(&set(URL), fetch("trusted"));
    let mut shard = JwtAuthenticator::new(ring.published());
    let token = mint(Algorithm::Rs256, &claims());
    shard.verify(&token, now()).unwrap();
    ring.learn(&set(URL), fetch("trusted"));
    shard.verify(&token, now()).unwrap();
    assert_eq!(shard.counts(), VerifyCounts { cache_hits: 1, signatures: 1 });
    ring.learn(&set(URL), fetch("stranger"));
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::BadSignature));
}

#[test]
fn a_key_file_comes_before_a_published_key_of_its_id() {
    let jwks = vec![set(URL)];
    let files = rules([spec(Algorithm::EdDsa)]);
    let mut ring = KeyRing::open(&KeyRules { jwks, ..files }).unwrap();
    let foreign = changed(jwk("stranger", Algorithm::EdDsa), &json!({"kid": "eddsa"}));
    ring.learn(&set(URL), Some(parse(&[foreign]).unwrap()));
    let mut shard = JwtAuthenticator::new(ring.published());
    assert!(shard.verify(&mint(Algorithm::EdDsa, &claims()), now()).is_ok());
    let theirs = mint_by("stranger", Algorithm::EdDsa, Some("eddsa"), &claims());
    assert_eq!(shard.verify(&theirs, now()), Err(AuthRefusal::BadSignature));
}

#[test]
fn a_reload_keeps_the_keys_of_sets_that_stay_and_drops_the_others() {
    let mut ring = ring(&[URL]);
    ring.learn(&set(URL), Some(parse(&[jwk("trusted", Algorithm::Es256)]).unwrap()));
    let mut shard = JwtAuthenticator::new(ring.published());
    let token = mint(Algorithm::Es256, &claims());
    let with = |jwks: Vec<JwksSpec>| KeyRules { jwks, ..rules([]) };
    ring.reload(&with(vec![set("http://new.example/"), set(URL)])).unwrap();
    assert!(shard.verify(&token, now()).is_ok());
    let other = JwksSpec { audience: "another".into(), ..set(URL) };
    ring.reload(&with(vec![other])).unwrap();
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::Unavailable), "not fetched yet");
    ring.learn(&set(URL), Some(parse(&[jwk("trusted", Algorithm::Es256)]).unwrap()));
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::Unavailable), "a late answer");
    let twice = ring.reload(&with(vec![set(URL), set(URL)])).unwrap_err();
    assert!(twice.to_string().contains(URL), "{twice}");
    ring.reload(&with(vec![])).unwrap();
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::UnknownKey));
}

#[test]
fn native_issuers_are_counted_over_files_and_sets() {
    let foreign = JwksSpec { issuer: "other".into(), ..set(URL) };
    let both = KeyRules { jwks: vec![foreign], ..rules([spec(Algorithm::EdDsa)]) };
    assert!(matches!(KeyRing::open(&both), Err(KeyError::TwoNativeIssuers { .. })));
    let half = KeyRules {
        jwks: vec![JwksSpec { native: false, ..set(URL) }],
        ..rules([spec(Algorithm::EdDsa)])
    };
    assert!(matches!(KeyRing::open(&half), Err(KeyError::HalfNativeIssuer { .. })));
}

fn told(token: &str) -> Judgement {
    Judgement::Ask(TokenFingerprint::of(token))
}

fn validated(session: u128, expires_at: u64) -> Validated {
    let standing = corelane_shard::identity::Standing {
        tenant: "default".into(),
        roles: ["user".into()].into(),
        authorizations: [].into(),
    };
    let (session, expires_at) = (SessionId(session), UnixSeconds::new(expires_at));
    Validated { session, account: None, standing, expires_at, issued_at: None }
}

#[test]
fn only_tokens_of_other_keys_are_for_the_auth_service() {
    let mut one = authenticator([spec(Algorithm::Es256)]).asking();
    let own = mint(Algorithm::Es256, &claims());
    assert!(matches!(one.judge(&own, now()), Judgement::Accepted(_)));
    let forged = mint_by("stranger", Algorithm::Es256, Some("es256"), &claims());
    assert_eq!(one.judge(&forged, now()), Judgement::Refused(AuthRefusal::BadSignature));
    let confused = forge(&json!({"alg": "HS256", "kid": "es256"}), &claims(), b"whatever");
    assert_eq!(one.judge(&confused, now()), Judgement::Refused(AuthRefusal::AlgorithmMismatch));

    let foreign = mint(Algorithm::Hs256, &claims());
    assert_eq!(one.judge(&foreign, now()), told(&foreign));
    // As the protocol's own issuer signs them: HS256 without a key id.
    let nameless = mint_by("trusted", Algorithm::Hs256, None, &claims());
    assert_eq!(one.judge(&nameless, now()), told(&nameless));
    let mut lasting = claims();
    lasting.as_object_mut().unwrap().remove("exp");
    let lasting = mint(Algorithm::Hs256, &lasting);
    assert_eq!(one.judge(&lasting, now()), told(&lasting));
    let own = mint_by("trusted", Algorithm::Es256, None, &claims());
    assert!(matches!(one.judge(&own, now()), Judgement::Accepted(_)), "the only key");

    let mut without = authenticator([spec(Algorithm::Es256)]);
    let refused = Judgement::Refused(AuthRefusal::UnknownKey);
    assert_eq!(without.judge(&foreign, now()), refused);
}

#[test]
fn the_auth_service_is_not_asked_about_what_is_over_or_no_token() {
    let mut one = authenticator([]).asking();
    let over = mint(Algorithm::Hs256, &claims_with(&json!({"exp": NOW})));
    assert_eq!(one.judge(&over, now()), Judgement::Refused(AuthRefusal::Expired));
    for bad in ["", "a.b", "x.y.z", &format!("{over}.x")] {
        assert_eq!(one.judge(bad, now()), Judgement::Refused(AuthRefusal::Malformed), "{bad}");
    }
    assert_eq!(one.counts().signatures, 0);
}

#[test]
fn what_the_auth_service_said_is_remembered_for_a_minute_and_no_longer_than_the_token() {
    let mut one = authenticator([]).asking();
    let (long, short) = (
        mint(Algorithm::Hs256, &claims()),
        mint(Algorithm::Hs256, &claims_with(&json!({"sub": "another"}))),
    );
    let first = one.learn(TokenFingerprint::of(&long), validated(7, NOW + 600), now());
    let second = one.learn(TokenFingerprint::of(&short), validated(8, NOW + 10), now());
    assert!(Arc::ptr_eq(&first.standing, &second.standing));
    for (token, session, until) in [(&long, 7, 60), (&short, 8, 10)] {
        let Judgement::Accepted(identity) = one.judge(token, at(NOW + until - 1)) else {
            panic!("forgotten too soon");
        };
        assert_eq!(identity.session, SessionId(session));
        assert_eq!(one.judge(token, at(NOW + until)), told(token));
    }
    assert_eq!(one.fresh_tokens(), 2, "those that were asked about");
}
