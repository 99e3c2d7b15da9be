//! Load over TLS, against small servers that rustls makes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use corelane_loadtest::outcome::Outcome;
use corelane_loadtest::report;
use corelane_loadtest::run::RunError;
use corelane_loadtest::scenario::{
    Arrival, CloseBy, Ready, Scenario, Tls, TlsSuite, TlsVersion, Traffic,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;

use support::{BINARY, CLOSE, Peer, error_of, frame, outcome_of, scenario, serve, serve_tls};

/// The file of a new authority's certificate, and a server whose certificate that has signed.
fn certified(name: &str) -> (NamedTempFile, Arc<ServerConfig>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let authority = params.self_signed(&key).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(authority.pem().as_bytes()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
    (file, Arc::new(config))
}

fn echo(mut peer: Peer) {
    let _ = (|| {
        peer.upgrade()?;
        loop {
            let mut out = Vec::new();
            for (first, payload) in peer.read_messages()? {
                match first {
                    BINARY => out.extend(frame(BINARY, &payload)),
                    _ => return peer.send(&frame(CLOSE, &payload)),
                }
            }
            peer.send(&out)?;
        }
    })();
}

fn over_tls(address: SocketAddr, authority: &NamedTempFile) -> Scenario {
    let mut scenario = scenario(address);
    scenario.target.url = format!("wss://{address}/");
    scenario.tls = Tls { ca: Some(authority.path().to_owned()), ..Tls::default() };
    scenario
}

/// How often each kind of handshake was made.
fn kinds(outcome: &Outcome) -> (u64, u64) {
    let of = |kind: &str| {
        let agreed = outcome.handshakes.iter().filter(|(agreed, _)| agreed.ends_with(kind));
        agreed.map(|(_, number)| number).sum()
    };
    (of("full"), of("resumed"))
}

#[test]
fn messages_go_through_tls_as_they_are() {
    let (authority, config) = certified("whole");
    let address = serve_tls(config, echo);
    for (version, words) in [(TlsVersion::V12, "TLS 1.2, "), (TlsVersion::V13, "TLS 1.3, ")] {
        let mut scenario = over_tls(address, &authority);
        scenario.tls.version = Some(version);
        // Frames and records of every relation: many in one, and one in many.
        for payload_bytes in [200, 40_000] {
            scenario.payload_bytes = payload_bytes;
            let outcome = outcome_of(&scenario);
            assert!(outcome.messages.received > 100, "{:?}", outcome.messages);
            assert_eq!(outcome.messages.faults(), 0, "{:?}", outcome.messages);
            assert_eq!((outcome.connections.ready, outcome.connections.lost), (4, 0));
            assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
            let agreed: Vec<_> = outcome.handshakes.iter().collect();
            let [(agreed, 4)] = agreed[..] else { panic!("{agreed:?}") };
            assert!(agreed.starts_with(words) && agreed.ends_with(", full"), "{agreed}");
        }
    }
}

#[test]
fn the_handshake_is_a_phase_of_its_own() {
    let (authority, config) = certified("phase");
    let outcome = outcome_of(&over_tls(serve_tls(config, echo), &authority));
    let latency = &outcome.latency;
    for series in [&latency.connect, &latency.handshake, &latency.upgrade] {
        assert_eq!(series.0.len(), 4);
    }
    let summary = report::summary(&outcome);
    let line = |start: &str| summary.lines().position(|line| line.trim().starts_with(start));
    assert!(line("TCP connect") < line("TLS handshake "), "{summary}");
    assert!(line("TLS handshake ") < line("Upgrade to the 101"), "{summary}");
    assert!(line("TLS handshakes").is_some(), "{summary}");

    let plain = outcome_of(&scenario(serve(echo)));
    assert!(plain.latency.handshake.0.is_empty() && plain.handshakes.is_empty());
    assert!(!report::summary(&plain).contains("TLS"));
}

#[test]
fn a_server_of_another_authority_is_refused_with_what_helps() {
    let (ours, _) = certified("ours");
    let (_theirs, config) = certified("theirs");
    let address = serve_tls(config, echo);
    let mut scenario = over_tls(address, &ours);
    match error_of(&scenario) {
        RunError::NoConnection { attempted: 4, cause } => assert_eq!(
            cause,
            "certificate refused: no trusted authority has signed it; tls.ca (--ca) names the \
             file of another authority"
        ),
        other => panic!("{other}"),
    }
    scenario.tls = Tls { verify: false, ..Tls::default() };
    assert_eq!(outcome_of(&scenario).connections.ready, 4);
}

#[test]
fn failed_handshakes_are_counted_by_kind() {
    let (authority, config) = certified("kinds");
    let connects = |address| {
        let mut scenario = over_tls(address, &authority);
        scenario.traffic = Traffic::Connect { ready: Ready::Upgraded, close: CloseBy::Reset };
        scenario.arrival = Arrival::Constant { rate: 50.0, window: None };
        scenario
    };
    // It takes what comes for a request, and answers in plain text.
    let deaf = serve(|mut peer| {
        let _ = peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = peer.read_request();
    });
    let gone = serve(|mut peer| {
        let _read = std::io::Read::read(&mut peer.stream, &mut [0; 16 << 10]);
    });
    let new = {
        let mut config = ServerConfig::clone(&config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        serve_tls(Arc::new(config), echo)
    };
    for (address, kind) in [
        (deaf, "TLS handshake failed: the server does not speak TLS"),
        (gone, "TLS handshake failed: the server ends the connection"),
        (new, "TLS handshake failed: the server answers NoApplicationProtocol"),
    ] {
        let outcome = outcome_of(&connects(address));
        let connections = &outcome.connections;
        assert_eq!(connections.failed, connections.attempted, "{:?}", outcome.errors);
        let counted: Vec<_> = outcome.errors.into_iter().collect();
        assert_eq!(counted, [(kind.to_owned(), connections.failed)]);
    }
}

#[test]
fn storms_shake_hands_in_full_unless_sessions_are_taken_up() {
    let (authority, config) = certified("storm");
    let mut scenario = over_tls(serve_tls(config, echo), &authority);
    scenario.traffic = Traffic::Connect { ready: Ready::Upgraded, close: CloseBy::CloseFrame };
    scenario.arrival = Arrival::Closed { in_flight: 4 };
    scenario.generator.threads = 2;
    for resume in [false, true] {
        scenario.tls.resume = resume;
        let outcome = outcome_of(&scenario);
        assert_eq!((outcome.connections.failed, outcome.connections.lost), (0, 0));
        let (full, resumed) = kinds(&outcome);
        let measured = full + resumed;
        assert!(measured > 20 && measured < outcome.connections.ready, "the warm-up is not timed");
        assert_eq!(outcome.latency.handshake.0.len(), measured);
        if resume {
            assert!(resumed > full, "{full} full, {resumed} resumed");
        } else {
            assert_eq!(resumed, 0);
        }
    }
}

#[test]
fn those_who_come_back_take_up_their_sessions() {
    let (authority, config) = certified("back");
    let mut scenario = over_tls(serve_tls(config, echo), &authority);
    scenario.traffic = Traffic::Reconnect { ready: Ready::Upgraded, times: 1 };
    scenario.connections.count = 30;
    scenario.arrival = Arrival::Closed { in_flight: 30 };
    scenario.tls.resume = true;
    let outcome = outcome_of(&scenario);
    assert_eq!(outcome.connections.ready, 60, "{:?}", outcome.errors);
    // Of the second time: the first opens come before the measurement.
    assert_eq!(kinds(&outcome), (0, 30), "{:?}", outcome.handshakes);
}

#[test]
fn the_client_ends_tls_with_its_last_word() {
    let (authority, config) = certified("word");
    let ends = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ends);
    let address = serve_tls(config, move |mut peer| {
        let _ = (|| {
            peer.upgrade()?;
            let closes = peer.read_messages()?;
            peer.send(&frame(CLOSE, &closes[0].1))?;
            let tls = peer.tls.as_mut()?;
            tls.send_close_notify();
            let mut stream = rustls::Stream::new(&mut **tls, &mut peer.stream);
            std::io::Write::flush(&mut stream).ok()?;
            // Zero bytes after the last word; an error, if the client just ends.
            let end = std::io::Read::read(&mut stream, &mut [0; 16]);
            seen.lock().ok()?.push(end.map_err(|error| error.kind()));
            Some(())
        })();
    });
    let mut scenario = over_tls(address, &authority);
    scenario.traffic = Traffic::Hold;
    let outcome = outcome_of(&scenario);
    assert_eq!((outcome.connections.ready, outcome.connections.lost), (4, 0));
    // The clients leave before the run is over, the servers' threads may see it a moment later.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while ends.lock().unwrap().len() < 4 && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(*ends.lock().unwrap(), [Ok(0); 4]);
}

#[test]
fn what_cannot_be_trusted_is_said_before() {
    let (authority, config) = certified("before");
    let mut scenario = over_tls(serve_tls(config, echo), &authority);
    scenario.tls.ca = Some("no/such/file.pem".into());
    let refused = error_of(&scenario);
    assert!(matches!(refused, RunError::Tls(_)), "{refused}");
    assert!(refused.to_string().starts_with("tls.ca no/such/file.pem: "), "{refused}");
}

#[test]
fn the_wanted_suite_is_the_one_that_is_agreed() {
    let (authority, config) = certified("suite");
    let mut scenario = over_tls(serve_tls(config, echo), &authority);
    scenario.tls.suite = Some(TlsSuite::Aes128Gcm);
    let outcome = outcome_of(&scenario);
    let expected = ("TLS 1.3, TLS_AES_128_GCM_SHA256, full".to_owned(), 4);
    assert_eq!(outcome.handshakes.into_iter().collect::<Vec<_>>(), [expected]);
}
