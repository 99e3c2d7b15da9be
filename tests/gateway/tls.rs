//! The listener that speaks TLS.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tungstenite::Message;

use crate::gateway_process::Launch;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::frames::Request;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{Answer, HttpBackend};
use crate::harness::raw::{dial, exchange, upgrade};
use crate::harness::tls::{Authority, TlsStream, session, shake, shown, try_shake};

/// A gateway with one certificate, for `game.example`.
fn serve(authority: &Authority, more: &str, setup: impl FnOnce(Setup) -> Setup) -> Gateway {
    authority.write("game", &["game.example"]);
    setup(Setup::new(authority.listener(&["game"], more))).start()
}

/// What was sent with a call comes back, and what comes unasked.
fn echoes(client: &mut Client<TlsStream>) {
    client.socket.send(Message::Ping("are you there".into())).expect("the connection is open");
    loop {
        match client.socket.read().expect("the connection is open") {
            Message::Pong(payload) => return assert_eq!(&payload[..], b"are you there"),
            other => assert!(!other.is_close(), "{other:?}"),
        }
    }
}

fn without_proof(authority: &Authority) -> Arc<ClientConfig> {
    authority.client(&[&TLS13, &TLS12], None)
}

#[test]
fn sessions_call_over_both_versions_with_messages_of_every_length() {
    let authority = Authority::new();
    authority.write("game", &["game.example"]);
    let backend = HttpBackend::start(|asked| Answer::ok(&asked.body));
    let tables = [authority.listener(&["game"], ""), backend.service("/demo/echo", "")];
    let gateway = Setup::new(tables.concat()).start();
    for (version, number) in
        [(&TLS13, ProtocolVersion::TLSv1_3), (&TLS12, ProtocolVersion::TLSv1_2)]
    {
        let client = authority.client(&[version], None);
        let mut client = session(gateway.tls(), &client, &gateway.token());
        assert_eq!(client.socket.get_ref().conn.protocol_version(), Some(number));
        let echo = Request::to(client.service("/demo/echo"));
        for len in [0, 1, 100, 16_384, 16_385, 60_000] {
            let payload = format!("\"{}\"", "x".repeat(len));
            let reply = client.call(&echo.clone().id(len as u64).payload(payload.clone()));
            assert_eq!((reply.code, reply.id), (0, len as u64));
            assert!(reply.payload == payload.as_bytes(), "{len} bytes come back as they went");
        }
        client.leave();
    }
    // Beside it the plain port is as it was.
    gateway.client().leave();
    gateway.wait_until_empty();
}

#[test]
fn a_gateway_may_speak_nothing_but_tls() {
    let authority = Authority::new();
    let gateway = serve(&authority, "", |setup| setup.set("listen.public.address", ""));
    assert!(gateway.public_addresses().is_empty());
    session(gateway.tls(), &without_proof(&authority), &gateway.token()).leave();
}

#[test]
fn old_versions_are_refused_if_that_is_said() {
    let authority = Authority::new();
    let gateway = serve(&authority, "oldest_version = \"1.3\"", |setup| setup);
    assert!(try_shake(gateway.tls(), "game.example", &authority.client(&[&TLS12], None)).is_err());
    session(gateway.tls(), &authority.client(&[&TLS13], None), &gateway.token()).leave();
}

#[test]
fn the_certificate_follows_the_name() {
    let authority = Authority::new();
    let game = authority.write("game", &["game.example", "127.0.0.1"]);
    let europe = authority.write("europe", &["*.eu.example"]);
    let gateway = Setup::new(authority.listener(&["game", "europe"], "")).start();
    let client = without_proof(&authority);
    for (name, certificate) in
        [("game.example", &game), ("a.eu.example", &europe), ("127.0.0.1", &game)]
    {
        assert_eq!(shown(gateway.tls(), name, &client), *certificate, "{name}");
    }
    // That is of nobody, so it is the first, which does not fit.
    assert!(try_shake(gateway.tls(), "nobody.example", &client).is_err());
}

