//! Messages from player to player.

use std::io::Write;

use tungstenite::Message;

use crate::harness::client::Client;
use crate::harness::frames::{CLIENT, EVENT, Guid, Request, URGENT, guid_text};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{Answer, HttpBackend};

fn relayed(shards: usize) -> Gateway {
    Setup::new("").shards(shards).set("session.connection_mode", "Relayed").start()
}

fn letter(to: Guid) -> Request {
    Request::to(to).flags(CLIENT)
}

#[test]
fn a_peer_message_arrives_unchanged_and_is_acknowledged_in_pascal_case() {
    let gateway = relayed(1);
    let (mut alice, mut bob) = (gateway.client(), gateway.client());
    let message = letter(bob.peer()).channel(5).payload([0, 1, 254, 255]);
    let reply = alice.call(&message);
    assert_eq!(bob.request(), message);
    let text = format!(
        "{{\"Status\":\"delivered\",\"TargetPeerGuid\":\"{}\",\"OriginalMessageId\":{}}}",
        guid_text(bob.peer()),
        message.id
    );
    assert_eq!(reply, message.answer(0, text));

    let silent = letter(bob.peer()).flags(CLIENT | EVENT).payload("no acknowledgement");
    alice.send(&silent);
    assert_eq!(bob.request(), silent);
    alice.expect_no_reply();
    assert_ne!(alice.peer(), bob.peer());
}

#[test]
fn a_message_to_oneself_is_delivered() {
    let gateway = relayed(1);
    let mut alice = gateway.client();
    let message = letter(alice.peer());
    let reply = alice.call(&message);
    assert_eq!(reply.code, 0);
    assert_eq!(alice.request(), message);
}

#[test]
fn guids_of_nobody_are_answered_31() {
    for shards in [1, 2] {
        let gateway = relayed(shards);
        let (mut alice, bob) = (gateway.client_on(0), gateway.client_on(shards - 1));
        let real = u128::from_be_bytes(bob.peer());
        for bit in 0..128 {
            let forged = letter((real ^ 1 << bit).to_be_bytes());
            assert_eq!(alice.call(&forged), forged.answer(31, ""), "bit {bit}");
        }
        let session = bob.manifest["sessionId"].clone();
        let gone = letter(bob.peer());
        assert_eq!(alice.call(&gone).code, 0);
        bob.leave();
        gateway.await_session_end(session.as_str().expect("text"));
        assert_eq!(alice.call(&gone), gone.answer(31, ""), "its owner has left");
        let newcomer = gateway.client_on(shards - 1);
        assert_ne!(newcomer.peer(), gone.guid);
        assert_eq!(alice.call(&gone), gone.answer(31, ""), "a newcomer does not inherit it");
        assert!(gateway.shed("peer_gone") >= 130);
    }
}

#[test]
fn peer_routing_that_is_off_answers_40() {
    let gateway = Setup::new("")
        .set("session.connection_mode", "Relayed")
        .set("session.enable_client_to_client_routing", "false")
        .start();
    let (mut alice, mut bob) = (gateway.client(), gateway.client());
    for to in [bob.peer(), [0; 16], [0x55; 16]] {
        let message = letter(to);
        assert_eq!(alice.call(&message), message.answer(40, ""));
    }
    bob.expect_no_reply();
}

#[test]
fn messages_cross_shards_in_order_and_are_acknowledged() {
    let gateway = relayed(2);
    let (mut alice, mut bob) = (gateway.client_on(0), gateway.client_on(1));
    let crossed = gateway.metric("corelane_lane_crossings_sent_total", "");
    for round in 0..20_u64 {
        for number in 0..50 {
            let id = round * 50 + number;
            alice.send(&letter(bob.peer()).id(id).payload(format!("\"to bob {id}\"")));
            bob.send(&letter(alice.peer()).id(id).payload(format!("\"to alice {id}\"")));
        }
        for number in 0..50 {
            let id = round * 50 + number;
            for (one, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
                let got = one.request();
                assert_eq!((got.id, got.payload), (id, format!("\"to {name} {id}\"").into_bytes()));
                let ack = one.reply();
                assert_eq!((ack.id, ack.code), (id, 0));
            }
        }
    }
    let crossed = gateway.metric("corelane_lane_crossings_sent_total", "") - crossed;
    assert!(crossed >= 2000, "{crossed} crossings");
}

