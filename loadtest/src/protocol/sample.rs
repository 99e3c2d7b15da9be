//! A scenario, a seat and an ear for the tests of the protocols.

use std::time::Duration;

use super::{Dialect, Incoming, Seat};
use crate::scenario::{
    Arrival, Connections, Generator, Protocol, Scenario, Target, Timing, Tls, Traffic, Validity,
};

pub(crate) fn scenario(traffic: Traffic) -> Scenario {
    Scenario {
        name: "sample".to_owned(),
        description: String::new(),
        target: Target {
            url: "ws://127.0.0.1:1/".to_owned(),
            protocol: Protocol::Echo,
            admin_url: None,
            kafka: None,
        },
        tls: Tls::default(),
        traffic,
        payload_bytes: 200,
        connections: Connections { count: 1, per_second: 0.0, opening: 1, sources: Vec::new() },
        arrival: Arrival::Closed { in_flight: 1 },
        timing: Timing {
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(1),
            patience: Duration::from_secs(1),
            interval: Duration::from_secs(1),
        },
        generator: Generator { threads: 1, cpus: Vec::new(), seed: 1, first_sender: 0 },
        validity: Validity { lag_p99_max: Duration::from_millis(1), busy_max: 0.85 },
        thresholds: Vec::new(),
        search: None,
    }
}

pub(crate) fn seat(scenario: &Scenario) -> Seat<'_> {
    Seat { scenario, number: 0, group: 0, partner: 1, sends: true, token: None }
}

/// What `message` says, in words.
pub(crate) fn heard<D: Dialect>(dialect: &mut D, message: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    let mut each = |incoming: Incoming<'_>| {
        words.push(match incoming {
            Incoming::Ready => "Ready".to_owned(),
            Incoming::Payload(payload) => format!("Payload {:?}", text(payload)),
            Incoming::Answer { sequence, payload } => {
                format!("Answer {sequence:?} {:?}", text(payload))
            }
            Incoming::Refused { sequence, code } => format!("Refused {sequence:?} {code}"),
            Incoming::Wrong(what) => format!("Wrong {what}"),
            Incoming::SendBack(bytes) => format!("SendBack {:?}", text(bytes)),
        });
    };
    dialect.take(message, D::OPCODE, &mut each).unwrap();
    words
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
