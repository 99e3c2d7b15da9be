//! The `ping` scenario: every connection calls one endpoint again and again, one call at a time,
//! and the round trips of all go into one histogram. A closed loop: it says what a call costs at
//! this load, not what happens when more arrives than is served.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use thiserror::Error;

use crate::client::{Client, ClientError, Url};

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) url: Url,
    pub(crate) endpoint: String,
    /// Of each connection.
    pub(crate) calls: u32,
    pub(crate) payload_bytes: usize,
}

#[derive(Debug, Error)]
pub(crate) enum PingError {
    #[error("connection {connection}: {source}")]
    Client { connection: usize, source: ClientError },
    #[error("connection {connection}: the payload of call {call} came back changed")]
    Payload { connection: usize, call: u32 },
    #[error("connection {connection} panicked")]
    Panicked { connection: usize },
}

/// The round trips of all calls.
#[derive(Debug)]
pub(crate) struct Report {
    /// In nanoseconds.
    round_trips: Histogram<u64>,
    elapsed: Duration,
    connections: usize,
}

/// Runs `plan` with one connection for each token, all opened before the first call.
pub(crate) fn run(plan: &Plan, tokens: &[String]) -> Result<Report, PingError> {
    let mut ready = Vec::with_capacity(tokens.len());
    for (connection, token) in tokens.iter().enumerate() {
        let failed = |source| PingError::Client { connection, source };
        let mut client = Client::connect(&plan.url, token).map_err(failed)?;
        let guid = client.find_endpoint(&plan.endpoint).map_err(failed)?;
        ready.push((connection, client, guid));
    }
    let started = Instant::now();
    let mut round_trips = empty_histogram();
    thread::scope(|scope| {
        let threads: Vec<_> = ready
            .into_iter()
            .map(|(connection, client, guid)| {
                (connection, scope.spawn(move || call_all(plan, connection, client, guid)))
            })
            .collect();
        for (connection, thread) in threads {
            let one = thread.join().map_err(|_| PingError::Panicked { connection })??;
            round_trips += one;
        }
        Ok(())
    })?;
    Ok(Report { round_trips, elapsed: started.elapsed(), connections: tokens.len() })
}

fn call_all(
    plan: &Plan,
    connection: usize,
    mut client: Client,
    guid: [u8; 16],
) -> Result<Histogram<u64>, PingError> {
    let mut round_trips = empty_histogram();
    let mut payload = Vec::with_capacity(plan.payload_bytes);
    for call in 0..plan.calls {
        fill_payload(&mut payload, plan.payload_bytes, connection, call);
        let sent = Instant::now();
        let reply = client
            .call(guid, &payload)
            .map_err(|source| PingError::Client { connection, source })?;
        let round_trip = sent.elapsed();
        if reply != payload {
            return Err(PingError::Payload { connection, call });
        }
        round_trips.saturating_record(round_trip.as_nanos() as u64);
    }
    let closed = client.close();
    closed.map_err(|source| PingError::Client { connection, source })?;
    Ok(round_trips)
}

/// A JSON string (backends may insist on JSON) that differs from call to call and from connection
/// to connection, so that a mixed-up reply is noticed.
fn fill_payload(payload: &mut Vec<u8>, bytes: usize, connection: usize, call: u32) {
    let mark = format!("{connection}:{call}:");
    payload.clear();
    payload.push(b'"');
    payload.extend(mark.bytes().cycle().take(bytes.saturating_sub(2)));
    payload.push(b'"');
}

/// From a microsecond to a minute, three digits.
fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("the bounds are valid")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.round_trips.len();
        let seconds = self.elapsed.as_secs_f64();
        let rate = calls as f64 / seconds;
        let connections = self.connections;
        writeln!(f, "{calls} calls on {connections} connections in {seconds:.2} s: {rate:.0}/s")?;
        write!(f, "round trip µs:")?;
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            write!(f, " {name} {}", self.round_trips.value_at_quantile(quantile) / 1000)?;
        }
        write!(f, " max {}", self.round_trips.max() / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::{Behaviour, TestGateway};

    fn plan(gateway: &TestGateway) -> Plan {
        Plan {
            url: gateway.url(),
            endpoint: "/demo/echo".to_owned(),
            calls: 50,
            payload_bytes: 200,
        }
    }

    #[test]
    fn every_call_of_every_connection_is_counted() {
        let gateway = TestGateway::start(Behaviour::Faithful);
        let tokens = vec![TestGateway::TOKEN.to_owned(); 3];
        let report = run(&plan(&gateway), &tokens).unwrap();
        assert_eq!(report.round_trips.len(), 150);
        assert!(report.to_string().starts_with("150 calls on 3 connections"));
    }

    #[test]
    fn a_changed_payload_is_an_error() {
        let gateway = TestGateway::start(Behaviour::FlipsAByte);
        let tokens = [TestGateway::TOKEN.to_owned()];
        let error = run(&plan(&gateway), &tokens).unwrap_err();
        assert!(matches!(error, PingError::Payload { connection: 0, call: 0 }), "{error}");
    }

    #[test]
    fn payloads_differ_and_are_json() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        fill_payload(&mut one, 40, 1, 2);
        fill_payload(&mut other, 40, 1, 3);
        assert_eq!(one.len(), 40);
        assert_ne!(one, other);
        assert!(serde_json::from_slice::<String>(&one).is_ok());
    }
}
