//! Sessions that end and are taken up again: by reconnect token, by their token, by a newer one.

use serde_json::Value;
use tungstenite::{Error, Message};
use uuid::Uuid;

use crate::gateway_process::token::Claims;
use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};

fn gateway() -> Gateway {
    Setup::new("").with_notices().start()
}

fn session_of(client: &Client) -> String {
    client.manifest["sessionId"].as_str().expect("a manifest names its session").to_owned()
}

/// The reconnect token that follows the manifest.
fn early_token(client: &mut Client) -> String {
    let event = client.event();
    assert_eq!(event["eventName"], "connect.session-token");
    assert_eq!(event["windowSeconds"], 300);
    event["token"].as_str().expect("a token is text").to_owned()
}

/// Reads up to the close frame: text frames, events, close code.
fn good_bye(client: &mut Client) -> (Vec<Value>, Vec<Value>, u16) {
    let (mut texts, mut events) = (Vec::new(), Vec::new());
    loop {
        match client.socket.read() {
            Ok(Message::Text(text)) => texts.push(serde_json::from_str(&text).expect("JSON")),
            Ok(Message::Binary(bytes)) => {
                events.push(serde_json::from_slice(&bytes[31..]).expect("JSON"));
            }
            Ok(Message::Close(Some(frame))) => return (texts, events, frame.code.into()),
            Ok(_) => {}
            other => panic!("no good-bye: {other:?}"),
        }
    }
}

#[test]
fn a_client_that_vanished_takes_its_session_up_with_the_token_it_was_given_early() {
    let gateway = gateway();
    let mut client = gateway.client();
    let (session, token) = (session_of(&client), early_token(&mut client));
    drop(client);
    gateway.await_session_end(&session);
    let mut back = Client::try_resume(gateway.public(), &token).expect("it is within the window");
    assert_eq!(session_of(&back), session);
    assert_eq!(back.manifest["reason"], "session_reconnected");
    let next = early_token(&mut back);
    assert_ne!(next, token);
    gateway.await_metric("corelane_sessions_resumed_total", "", 1);
}

#[test]
fn a_token_that_was_followed_by_another_is_void_once_the_client_has_that() {
    let gateway = gateway();
    let mut client = gateway.client();
    let first = early_token(&mut client);
    let mut second = Client::try_resume(gateway.public(), &first).expect("a takeover");
    let (code, reason) = client.close_reason();
    assert_eq!((code, &*reason), (4002, "New connection established"));
    let newest = early_token(&mut second);
    // Its stack answers the Ping that follows the token.
    loop {
        match second.socket.read() {
            Ok(Message::Ping(_)) => break,
            Ok(_) => {}
            Err(error) => panic!("no Ping: {error}"),
        }
    }
    // The Pong left before this Ping, so whoever has answered this one has heard of it.
    second.send_message(Message::Ping(Vec::new().into()));
    while !matches!(second.socket.read().expect("the connection is open"), Message::Pong(_)) {}
    assert_eq!(Client::try_resume(gateway.public(), &first).err(), Some(401));
    Client::try_resume(gateway.public(), &newest).expect("the newest is good");
}

#[test]
fn forged_and_foreign_tokens_are_refused() {
    let gateway = gateway();
    let mut client = gateway.client();
    let token = early_token(&mut client);
    let mut other = token.clone().into_bytes();
    other[30] = if other[30] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(other).expect("ASCII");
    for token in [&*forged, "", "x", "AAAA"] {
        assert_eq!(Client::try_resume(gateway.public(), token).err(), Some(401), "{token:?}");
    }
    client.send_message(Message::Ping(Vec::new().into()));
    assert!(matches!(client.socket.read(), Ok(Message::Pong(_))), "nobody was evicted");
}

