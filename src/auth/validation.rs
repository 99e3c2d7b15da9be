//! What the auth service's answer to `POST /auth/validate` means.

use corelane_shard::id::SessionId;
use corelane_shard::identity::{Account, Standing, UnixSeconds, Validated};
use serde::Deserialize;

use super::claims::{TENANT_DEFAULT, sorted, uuid};

/// What an answer says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Accepted(Box<Validated>),
    Refused,
    /// The service is not well: nothing is known about the token.
    ServerError,
    /// As [`Self::ServerError`], since it contradicts itself.
    Malformed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    account_id: Option<String>,
    session_key: Option<String>,
    #[serde(default)]
    roles: Option<Vec<String>>,
    #[serde(default)]
    authorizations: Option<Vec<String>>,
    /// Seconds.
    remaining_time: Option<f64>,
}

/// The session is the auth service's own, so it is taken as it is, in the default tenant.
#[must_use]
pub fn understand(status: u16, body: &[u8], unix_ms: u64) -> Told {
    match status {
        200 => {}
        500.. => return Told::ServerError,
        _ => return Told::Refused,
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return Told::Malformed;
    };
    let session = answer.session_key.as_deref().and_then(uuid).filter(|id| *id != 0);
    let Some(session) = session else {
        return Told::Refused;
    };
    let expires_at = match answer.remaining_time {
        Some(seconds) if seconds < 1.0 => return Told::Refused,
        // A float that is too large becomes the largest integer.
        Some(seconds) => UnixSeconds::new((unix_ms / 1000).saturating_add(seconds as u64)),
        None => None,
    };
    let account = answer.account_id.filter(|id| !id.is_empty() && uuid(id) != Some(0));
    Told::Accepted(Box::new(Validated {
        session: SessionId(session),
        account: account.map(|id| Account::from(id.as_str())),
        standing: Standing {
            tenant: TENANT_DEFAULT.into(),
            roles: names(answer.roles),
            authorizations: names(answer.authorizations),
        },
        expires_at,
        issued_at: UnixSeconds::new(unix_ms / 1000),
    }))
}

fn names(list: Option<Vec<String>>) -> Box<[Box<str>]> {
    sorted(list.unwrap_or_default().into_iter().map(String::into_boxed_str).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_123;

    fn told(answer: &serde_json::Value) -> Told {
        understand(200, answer.to_string().as_bytes(), NOW_MS)
    }

    fn accepted(answer: &serde_json::Value) -> Validated {
        match told(answer) {
            Told::Accepted(validated) => *validated,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_becomes_an_identity() {
        let validated = accepted(&json!({
            "accountId": "7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f",
            "sessionKey": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
            "roles": ["user", "admin", "user", ""],
            "authorizations": ["my-game:authorized"],
            "remainingTime": 3571, "more": [1],
        }));
        assert_eq!(validated.session.to_string(), "3f2504e0-4f89-41d3-9a0c-0305e82c3301");
        assert_eq!(validated.account, Some(Account::from("7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f")));
        assert_eq!(*validated.standing.roles, [Box::<str>::from("admin"), Box::from("user")]);
        assert_eq!(*validated.standing.authorizations, [Box::<str>::from("my-game:authorized")]);
        assert_eq!(&*validated.standing.tenant, "default");
        assert_eq!(validated.expires_at.map(UnixSeconds::get), Some(1_700_003_571));
    }

    #[test]
    fn only_the_session_is_necessary() {
        let validated = accepted(&json!({"sessionKey": "3f2504e04f8941d39a0c0305e82c3301"}));
        assert_eq!((validated.account, validated.expires_at), (None, None));
        assert!(validated.standing.roles.is_empty());
        let key = "3f2504e04f8941d39a0c0305e82c3301";
        for nobody in [json!(null), json!(""), json!("00000000-0000-0000-0000-000000000000")] {
            let answer = json!({"sessionKey": key, "accountId": nobody, "roles": null});
            assert_eq!(accepted(&answer).account, None);
        }
        let far = accepted(&json!({"sessionKey": key, "remainingTime": 1e300}));
        assert_eq!(far.expires_at.map(UnixSeconds::get), Some(u64::MAX));
    }

    #[test]
    fn without_a_session_or_time_left_a_token_is_refused() {
        let key = "3f2504e04f8941d39a0c0305e82c3301";
        for answer in [
            json!({}),
            json!({"sessionKey": null}),
            json!({"sessionKey": ""}),
            json!({"sessionKey": "00000000-0000-0000-0000-000000000000"}),
            json!({"sessionKey": "00000000000000000000000000000000"}),
            json!({"sessionKey": "anna"}),
            json!({"sessionKey": key, "remainingTime": 0}),
            json!({"sessionKey": key, "remainingTime": -5}),
            json!({"sessionKey": key, "remainingTime": 0.9}),
        ] {
            assert_eq!(told(&answer), Told::Refused, "{answer}");
        }
    }

    #[test]
    fn statuses_refuse_or_say_nothing() {
        for status in [201, 204, 301, 400, 401, 403, 404, 429, 499] {
            assert_eq!(understand(status, b"{}", NOW_MS), Told::Refused, "{status}");
        }
        for status in [500, 502, 503, 599] {
            assert_eq!(understand(status, b"{}", NOW_MS), Told::ServerError, "{status}");
        }
        for body in ["", "<html>", "[]", "{\"sessionKey\": 7}", "{\"roles\": \"user\"}"] {
            assert_eq!(understand(200, body.as_bytes(), NOW_MS), Told::Malformed, "{body}");
        }
    }
}
