use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::*;
use crate::events::NameDialect;
use crate::events::order::{Revocation, ShortcutFault};

fn names() -> ClientEventNames {
    ClientEventNames::new(NameDialect::Hyphen, &["arena.round-over"]).unwrap()
}

/// The body that goes to the client.
fn forwarded(record: &str) -> Result<String, Unusable> {
    match read(record.as_bytes(), &names())? {
        SessionOrder::Forward { body } => Ok(String::from_utf8(body.into_owned()).unwrap()),
        order => panic!("{order:?}"),
    }
}

fn is_borrowed(record: &str) -> bool {
    let read = read(record.as_bytes(), &names());
    matches!(read, Ok(SessionOrder::Forward { body: Cow::Borrowed(_) }))
}

#[test]
fn a_listed_event_passes_as_it_is() {
    for record in [
        r#"{"eventName":"system.notification","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.1234567+00:00","notificationType":"Info","message":"Hello","title":"Hi"}"#,
        " {\t\"x\" : [1.50, {\"eventName\":7}],\n\"eventName\" : \"arena.round-over\" }\r\n",
        r#"{"n":1e999999,"eventName":"asset\u002eready","s":"\ud800 \/"}"#,
        r#"{"event\u004eame":"asset.ready"}"#,
    ] {
        assert_eq!(forwarded(record).unwrap(), record);
        assert!(is_borrowed(record), "{record}");
    }
}