#[test]
fn a_good_bye_tells_the_token_as_text_and_as_an_event() {
    let gateway = gateway();
    let mut client = gateway.client();
    let session = session_of(&client);
    let early = early_token(&mut client);
    client.socket.close(None).expect("the connection is open");
    let (texts, events, _) = {
        let (mut texts, mut events) = (Vec::new(), Vec::new());
        loop {
            match client.socket.read() {
                Ok(Message::Text(text)) => texts.push(serde_json::from_str(&text).expect("JSON")),
                Ok(Message::Binary(bytes)) => {
                    events.push(serde_json::from_slice::<Value>(&bytes[31..]).expect("JSON"));
                }
                Err(Error::ConnectionClosed) => break (texts, events, ()),
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let [text]: [Value; 1] = texts.try_into().expect("one text frame");
    let [event]: [Value; 1] = events.try_into().expect("one event");
    for notice in [&text, &event] {
        assert_eq!(notice["eventName"], "connect.disconnect-notification");
        assert_eq!(notice["reconnectionToken"], early);
        assert_eq!(notice["reconnectable"], true);
        assert_eq!(notice["reason"], "graceful_disconnect");
    }
    assert!(text.get("eventId").is_none() && event["eventId"].is_string());
    let back = Client::try_resume(gateway.public(), &early).expect("within the window");
    assert_eq!(session_of(&back), session);
}

#[test]
fn a_drain_says_how_to_come_back_and_a_takeover_does_not() {
    let gateway =
        Setup::new("").with_notices().set("drain.grace", "0s").set("drain.spread", "0s").start();
    let claims = Claims::default().session(Uuid::from_u128(7));
    let mut old = gateway.client_of(&claims);
    early_token(&mut old);
    let mut new = gateway.client_of(&claims);
    assert_eq!(new.manifest["reason"], "session_reconnected");
    let (texts, events, code) = good_bye(&mut old);
    assert_eq!((texts.len(), events.len(), code), (0, 0, 4002));
    early_token(&mut new);
    gateway.signal(rustix::process::Signal::TERM);
    let (texts, events, code) = good_bye(&mut new);
    assert_eq!((texts.len(), events.len(), code), (1, 1, 1001));
}

#[test]
fn clients_of_other_gateways_are_closed_with_1000_and_the_same_reasons() {
    let gateway = Setup::new("").set("compat.close_codes", "upstream").start();
    let claims = Claims::default().session(Uuid::from_u128(8));
    let mut old = gateway.client_of(&claims);
    let mut new = gateway.client_of(&claims);
    assert_eq!(old.close_reason(), (1000, "New connection established".to_owned()));
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(new.close_reason(), (1000, "Server shutdown".to_owned()));
}

#[test]
fn without_notices_a_session_says_nothing_by_itself() {
    let gateway = Setup::new("").start();
    let mut client = gateway.client();
    client.expect_no_reply();
    client.leave();
}

#[test]
fn the_older_dialect_and_both_are_spoken() {
    for (dialect, names) in [
        ("underscore", &["connect.session_token"][..]),
        (
            "both",
            &["connect.capability_manifest", "connect.session-token", "connect.session_token"],
        ),
    ] {
        let gateway = Setup::new("").with_notices().set("events.name_dialect", dialect).start();
        let mut client = gateway.client();
        let first = client.manifest["eventName"].as_str().expect("a name");
        let underscore = dialect == "underscore";
        let expected =
            if underscore { "connect.capability_manifest" } else { "connect.capability-manifest" };
        assert_eq!(first, expected);
        for name in names {
            assert_eq!(client.event()["eventName"], *name);
        }
    }
}

#[test]
fn more_connections_of_an_account_than_allowed_are_told_429() {
    let gateway = Setup::new("").set("limits.connections_per_account", "1").start();
    let of = |session: u128| {
        Claims::default().session(Uuid::from_u128(session)).with("sub", "anna".into())
    };
    let first = gateway.client_of(&of(1));
    let second = Client::try_connect(gateway.public(), &of(2).sign());
    assert_eq!(second.err(), Some(429));
    let takeover = gateway.client_of(&of(1));
    drop((first, takeover));
}