fn exchange_large(from: &mut Client, to: &mut Client) {
    for len in [1, 94, 95, 2000, 2048, 10_000, 61_440, 65_536 - 31] {
        let payload: Vec<u8> = (0..len).map(|at: usize| (at * 31 + len) as u8).collect();
        let message = letter(to.peer()).payload(payload);
        from.send(&message);
        assert!(to.request() == message, "{len} bytes");
        assert_eq!(from.reply().code, 0, "{len} bytes");
    }
}

#[test]
fn messages_of_every_size_arrive_as_they_were_sent() {
    let gateway = relayed(2);
    let (mut alice, mut near, mut far) =
        (gateway.client_on(0), gateway.client_on(0), gateway.client_on(1));
    exchange_large(&mut alice, &mut near);
    exchange_large(&mut alice, &mut far);
}

#[test]
fn fragments_become_one_message_and_control_frames_between_them_are_answered() {
    let gateway = relayed(2);
    let (mut alice, mut bob) = (gateway.client_on(0), gateway.client_on(1));
    let message = letter(bob.peer()).payload(vec![b'f'; 300]);
    let bytes = message.encode();
    let pieces: Vec<_> = bytes.chunks(50).collect();
    let last = pieces.len() - 1;
    for (at, piece) in pieces.iter().enumerate() {
        let opcode = if at == 0 { 0x02 } else { 0x00 };
        let fin = if at == last { 0x80 } else { 0x00 };
        let mut frame = vec![fin | opcode, 0x80 | piece.len() as u8, 0, 0, 0, 0];
        frame.extend(*piece);
        if at == 2 {
            frame.extend([0x89, 0x81, 0, 0, 0, 0, b'p']);
        }
        alice.socket.get_mut().write_all(&frame).expect("the connection is open");
    }
    assert_eq!(alice.socket.read().ok(), Some(Message::Pong("p".into())));
    assert_eq!(bob.request(), message);
    assert_eq!(alice.reply().code, 0);
}

#[test]
fn a_client_that_reads_nothing_is_let_go_and_its_friends_are_told_31() {
    let gateway = Setup::new("")
        .set("session.connection_mode", "Relayed")
        .set("limits.outbox_bytes_max", "64KiB")
        .set("limits.write_stall", "300ms")
        .start();
    let (mut alice, bob) = (gateway.client(), gateway.client());
    let session = bob.manifest["sessionId"].as_str().expect("text").to_owned();
    let message = letter(bob.peer()).payload(vec![b'm'; 32_768]);
    let mut refused = 0;
    gateway.wait_until("the outbox to fill", crate::harness::PATIENCE, || {
        refused += u64::from(alice.call(&message).code == 31);
        refused > 0 && gateway.metric("corelane_sessions", "") == 1
    });
    let end = gateway.await_session_end(&session);
    assert_eq!(end["cause"], "slow consumer", "{end}");
    assert_eq!(alice.call(&message).code, 31);
    drop(bob);
}

const GOLD: &str = "[[role]]\nname = \"gold\"\nendpoints = [\"demo:*\"]\n";

#[test]
fn the_urgent_flag_is_passed_on_and_jumps_the_queue_only_for_the_roles_that_may() {
    for (roles, jumps) in [("gold", false), ("gold,user", true)] {
        let backend = HttpBackend::start(|_| Answer::ok("{}"));
        let gateway = Setup::new(backend.service("/demo/echo", "") + GOLD)
            .set("session.connection_mode", "Relayed")
            .set("limits.outbox_bytes_max", "8MiB")
            .set("limits.write_stall", "1m")
            .set("priority.roles", roles)
            .start();
        let (mut alice, mut bob) = (gateway.client(), gateway.client());
        // Bob reads nothing until more waits for him than the kernel takes.
        let bulk = letter(bob.peer()).payload(vec![b'b'; 60_000]);
        let mut sent = 0;
        while gateway.metric("corelane_sends_partial_total", "") == 0 || sent % 8 != 0 {
            assert_eq!(alice.call(&bulk.clone().id(sent)).code, 0);
            sent += 1;
        }
        for _ in 0..3 {
            assert_eq!(alice.call(&bulk.clone().id(sent)).code, 0);
            sent += 1;
        }
        let urgent = letter(bob.peer()).flags(CLIENT | URGENT).id(u64::MAX).payload("urgent");
        assert_eq!(alice.call(&urgent).code, 0);
        let arrived: Vec<_> = (0..=sent).map(|_| bob.request()).collect();
        let place = arrived.iter().position(|one| one.id == u64::MAX).expect("it arrives");
        assert_eq!(arrived[place], urgent, "the flag is passed on");
        let overtook = sent as usize - place;
        assert_eq!(overtook > 0, jumps, "it overtook {overtook} of {sent}");
    }
}