#[test]
fn only_the_name_is_respelled() {
    for (written, name) in [
        (r#""GAME-SESSION.PLAYER-JOINED""#, "game-session.player-joined"),
        (r#""game_session.player_joined""#, "game-session.player-joined"),
        (r#""game-session_player-joined""#, "game-session.player-joined"),
        (r#""\u0047ame_session.player-joined""#, "game-session.player-joined"),
        (r#""Arena_Round_Over""#, "arena.round-over"),
    ] {
        let record = |name: &str| {
            format!(" {{ \"a\":1.0,\"eventName\" :\t{name} ,\"z\":{{\"eventName\":{name}}} }}\n")
        };
        let expected = record(written).replacen(written, &format!("{name:?}"), 1);
        assert_eq!(forwarded(&record(written)).unwrap(), expected);
    }
}

#[test]
fn the_last_of_several_names_counts_and_is_the_one_respelled() {
    let record = r#"{"eventName":"asset.ready","eventName":"ASSET.ready","eventName":7,"eventName":"SYSTEM.error"}"#;
    let expected = record.replace("SYSTEM", "system");
    assert_eq!(forwarded(record).unwrap(), expected);
    let refused = r#"{"eventName":"asset.ready","eventName":"no.such"}"#;
    assert_eq!(forwarded(refused), Err(Unusable::NotWhitelisted("no.such".into())));
}

#[test]
fn an_object_called_message_is_the_event() {
    let inner = r#"{ "eventName":"asset.ready","message":{"eventName":"x"} }"#;
    let enveloped =
        format!(r#"{{"messageId":"1","eventName":"system.error","message": {inner} }}"#);
    assert_eq!(forwarded(&enveloped).unwrap(), inner);
    assert!(is_borrowed(&enveloped));
    let respelled = enveloped.replace("asset.ready", "Asset_Ready");
    assert_eq!(forwarded(&respelled).unwrap(), inner);
    for message in ["null", "[]", "\"{}\"", "1", r#"[{"eventName":"x"}]"#] {
        let record = format!(r#"{{"eventName":"system.error","message":{message}}}"#);
        assert_eq!(forwarded(&record).unwrap(), record);
    }
    let nameless = r#"{"eventName":"system.error","message":{}}"#;
    assert_eq!(forwarded(nameless), Err(Unusable::NoEventName));
    let last_is_text = r#"{"message":{"eventName":"x"},"message":"","eventName":"system.error"}"#;
    assert_eq!(forwarded(last_is_text).unwrap(), last_is_text);
}

#[test]
fn what_is_no_object_is_no_event() {
    for record in [
        "",
        "  ",
        "null",
        "\"asset.ready\"",
        r#"["asset.ready"]"#,
        r#"{"eventName":"asset.ready""#,
        r#"{"eventName":"asset.ready"}{}"#,
        r#"{"eventName":"asset.ready",}"#,
        r#"{"eventName":"asset.ready","a":01}"#,
        "{\"eventName\":\"asset.ready\",\"a\":\"\n\"}",
        "\u{feff}{\"eventName\":\"asset.ready\"}",
    ] {
        assert_eq!(forwarded(record), Err(Unusable::NotJson), "{record}");
    }
    let latin = b"{\"eventName\":\"asset.ready\",\"a\":\"\xE4\"}";
    assert_eq!(read(latin, &names()), Err(Unusable::NotJson));
}

#[test]
fn an_event_needs_a_name_that_is_a_text() {
    for record in [
        "{}",
        r#"{"eventname":"asset.ready"}"#,
        r#"{"EventName":"asset.ready"}"#,
        r#"{"a":{"eventName":"asset.ready"}}"#,
        r#"{"eventName":null}"#,
        r#"{"eventName":["asset.ready"]}"#,
        r#"{"eventName":{"eventName":"asset.ready"}}"#,
        r#"{"eventName":"\ud800"}"#,
    ] {
        assert_eq!(forwarded(record), Err(Unusable::NoEventName), "{record}");
    }
}

#[test]
fn an_event_that_is_not_listed_is_refused_by_name() {
    let refused = |name: &str| forwarded(&json!({ "eventName": name }).to_string());
    assert_eq!(refused("no.such"), Err(Unusable::NotWhitelisted("no.such".into())));
    assert_eq!(refused(""), Err(Unusable::NotWhitelisted("".into())));
    let long = "ä".repeat(3000);
    assert_eq!(refused(&long), Err(Unusable::NotWhitelisted("ä".repeat(64).into())));
}

#[test]
fn events_for_the_gateway_are_consumed_also_from_envelopes() {
    for envelope in [false, true] {
        let read = |event: Value| {
            let record = if envelope { json!({ "message": event }) } else { event };
            read(record.to_string().as_bytes(), &names()).map(|order| match order {
                SessionOrder::Forward { .. } => panic!("it went to the client"),
                SessionOrder::Capabilities(given) => format!("{:?}", given.reason),
                SessionOrder::PublishShortcut(shortcut) => format!("{:?}", shortcut.name),
                SessionOrder::RevokeShortcut(revocation) => format!("{revocation:?}"),
            })
        };
        for name in ["permission.session-capabilities", "Permissions_session_capabilities"] {
            let event = json!({ "eventName": name, "permissions": {}, "reason": "role_changed" });
            assert_eq!(read(event).unwrap(), "Some(\"role_changed\")");
            assert_eq!(read(json!({ "eventName": name })), Err(Unusable::NoPermissions));
        }
        for name in ["session.shortcut_published", "Session_shortcut_published"] {
            let event = json!({ "eventName": name, "shortcut": {
                "routeGuid": "e396fa78-4185-7478-b2be-6c15197f391c",
                "targetGuid": "93faa70b-c616-ce52-b9c4-d0d7d6fae278",
                "boundPayload": "",
                "metadata": {
                    "name": "leave", "targetService": "a", "targetMethod": "GET",
                    "targetEndpoint": "/a",
                },
            }});
            assert_eq!(read(event).unwrap(), "Some(\"leave\")");
            let bad = Unusable::BadShortcut(ShortcutFault::Form);
            assert_eq!(read(json!({ "eventName": name })), Err(bad));
        }
        for name in ["session.shortcut-revoked", "Session_shortcut_revoked"] {
            let event = json!({ "eventName": name, "revokeByService": "a" });
            let by_service = Revocation::ByService("a".into());
            assert_eq!(read(event).unwrap(), format!("{by_service:?}"));
            assert_eq!(read(json!({ "eventName": name })), Err(Unusable::BadRevocation));
        }
    }
}

#[test]
fn every_refusal_has_a_label_of_its_own() {
    use crate::events::order::TargetField;
    let all = [
        Unusable::NotJson,
        Unusable::NoEventName,
        Unusable::NotWhitelisted("x".into()),
        Unusable::NoPermissions,
        Unusable::BadCapabilities,
        Unusable::BadShortcut(ShortcutFault::Form),
        Unusable::NoShortcutTarget(TargetField::Service),
        Unusable::BadRevocation,
    ];
    assert_eq!(all.map(|refusal| refusal.label()), Unusable::LABELS);
    let different: std::collections::BTreeSet<_> = Unusable::LABELS.into_iter().collect();
    assert_eq!(different.len(), Unusable::LABELS.len());
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let record = format!(r#"{{"a":{deep},"eventName":"asset.ready","message":{deep}}}"#);
    assert_eq!(forwarded(&record).unwrap(), record);
}

/// JSON values, with the two decisive keys among the others on every level but the first.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![any_text(), Just("eventName".into()), Just("message".into())];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| Map::from_iter(pairs).into()),
        ]
    })
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), Just("asset.ready".into()), "[\"\\\\{}:,]{0,6}"]
}

/// `text` as a JSON string, each letter escaped or not.
fn spelled(text: &str, escapes: &[bool]) -> String {
    let letters = text.chars().zip(escapes.iter().chain(std::iter::repeat(&false)));
    let letters = letters.map(|(letter, escape)| {
        if *escape { format!("\\u{:04x}", u32::from(letter)) } else { letter.to_string() }
    });
    format!("\"{}\"", letters.collect::<String>())
}

fn blanks() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,2}"
}

