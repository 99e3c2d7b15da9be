//! What goes with a record besides key and value: its [`Trail`](crate::control::bus::Trail), the kind of its value, and when it is
//! worth nothing any more.

use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::control::bus::Record;

const MESSAGE_ID: &str = "message-id";
const CONTENT_TYPE: &str = "content-type";
const CORRELATION_ID: &str = "correlation-id";
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
const EXPIRES: &str = "expires-at-ms";

pub(super) fn write(record: &Record) -> OwnedHeaders {
    let header = |headers: OwnedHeaders, key: &str, value: &str| {
        headers.insert(Header { key, value: Some(value) })
    };
    let mut headers = OwnedHeaders::new_with_capacity(6);
    headers = header(headers, CONTENT_TYPE, "application/json");
    if let Some(trail) = &record.trail {
        for (key, value) in [
            (MESSAGE_ID, &trail.message_id),
            (CORRELATION_ID, &trail.correlation_id),
            (TRACEPARENT, &trail.traceparent),
            (TRACESTATE, &trail.tracestate),
        ] {
            if let Some(value) = value {
                headers = header(headers, key, value);
            }
        }
    }
    match record.expires_at_ms {
        Some(at) => header(headers, EXPIRES, &at.to_string()),
        None => headers,
    }
}

/// When a record is worth nothing any more, if it says so. What is no number says nothing.
pub(super) fn expiry(headers: &impl Headers) -> Option<u64> {
    let last = (0..headers.count()).rev().filter_map(|at| headers.try_get(at));
    let value = last.filter(|header| header.key == EXPIRES).find_map(|header| header.value)?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::control::bus::Trail;

    fn record(trail: Option<Trail>, expires_at_ms: Option<u64>) -> Record {
        Record {
            topic: "t".into(),
            key: "k".into(),
            value: [].into(),
            expires_at_ms,
            position: None,
            trail: trail.map(Box::new),
        }
    }

    #[test]
    fn what_is_known_of_a_record_goes_with_it() {
        let trail = Trail {
            message_id: Some("m".into()),
            correlation_id: Some("c".into()),
            traceparent: Some("p".into()),
            tracestate: Some("s".into()),
        };
        let headers = write(&record(Some(trail), Some(7)));
        let headers: Vec<_> =
            headers.iter().map(|it| (it.key, str::from_utf8(it.value.unwrap()).unwrap())).collect();
        assert_eq!(
            headers,
            [
                ("content-type", "application/json"),
                ("message-id", "m"),
                ("correlation-id", "c"),
                ("traceparent", "p"),
                ("tracestate", "s"),
                ("expires-at-ms", "7"),
            ]
        );
        assert_eq!(write(&record(None, None)).count(), 1);
    }

    #[test]
    fn the_last_expiry_counts_and_one_without_a_number_does_not() {
        let of = |values: &[Option<&str>]| {
            let none = OwnedHeaders::new();
            let all = values
                .iter()
                .fold(none, |headers, &value| headers.insert(Header { key: EXPIRES, value }));
            expiry(&all)
        };
        assert_eq!(of(&[Some("1"), Some("2")]), Some(2));
        assert_eq!(of(&[Some(" 3 ")]), Some(3));
        for odd in [None, Some(""), Some("-1"), Some("soon"), Some("1e3")] {
            assert_eq!(of(&[odd]), None, "{odd:?}");
        }
        assert_eq!(of(&[]), None);
    }

    proptest! {
        #[test]
        fn an_expiry_comes_back_as_it_was_written(at in option::of(any::<u64>())) {
            prop_assert_eq!(expiry(&write(&record(Some(Trail::default()), at))), at);
        }
    }
}