fn replaced(gateway: &Gateway) -> u64 {
    gateway.metric("corelane_certificates_replaced_total", "")
}

fn await_shown(gateway: &Gateway, client: &Arc<ClientConfig>, wanted: &CertificateDer<'static>) {
    gateway.wait_until("the new certificate to be shown", PATIENCE, || {
        shown(gateway.tls(), "game.example", client) == *wanted
    });
}

#[test]
fn new_files_are_taken_for_new_handshakes_and_close_nothing() {
    let authority = Authority::new();
    let gateway = serve(&authority, "", |setup| setup);
    let client = without_proof(&authority);
    let mut open = session(gateway.tls(), &client, &gateway.token());
    let first = shown(gateway.tls(), "game.example", &client);
    // 2050-12-31T00:00:00Z
    assert_eq!(gateway.metric("corelane_certificate_expiry_seconds", "game."), 2_556_057_600);
    assert_eq!(replaced(&gateway), 0);

    let second = authority.write("game", &["game.example"]);
    assert_ne!(first, second);
    await_shown(&gateway, &client, &second);
    gateway.wait_until("it to be counted", PATIENCE, || replaced(&gateway) > 0);
    echoes(&mut open);

    std::fs::write(authority.file("game", "key"), "no key").expect("the folder is ours");
    gateway.await_log("those read before stay in force");
    assert_eq!(shown(gateway.tls(), "game.example", &client), second);
    echoes(&mut open);
    open.leave();
}

#[test]
fn a_reload_takes_certificates_whole_or_not_at_all() {
    let authority = Authority::new();
    let mut gateway = serve(&authority, "", |setup| setup);
    let client = without_proof(&authority);
    let mut open = session(gateway.tls(), &client, &gateway.token());
    let first = shown(gateway.tls(), "game.example", &client);

    let other = authority.write("other", &["game.example"]);
    std::fs::write(authority.file("broken", "certificate"), "nothing").expect("the folder is ours");
    gateway.reload(authority.listener(&["other", "broken"], ""));
    let refused = gateway.await_log("configuration refused");
    assert!(refused.contains("broken.certificate.pem"), "{refused}");
    assert_eq!(shown(gateway.tls(), "game.example", &client), first);

    gateway.reload(authority.listener(&["other"], "oldest_version = \"1.3\""));
    gateway.await_log("configuration taken");
    assert_eq!(shown(gateway.tls(), "game.example", &client), other);
    assert!(try_shake(gateway.tls(), "game.example", &authority.client(&[&TLS12], None)).is_err());
    assert!(gateway.metric("corelane_certificate_expiry_seconds", "other.") > 0);
    assert_eq!(gateway.metric("corelane_certificate_expiry_seconds", "game."), 0);
    echoes(&mut open);

    gateway.reload(authority.listener(&["other"], "handshakes_max = 7"));
    let refused = gateway.await_log("need a restart");
    assert!(refused.contains("listen.tls.handshakes_max"), "{refused}");
    open.leave();
}

#[test]
fn who_shows_no_certificate_is_refused_where_one_is_required() {
    let [authority, stranger] = [(); 2].map(|()| Authority::new());
    let roots = authority.roots();
    let demand = format!("client_certificates = \"required\"\nclient_roots = {roots:?}");
    let gateway = serve(&authority, &demand, |setup| setup);
    for version in [&TLS13, &TLS12] {
        let proven = authority.client(&[version], Some(authority.issue(&["player"])));
        session(gateway.tls(), &proven, &gateway.token()).leave();
        for own in [None, Some(stranger.issue(&["player"]))] {
            let client = authority.client(&[version], own);
            // With TLS 1.3 a client is done before it is judged, and learns of that as it reads.
            let refused = try_shake(gateway.tls(), "game.example", &client)
                .and_then(|mut stream| stream.read(&mut [0]));
            let refused = refused.expect_err("nobody has come in");
            assert_eq!(refused.kind(), ErrorKind::InvalidData, "an alert says so: {refused}");
        }
    }
    gateway.wait_until_empty();
}