proptest! {
    /// Against a whole parse of the same record: what is found, and that nothing but the name of
    /// the last eventName has changed.
    #[test]
    fn the_name_is_found_wherever_it_stands(
        before in prop::collection::vec((any_text(), any_value()), 0..4),
        after in prop::collection::vec((any_text(), any_value()), 0..4),
        (written, canonical) in select(vec![
            ("asset.ready", "asset.ready"),
            ("Asset_Ready", "asset.ready"),
            ("game_session.player_joined", "game-session.player-joined"),
            ("arena.round-over", "arena.round-over"),
        ]),
        earlier in prop::option::of(any_value()),
        key_escapes: [bool; 9],
        escapes: [bool; 26],
        blank in blanks(),
    ) {
        let decisive = |key: &str| key == "eventName" || key == "message";
        prop_assume!(before.iter().chain(&after).all(|(key, _)| !decisive(key)));
        let property = |key: &str, value: &str| format!("{blank}{key}{blank}:{blank}{value}{blank}");
        let plain = |(key, value): &(String, Value)| {
            property(&Value::from(key.as_str()).to_string(), &value.to_string())
        };
        let record = |name: &str| {
            let mut properties: Vec<String> = before.iter().map(plain).collect();
            if let Some(value) = &earlier {
                properties.insert(0, property("\"eventName\"", &value.to_string()));
            }
            properties.push(property(&spelled("eventName", &key_escapes), name));
            properties.extend(after.iter().map(plain));
            format!("{blank}{{{}}}{blank}", properties.join(","))
        };
        let as_published = record(&spelled(written, &escapes));
        let expected = if written == canonical {
            as_published.clone()
        } else {
            record(&format!("{canonical:?}"))
        };
        prop_assert_eq!(is_borrowed(&as_published), written == canonical);
        prop_assert_eq!(forwarded(&as_published), Ok(expected.clone()));
        let whole: Value = serde_json::from_str(&expected).unwrap();
        prop_assert_eq!(&whole["eventName"], canonical);

        let envelope = format!("{blank}{{\"host\":{{}},\"message\":{blank}{as_published}}}");
        let unwrapped = forwarded(&envelope).unwrap();
        prop_assert_eq!(unwrapped.as_str(), expected.trim_ascii());
    }

    /// Any tree at all gives what a whole parse of it says.
    #[test]
    fn any_json_is_judged_like_a_whole_parse_of_it(record in any_value()) {
        let event = match &record {
            Value::Object(object) => match object.get("message") {
                Some(Value::Object(inner)) => Ok(inner),
                _ => Ok(object),
            },
            _ => Err(Unusable::NotJson),
        };
        let expected = event.and_then(|event| match event.get("eventName") {
            Some(Value::String(name)) if name == "asset.ready" => Ok(event.clone()),
            Some(Value::String(name)) => Err(Unusable::NotWhitelisted(shortened(name))),
            _ => Err(Unusable::NoEventName),
        });
        let body = forwarded(&record.to_string());
        let parsed = body.map(|body| serde_json::from_str::<Map<String, Value>>(&body).unwrap());
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused(record: Vec<u8>, at in 0..200_usize, byte: u8) {
        drop(read(&record, &names()));
        let mut event = br#"{"a":[1,{"b":"\u00e4"}],"eventName":"Game_Session.Player-Joined","message":"x"}"#.to_vec();
        let at = at % event.len();
        event[at] = byte;
        if let Ok(SessionOrder::Forward { body }) = read(&event, &names()) {
            prop_assert!(serde_json::from_slice::<Value>(&body).is_ok());
        }
    }
}
