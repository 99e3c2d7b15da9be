//! The gateway's protocol from the client's side, against a small gateway that follows the
//! documentation: manifest, answers with codes, peers.

mod support;

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use corelane_loadtest::outcome::Outcome;
use corelane_loadtest::run::{RunError, Surroundings, run};
use corelane_loadtest::scenario::{Arrival, Placement, Protocol, Reply, Scenario, Traffic};

use support::{BINARY, Blind, Peer, frame, scenario, serve};

const ECHO: &str = "cab54425-5941-5c52-bfb2-221b0cea4f17";

/// One call in `one_in` is answered with code 60, one peer message with 31; how many there were.
struct Gateway {
    address: std::net::SocketAddr,
    refused: Arc<AtomicU64>,
}

type Peers = Arc<Mutex<HashMap<[u8; 16], TcpStream>>>;

fn gateway(one_in: u64) -> Gateway {
    let refused = Arc::new(AtomicU64::new(0));
    let (count, messages, peers) = (Arc::clone(&refused), AtomicU64::new(0), Peers::default());
    let messages = Arc::new(messages);
    let address = serve(move |mut peer| {
        let _ = session(&mut peer, one_in, &messages, &count, &peers);
    });
    Gateway { address, refused }
}

fn session(
    peer: &mut Peer,
    one_in: u64,
    messages: &AtomicU64,
    refused: &AtomicU64,
    peers: &Peers,
) -> Option<()> {
    let head = peer.read_request()?;
    let token = head.lines().find_map(|line| line.strip_prefix("Authorization: Bearer "))?;
    let name: u128 = 0x9b2f << 112 | token.parse::<u128>().ok()?;
    peer.send(support::ACCEPTED.as_bytes())?;
    peers.lock().ok()?.insert(name.to_be_bytes(), peer.stream.try_clone().ok()?);
    peer.send(&manifest(name))?;
    loop {
        // Refusals go first: they may overtake the answers of calls before them.
        let (mut refusals, mut answers) = (Vec::new(), Vec::new());
        for (first, message) in peer.read_messages()? {
            if first != BINARY {
                return peer.send(&frame(first, &message));
            }
            let number = messages.fetch_add(1, Ordering::Relaxed);
            let refuse = number % one_in == one_in - 1;
            refused.fetch_add(u64::from(refuse), Ordering::Relaxed);
            let (header, payload) = message.split_at(31);
            let to_peer = header[0] & 0x20 != 0;
            let mut answer = vec![(header[0] | 0x40) & !0x04];
            answer.extend_from_slice(&header[1..7]);
            answer.extend_from_slice(&header[23..31]);
            match (to_peer, refuse) {
                (_, true) => answer.push(if to_peer { 31 } else { 60 }),
                (false, false) => {
                    answer.push(0);
                    answer.extend_from_slice(payload);
                }
                (true, false) => {
                    let peers = peers.lock().ok()?;
                    let target = peers.get(&header[7..23])?;
                    std::io::Write::write_all(&mut &*target, &frame(BINARY, &message)).ok()?;
                    continue;
                }
            }
            if refuse { &mut refusals } else { &mut answers }.extend(frame(BINARY, &answer));
        }
        // Deliveries of others go out on the same socket.
        let _whole_frames = peers.lock().ok()?;
        refusals.append(&mut answers);
        peer.send(&refusals)?;
    }
}

fn manifest(name: u128) -> Vec<u8> {
    let digits = format!("{name:032x}");
    let json = format!(
        "{{\"eventName\":\"connect.capability-manifest\",\"peerGuid\":\"{}-{}-{}-{}-{}\",\
         \"availableApis\":[{{\"serviceId\":\"{ECHO}\",\"endpoint\":\"/demo/echo\"}}]}}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    );
    let mut message = vec![0; 31];
    message[0] = 0x10;
    message.extend_from_slice(json.as_bytes());
    frame(BINARY, &message)
}

fn against(gateway: &Gateway, traffic: Traffic) -> Scenario {
    let mut scenario = scenario(gateway.address);
    scenario.target.protocol = Protocol::Corelane;
    scenario.traffic = traffic;
    scenario.arrival = Arrival::Closed { in_flight: 4 };
    scenario
}

fn run_with_tokens(scenario: &Scenario) -> Result<Outcome, RunError> {
    let tokens = (1..=scenario.connections.count).map(|number| number.to_string()).collect();
    run(scenario, &Surroundings { tokens, server: None }, &mut Blind)
}

fn calls(endpoint: &str, reply: Reply) -> Traffic {
    Traffic::Call { endpoints: vec![endpoint.to_owned()], reply, channels: 1 }
}

fn assert_refusals_are_errors(outcome: &Outcome, code: &str, refused: u64) {
    let messages = &outcome.messages;
    assert!(refused > 0);
    assert_eq!(outcome.errors.get(code), Some(&refused), "{:?}", outcome.errors);
    assert_eq!(outcome.errors.len(), 1, "{:?}", outcome.errors);
    assert_eq!(messages.received + refused, messages.sent);
    let faults = [messages.lost, messages.duplicated, messages.reordered, messages.corrupted];
    assert_eq!(faults, [0; 4]);
}

#[test]
fn a_call_that_is_answered_with_a_code_is_an_error_and_not_lost() {
    for reply in [Reply::Echo, Reply::Any] {
        let gateway = gateway(50);
        let outcome = run_with_tokens(&against(&gateway, calls("/demo/echo", reply))).unwrap();
        let refused = gateway.refused.load(Ordering::Relaxed);
        assert_refusals_are_errors(&outcome, "code 60", refused);
        assert_eq!(outcome.latency.first_message.0.len(), 4);
    }
}

#[test]
fn pairs_send_to_each_other_and_unreachable_peers_are_errors() {
    let gateway = gateway(50);
    let traffic = Traffic::Peer { placement: Placement::Any };
    let outcome = run_with_tokens(&against(&gateway, traffic)).unwrap();
    let refused = gateway.refused.load(Ordering::Relaxed);
    assert_refusals_are_errors(&outcome, "code 31", refused);
}

#[test]
fn a_missing_endpoint_is_named_beside_those_there_are() {
    let gateway = gateway(50);
    let scenario = against(&gateway, calls("/demo/nothing", Reply::Echo));
    match run_with_tokens(&scenario).unwrap_err() {
        RunError::NoConnection { cause, .. } => {
            assert_eq!(cause, "manifest: no endpoint /demo/nothing; there are /demo/echo");
        }
        other => panic!("{other}"),
    }
}
