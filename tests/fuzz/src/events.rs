//! Records of the event bus: whatever services write, what goes on to a client is JSON of a name that
//! clients may get, and what is kept is bounded.

use std::sync::LazyLock;

use corelane::events::notices::{AdminNotices, FullServiceMappings, SessionInvalidated};
use corelane::events::order::{Capabilities, PublishedShortcut, Revocation};
use corelane::events::{ClientEventNames, NameDialect, SessionOrder, Timestamp, Unusable, read};
use corelane_shard::session::shortcuts::Shortcuts;
use serde_json::Value;

static NAMES: LazyLock<[ClientEventNames; 2]> = LazyLock::new(|| {
    [NameDialect::Hyphen, NameDialect::Both].map(|dialect| {
        ClientEventNames::new(dialect, &["game.round-over"]).expect("no reserved name")
    })
});

/// The bytes are one record.
pub fn events(input: &[u8]) {
    for names in &*NAMES {
        match read(input, names) {
            Ok(order) => check(&order, input, names),
            Err(unusable) => {
                assert_eq!(Unusable::LABELS[unusable.index()], unusable.label());
                assert!(unusable.to_string().len() < 1000, "a message is bounded");
            }
        }
    }
    if let Ok(notice) = SessionInvalidated::read(input) {
        assert!(notice.sessions.len() + notice.unreadable <= input.len());
    }
    if let Ok(mappings) = FullServiceMappings::read(input) {
        assert!(mappings.mappings.len() <= input.len());
    }
    if let Ok(body) = AdminNotices::body(input) {
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["eventName"], "service_error");
    }
    if let Ok(text) = std::str::from_utf8(input)
        && let Some(moment) = Timestamp::parse(text)
    {
        let json = serde_json::to_string(&moment).expect("a time stamp can be written");
        let again = Timestamp::parse(json.trim_matches('"'));
        assert_eq!(again, Some(moment), "{text:?} was written as {json}");
    }
}

fn check(order: &SessionOrder<'_>, record: &[u8], names: &ClientEventNames) {
    match order {
        SessionOrder::Forward { body } => {
            assert!(body.len() <= record.len() + 128, "nothing is made up");
            let again = read(body, names);
            let same = matches!(&again, Ok(SessionOrder::Forward { body: same }) if same == body);
            // What looks like an envelope would be opened again; what nests too deep cannot tell.
            let enveloped = serde_json::from_slice::<Value>(body)
                .map_or(true, |json| json.get("message").is_some_and(Value::is_object));
            assert!(same || enveloped, "what goes on could go on again: {again:?}");
        }
        SessionOrder::Capabilities(capabilities) => {
            let reason = capabilities.reason.as_deref().unwrap_or("x");
            assert!((1..=Capabilities::REASON_BYTES_MAX).contains(&reason.len()));
            for grant in capabilities.permissions.iter().flat_map(|(_, grants)| grants) {
                let (_, path) = grant.route();
                assert!(grant.as_str().ends_with(path));
            }
        }
        SessionOrder::PublishShortcut(shortcut) => {
            assert!(shortcut.payload.len() <= Shortcuts::PAYLOAD_MAX);
            assert!(shortcut.target.path.bytes().all(|byte| byte.is_ascii_graphic()));
            let texts = [&shortcut.name, &shortcut.description, &shortcut.source_service];
            let kept = texts.into_iter().flatten();
            for text in kept.chain([&shortcut.target.service, &shortcut.target.path]) {
                assert!((1..=PublishedShortcut::TEXT_BYTES_MAX).contains(&text.len()));
            }
        }
        SessionOrder::RevokeShortcut(Revocation::ByService(service)) => {
            assert!(!service.is_empty());
        }
        SessionOrder::RevokeShortcut(Revocation::ByRoute(_)) => {}
    }
}
