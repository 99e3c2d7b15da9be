//! What goes with a record besides key and value: its [`Trail`](crate::control::bus::Trail), the kind
//! of its value, and when it is worth nothing any more.

use rdkafka::message::{Header, OwnedHeaders};

use super::fetched::{BrokenHeaders, FetchedRecord};
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
pub(super) fn expiry(record: &FetchedRecord<'_>) -> Result<Option<u64>, BrokenHeaders> {
    let mut expiry = Expiry::default();
    record.headers(|name, value| expiry.see(name, value))?;
    Ok(expiry.0)
}

/// What the headers seen so far say of it; the last that says something counts.
#[derive(Default)]
struct Expiry(Option<u64>);

impl Expiry {
    fn see(&mut self, name: &str, value: Option<&[u8]>) {
        if name == EXPIRES
            && let Some(value) = value
        {
            self.0 = str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;
    use rdkafka::message::Headers as _;

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
            let mut expiry = Expiry::default();
            for value in values {
                expiry.see(EXPIRES, value.map(str::as_bytes));
                expiry.see("expires-at", Some(b"9"));
            }
            expiry.0
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
            let mut expiry = Expiry::default();
            for header in write(&record(Some(Trail::default()), at)).iter() {
                expiry.see(header.key, header.value);
            }
            prop_assert_eq!(expiry.0, at);
        }
    }
}
