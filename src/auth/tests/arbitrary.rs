//! Whatever comes, verification returns.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn arbitrary_text_is_refused_without_panic(text in ".{0,200}", bytes: Vec<u8>) {
        let mut all = authenticator(ALL.map(spec));
        prop_assert!(all.verify(&text, now()).is_err());
        prop_assert!(all.verify(&String::from_utf8_lossy(&bytes), now()).is_err());
    }

    /// Well-formed on the outside, so that the inner parsers see the bytes.
    #[test]
    fn arbitrary_parts_are_refused_without_panic(parts: [Vec<u8>; 3]) {
        let mut all = authenticator(ALL.map(spec));
        let token = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        prop_assert!(all.verify(&token, now()).is_err());
    }

    #[test]
    fn arbitrary_claims_under_a_good_signature_do_not_panic(
        claim in "exp|nbf|iss|aud|sub|nameid|tenant|roles|authorizations|session_key|sid|jti",
        value in json_value(),
    ) {
        drop(outcome(Algorithm::Hs256, &json!({ claim: value })));
    }

    #[test]
    fn one_changed_byte_never_verifies(at: prop::sample::Index, with in "[A-Za-z0-9_.-]") {
        let token = mint(Algorithm::EdDsa, &claims());
        let at = at.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(at..=at, &with);
        if changed != token {
            let outcome = authenticator([spec(Algorithm::EdDsa)]).verify(&changed, now());
            prop_assert!(outcome.is_err(), "{changed}");
        }
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::from))
}