#[test]
fn who_speaks_plain_on_the_port_of_tls_is_told_so_in_plain() {
    let authority = Authority::new();
    let gateway = serve(&authority, "", |setup| setup);
    let bearer = format!("Authorization: Bearer {}", gateway.token());
    for request in [upgrade("/connect", &[&bearer]), upgrade("/health", &[])] {
        let answer = exchange(gateway.tls(), request.as_bytes());
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("TLS"), "{}", answer.body);
    }
    assert_eq!(gateway.metric("corelane_sessions", ""), 0);
}

#[test]
fn who_speaks_tls_on_the_plain_port_is_refused() {
    let authority = Authority::new();
    let gateway = serve(&authority, "", |setup| setup);
    let refused = try_shake(gateway.public(), "game.example", &without_proof(&authority));
    let refused = refused.expect_err("that port speaks no TLS");
    // The plain 400 is no record of TLS.
    assert_eq!(refused.kind(), ErrorKind::InvalidData, "{refused}");
}

#[test]
fn a_client_that_does_not_shake_hands_is_dropped() {
    let authority = Authority::new();
    let gateway = serve(&authority, "handshake_timeout = \"100ms\"", |setup| setup);
    for begun in [&[][..], &[0x16, 0x03, 0x01]] {
        let mut stream = dial(gateway.tls());
        stream.write_all(begun).expect("the gateway reads");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("the end of the stream");
    }
    gateway.wait_until_empty();
    session(gateway.tls(), &without_proof(&authority), &gateway.token()).leave();
}

#[test]
fn a_ticket_of_one_shard_is_good_on_the_other() {
    let authority = Authority::new();
    let gateway = serve(&authority, "", |setup| setup.shards(2));
    for version in [&TLS13, &TLS12] {
        let mut client = ClientConfig::clone(&authority.client(&[version], None));
        client.resumption = Resumption::in_memory_sessions(4);
        let client = Arc::new(client);
        let on = |shard: usize| gateway.metric("corelane_sessions", &format!("shard=\"{shard}\""));
        let until = Instant::now() + PATIENCE;
        let mut last: Option<usize> = None;
        loop {
            let before = on(0);
            let open = session(gateway.tls(), &client, &gateway.token());
            let shard = usize::from(on(0) == before);
            let kind = open.socket.get_ref().conn.handshake_kind();
            open.leave();
            gateway.await_metric("corelane_sessions", "", 0);
            let Some(last) = last.replace(shard) else {
                assert_eq!(kind, Some(HandshakeKind::Full));
                continue;
            };
            assert_eq!(kind, Some(HandshakeKind::Resumed), "from shard {last} to {shard}");
            if last != shard {
                break;
            }
            assert!(Instant::now() < until, "the kernel sends all to shard {shard}");
        }
    }
}

#[test]
fn http_is_served_over_tls_too() {
    let authority = Authority::new();
    let gateway = serve(&authority, "", |setup| setup);
    let mut stream = shake(gateway.tls(), "game.example", &without_proof(&authority));
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").expect("the gateway reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a whole answer, then a good-bye and the end");
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_gateway_does_not_start_with_a_key_of_another_certificate() {
    let authority = Authority::new();
    authority.write("game", &["game.example"]);
    let (_, key) = authority.issue(&["game.example"]);
    std::fs::write(authority.file("game", "key"), key).expect("the folder is ours");
    let ended = Launch::new(authority.listener(&["game"], "")).run_to_end();
    assert_eq!(ended.status.code(), Some(64));
    let said = &ended.stderr;
    assert!(said.contains("corelane.toml:") && said.contains("game.key.pem"), "{said}");
}
