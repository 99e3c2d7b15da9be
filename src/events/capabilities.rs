//! The event that says what a session may call.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::order::{Capabilities, Grant, Unusable};

/// Both spellings may be there; the small one counts.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    permissions: Option<&'a RawValue>,
    #[serde(borrow, rename = "Permissions")]
    permissions_capital: Option<&'a RawValue>,
    #[serde(borrow)]
    reason: Option<&'a RawValue>,
    #[serde(borrow, rename = "Reason")]
    reason_capital: Option<&'a RawValue>,
}

/// `json` is known to be an object.
pub(super) fn read(json: &str) -> Result<Capabilities, Unusable> {
    let written: Written<'_> = serde_json::from_str(json).map_err(|_| Unusable::BadCapabilities)?;
    let permissions = written.permissions.or(written.permissions_capital);
    let permissions = permissions.ok_or(Unusable::NoPermissions)?.get();
    let permissions: BTreeMap<Box<str>, Vec<Box<str>>> =
        serde_json::from_str(permissions).map_err(|_| Unusable::BadCapabilities)?;
    let granted = |(service, paths): (_, Vec<_>)| (service, paths.into_iter().map(Grant).collect());
    let reason = written.reason.or(written.reason_capital);
    let reason = reason.and_then(|reason| serde_json::from_str::<Box<str>>(reason.get()).ok());
    Ok(Capabilities {
        permissions: permissions.into_iter().map(granted).collect(),
        reason: reason.filter(|text| (1..=Capabilities::REASON_BYTES_MAX).contains(&text.len())),
    })
}

#[cfg(test)]
mod tests {
    use corelane_shard::snapshot::Method;

    use super::*;

    fn permissions(read: &Capabilities) -> Vec<(&str, Vec<&str>)> {
        let grants = read.permissions.iter();
        grants
            .map(|(service, grants)| (&**service, grants.iter().map(Grant::as_str).collect()))
            .collect()
    }

    #[test]
    fn permissions_and_reason_are_read() {
        let json = r#"{"eventName":"permission.session-capabilities","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.1+00:00","sessionId":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","permissions":{"auth":["/auth/validate"],"account":["/account/get","GET:/account/update"]},"reason":"session_connected"}"#;
        let read = read(json).unwrap();
        let expected = [
            ("account", vec!["/account/get", "GET:/account/update"]),
            ("auth", vec!["/auth/validate"]),
        ];
        assert_eq!(permissions(&read), expected);
        assert_eq!(read.reason.as_deref(), Some("session_connected"));
    }

    #[test]
    fn capital_spellings_are_read_and_the_small_ones_come_first() {
        let capital = read(r#"{"Permissions":{"a":["/x"]},"Reason":"role_changed"}"#).unwrap();
        assert_eq!(permissions(&capital), [("a", vec!["/x"])]);
        assert_eq!(capital.reason.as_deref(), Some("role_changed"));
        let both = read(r#"{"Permissions":{"a":[]},"permissions":{"b":[]}}"#).unwrap();
        assert_eq!(permissions(&both), [("b", vec![])]);
        let null = read(r#"{"Permissions":{"a":[]},"permissions":null}"#).unwrap();
        assert_eq!(permissions(&null), [("a", vec![])]);
    }

    #[test]
    fn no_permissions_are_not_the_same_as_empty_ones() {
        for json in ["{}", r#"{"permissions":null}"#, r#"{"reason":"x","PERMISSIONS":{}}"#] {
            assert_eq!(read(json), Err(Unusable::NoPermissions), "{json}");
        }
        assert_eq!(read(r#"{"permissions":{}}"#).unwrap().permissions, []);
    }

    #[test]
    fn permissions_of_another_form_are_refused_whole() {
        for permissions in ["[]", "7", r#"{"a":"/x"}"#, r#"{"a":["/x",1]}"#, r#"{"a":null}"#] {
            let json = format!(r#"{{"permissions":{permissions}}}"#);
            assert_eq!(read(&json), Err(Unusable::BadCapabilities), "{json}");
        }
    }

    #[test]
    fn a_strange_reason_is_none() {
        let long = format!("\"{}\"", "x".repeat(65));
        for reason in ["7", "null", "\"\"", "{}", &long] {
            let json = format!(r#"{{"permissions":{{}},"reason":{reason}}}"#);
            assert_eq!(read(&json).unwrap().reason, None, "{json}");
        }
    }

    #[test]
    fn a_grant_names_its_method_if_it_is_not_a_post() {
        for (grant, method, path) in [
            ("/account/get", Method::Post, "/account/get"),
            ("GET:/account/get", Method::Get, "/account/get"),
            ("patch:/account", Method::Patch, "/account"),
            ("HEAD:/account", Method::Post, "HEAD:/account"),
            ("/a:b", Method::Post, "/a:b"),
            ("/GET:/b", Method::Post, "/GET:/b"),
            ("", Method::Post, ""),
        ] {
            assert_eq!(Grant(grant.into()).route(), (method, path));
        }
    }
}
