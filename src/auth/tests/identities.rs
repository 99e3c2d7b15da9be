//! Which identity the claims of a good token spell.

use std::sync::Arc;

use super::*;

fn identity(changes: &Value) -> Arc<Identity> {
    outcome(Algorithm::Hs256, changes).unwrap()
}

/// The session of a token whose issuer is, or is not, native.
fn session(native: bool, issuer: &str, changes: &Value) -> Result<SessionId, AuthRefusal> {
    let key = KeySpec { native, issuer: issuer.into(), ..spec(Algorithm::Hs256) };
    let mut claims = claims_with(changes);
    claims["iss"] = issuer.into();
    let token = mint(Algorithm::Hs256, &claims);
    authenticator([key]).verify(&token, now()).map(|identity| identity.session)
}

const UUID: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3301);

#[test]
fn a_native_issuer_names_sessions_by_uuid_in_either_spelling() {
    for spelling in [SESSION, "3f2504e0-4f89-41d3-9a0c-0305e82c3301", &SESSION.to_uppercase()] {
        assert_eq!(session(true, ISSUER, &json!({"session_key": spelling})), Ok(UUID));
    }
}

#[test]
fn every_other_claim_is_hashed_with_its_issuer_and_tenant() {
    let foreign = |issuer, changes| session(false, issuer, &changes).unwrap();
    let claim = || json!({"session_key": SESSION});
    let in_tenant = || json!({"session_key": SESSION, "tenant": "t"});
    let ids = [
        UUID,
        foreign("a", claim()),
        foreign("b", claim()),
        foreign("a", in_tenant()),
        session(true, ISSUER, &in_tenant()).unwrap(),
        session(true, ISSUER, &json!({"session_key": "not a uuid"})).unwrap(),
        session(true, ISSUER, &json!({"session_key": format!("{{{SESSION}}}")})).unwrap(),
    ];
    for (index, id) in ids.iter().enumerate() {
        assert!(!ids[..index].contains(id), "{index} repeats an earlier one");
    }
    assert_eq!(foreign("a", claim()), foreign("a", claim()));
}

#[test]
fn the_hash_of_a_session_claim_never_changes() {
    // SHA-256 over the length-prefixed issuer "a", tenant "default" and claim "s": stored cursors
    // and records are found under it.
    let id = session(false, "a", &json!({"session_key": "s"})).unwrap();
    assert_eq!(id.to_string(), HASH_OF_A_DEFAULT_S);
}

const HASH_OF_A_DEFAULT_S: &str = "998ae4e9-ac6e-c065-7065-413bce6781ac";

#[test]
fn the_first_session_claim_that_is_present_wins() {
    let by = |changes: Value| session(true, ISSUER, &changes);
    let (one, two) = ("0000000000000000000000000000000a", "0000000000000000000000000000000b");
    assert_eq!(by(json!({"session_key": null, "sid": one, "jti": two})), Ok(SessionId(10)));
    assert_eq!(by(json!({"session_key": null, "jti": two})), Ok(SessionId(11)));
    assert_eq!(by(json!({"session_key": one, "sid": two})), Ok(SessionId(10)));
    for nothing in [json!(null), json!(""), json!(7), json!("00000000000000000000000000000000")] {
        let refused = by(json!({ "session_key": nothing }));
        assert_eq!(refused, Err(AuthRefusal::NoSession), "{nothing}");
    }
    let wrong = by(json!({"session_key": 7, "sid": one}));
    assert_eq!(wrong, Err(AuthRefusal::NoSession), "an unusable claim must not be passed over");
}

#[test]
fn a_token_without_session_opens_a_new_one_each_time_where_that_is_allowed() {
    let rules = |claims: &[&str]| KeyRules {
        session_claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
        ..rules([spec(Algorithm::Hs256)])
    };
    let ring = KeyRing::open(&rules(&["session_key", "random"])).unwrap();
    let mut authenticator = JwtAuthenticator::new(ring.published());
    let mut session = |changes: Value| {
        let token = mint(Algorithm::Hs256, &claims_with(&changes));
        authenticator.verify(&token, now()).map(|identity| identity.session)
    };
    assert_eq!(session(json!({})), Ok(UUID));
    let drawn = [(); 3].map(|()| session(json!({ "session_key": null })).unwrap());
    for (index, id) in drawn.iter().enumerate() {
        assert_eq!(id.to_string().as_bytes()[14], b'4', "a random UUID: {id}");
        assert!(!drawn[..index].contains(id), "{drawn:?}");
    }
    assert_eq!(session(json!({ "session_key": 7 })), Err(AuthRefusal::NoSession));
    let refused = KeyRing::open(&rules(&["random", "jti"])).unwrap_err().to_string();
    assert!(refused.contains("is not the last"), "{refused}");
}

#[test]
fn roles_come_as_list_or_text_and_leave_sorted_and_unique() {
    let roles = |value: Value| identity(&json!({ "roles": value })).standing.roles.to_vec();
    let expected: [Box<str>; 2] = ["admin", "player"].map(Into::into);
    assert_eq!(roles(json!(["player", "admin", "player", ""])), expected);
    assert_eq!(roles(json!(" player  admin player")), expected);
    assert!(roles(json!(null)).is_empty());
    assert_eq!(
        identity(&json!({"authorizations": ["b", "a"]})).standing.authorizations,
        ["a", "b"].map(Into::into).into()
    );
    for wrong in [json!({"roles": 7}), json!({"roles": ["a", 7]}), json!({"roles": {"a": 1}})] {
        assert_eq!(outcome(Algorithm::Hs256, &wrong), Err(AuthRefusal::Malformed), "{wrong}");
    }
}

#[test]
fn the_account_is_the_subject_or_else_the_name_id() {
    let account = |changes: Value| {
        let account = identity(&changes).account.clone();
        account.map(|account| account.text(&mut [0; 36]).to_owned())
    };
    assert_eq!(account(json!({"sub": "s", "nameid": "n"})).as_deref(), Some("s"));
    assert_eq!(account(json!({"sub": null, "nameid": "n"})).as_deref(), Some("n"));
    assert_eq!(account(json!({"sub": "", "nameid": 7})), None);
}

#[test]
fn a_tenant_is_a_plain_name() {
    assert_eq!(&*identity(&json!({})).standing.tenant, "default");
    assert_eq!(&*identity(&json!({"tenant": "studio-7_a.b"})).standing.tenant, "studio-7_a.b");
    let long = "t".repeat(65);
    for wrong in ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "ä", "a%2fb", &long] {
        let refused = outcome(Algorithm::Hs256, &json!({ "tenant": wrong }));
        assert_eq!(refused, Err(AuthRefusal::Malformed), "{wrong}");
    }
    assert_eq!(outcome(Algorithm::Hs256, &json!({"tenant": 7})), Err(AuthRefusal::Malformed));
}
