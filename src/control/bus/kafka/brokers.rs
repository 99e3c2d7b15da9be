//! Brokers that librdkafka has forgotten.
//!
//! A broker that was just started may answer a question about topics and name no broker at all. Then
//! librdkafka forgets every broker that it knows, those of its configuration too. It wants to begin with
//! these anew, but if it knows of its loss before it has read the answer to its end, the end calls that
//! off, and it asks nobody any more (confluentinc/librdkafka#5301).
#![expect(unsafe_code, reason = "librdkafka is C, and its wrapper lacks this call")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::CStr;

use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::{Client, ClientContext};
use serde::Deserialize;
use tracing::warn;

use super::contact::Contact;

/// What is read of librdkafka's statistics.
#[derive(Deserialize)]
struct Statistics<'a> {
    #[serde(borrow)]
    brokers: BTreeMap<Cow<'a, str>, Broker<'a>>,
}

#[derive(Deserialize)]
struct Broker<'a> {
    /// Where the client has it from; its own threads and roles such as a group's coordinator are among
    /// its brokers, and lead nowhere by themselves.
    #[serde(borrow)]
    source: Cow<'a, str>,
}

/// Whether a client has nobody whom it could ask.
pub(super) fn are_forgotten(statistics: &[u8]) -> bool {
    let can_be_asked = |broker: &Broker<'_>| matches!(&*broker.source, "configured" | "learned");
    serde_json::from_slice::<Statistics<'_>>(statistics)
        .is_ok_and(|read| !read.brokers.values().any(can_be_asked))
}

/// Tells a client that has forgotten all its brokers which to ask: `host:port`, separated by commas.
pub(super) fn find_again<C: ClientContext>(client: &Client<C>, contact: &Contact, brokers: &CStr) {
    if !contact.take_forgotten() {
        return;
    }
    // SAFETY: the client is alive, and librdkafka copies the text, which ends with a zero.
    let found = unsafe { rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
    warn!(found, "librdkafka has forgotten all brokers, and asks those of the configuration again");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_threads_are_nobody_to_ask() {
        let of = |brokers: &str| format!(r#"{{"name":"x","brokers":{{{brokers}}},"topics":{{}}}}"#);
        let broker = |name: &str, source: &str| {
            format!(r#""{name}":{{"name":"{name}","nodeid":-1,"source":"{source}","req":{{}}}}"#)
        };
        assert!(are_forgotten(of("").as_bytes()));
        let roles = [broker("GroupCoordinator", "logical"), broker(":0/internal", "internal")];
        assert!(are_forgotten(of(&roles.join(",")).as_bytes()));
        for source in ["configured", "learned"] {
            let brokers = [roles[0].clone(), broker("a:9092/1", source)];
            assert!(!are_forgotten(of(&brokers.join(",")).as_bytes()), "{source}");
        }
        assert!(!are_forgotten(b"{}"), "nothing is known");
    }
}
