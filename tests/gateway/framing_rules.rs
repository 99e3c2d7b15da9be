//! The rules of RFC 6455 §5 and §7 on the socket of a session, a test for each: what breaks one ends
//! the connection with the close code that `docs/PROTOCOL.md` says, at once, and disturbs nobody.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::gateway_process::client::{
    BINARY, CLOSE, Client as RawClient, Frame, PING, PONG, TEXT, masked, request, upgrade_request,
};
use crate::gateway_process::token::Claims;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};

/// First byte of the last frame of a message.
const FIN: u8 = 0x80;
/// First byte of a frame that goes on with a message.
const CONTINUATION: u8 = 0x00;

/// A gateway with a player, and others who send what they like.
struct Field {
    gateway: Gateway,
    player: Client,
}

impl Field {
    /// With a patience for unanswered close frames that is longer than any test's.
    fn new() -> Self {
        Self::of(Setup::new("").set("session.connection_shutdown_timeout_seconds", "60"))
    }

    fn of(setup: Setup) -> Self {
        let gateway = setup.start();
        let player = gateway.client();
        Self { gateway, player }
    }

    fn session(&self) -> RawClient {
        RawClient::session(self.gateway.public(), &self.gateway.token(), PATIENCE)
    }

    /// What a session is sent, its manifest aside, until the gateway ends the connection of a client
    /// that sends `bytes` and nothing more.
    fn answered(&self, bytes: &[u8]) -> Vec<Frame> {
        let mut client = self.session();
        client.send(bytes);
        frames_until_end(client)
    }

    /// `bytes` are answered by a close frame with `code`, then the end of the stream.
    fn closes(&self, code: u16, bytes: &[u8]) {
        let frames = self.answered(bytes);
        let shown = &bytes[..bytes.len().min(40)];
        let [frame] = &frames[..] else { panic!("{shown:02x?} is answered {frames:02x?}") };
        assert_eq!(frame.close_code(), Some(code), "{shown:02x?} is answered {frame:02x?}");
    }

    /// The player is answered, a newcomer is let in, and of the others nothing is left.
    fn still_serves(mut self) {
        self.player.expect_no_reply();
        self.gateway.client().leave();
        self.player.leave();
        self.gateway.wait_until_empty();
    }
}

fn frames_until_end(mut client: RawClient) -> Vec<Frame> {
    let deadline = Instant::now() + PATIENCE;
    let next = || client.frame(deadline).expect("the connection ends in time");
    std::iter::from_fn(next).filter(|frame| !is_event(frame)).collect()
}

fn is_event(frame: &Frame) -> bool {
    frame.opcode == BINARY && frame.payload.first() == Some(&0x10)
}

/// A masked frame with any first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = masked(BINARY, payload);
    frame[0] = first;
    frame
}

/// A message to nobody, which is answered 30.
fn message() -> Vec<u8> {
    request([0x77; 16], 1, b"{}")
}

/// A close frame with `code` and `reason`.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

#[test]
fn an_unmasked_frame_closes_with_1002() {
    let field = Field::new();
    for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
        field.closes(1002, &[FIN | opcode, 2, 0x03, 0xe8]);
    }
    field.still_serves();
}

#[test]
fn a_length_that_is_not_in_its_shortest_form_closes_with_1002() {
    let field = Field::new();
    for short in [0_u16, 1, 125] {
        let header = [&[FIN | BINARY, 0xfe], &short.to_be_bytes()[..]].concat();
        field.closes(1002, &header);
    }
    for short in [0_u64, 125, 126, 65_535] {
        let header = [&[FIN | BINARY, 0xff], &short.to_be_bytes()[..]].concat();
        field.closes(1002, &header);
    }
    field.still_serves();
}

#[test]
fn a_length_with_its_top_bit_set_closes_with_1002() {
    let field = Field::new();
    for length in [1 << 63, u64::MAX] {
        field.closes(1002, &[&[FIN | BINARY, 0xff], &length.to_be_bytes()[..]].concat());
    }
    field.still_serves();
}

#[test]
fn a_length_beyond_the_hard_limit_closes_with_1009_before_any_of_it_has_come() {
    let field = Field::new();
    for length in [(1 << 20) + 1, 1 << 32, (1 << 63) - 1] {
        let length: u64 = length;
        field.closes(1009, &[&[FIN | BINARY, 0xff], &length.to_be_bytes()[..], &[0; 4]].concat());
    }
    field.still_serves();
}

#[test]
fn memory_is_taken_by_what_has_come_and_not_by_what_is_declared() {
    let field = Field::of(Setup::new("").set("session.buffer_size", "1MiB"));
    let mut client = field.session();
    let header = [&[FIN | BINARY, 0xff], &(1_u64 << 20).to_be_bytes()[..], &[0; 4]].concat();
    client.send(&header);
    field.gateway.wait_for_metrics("the start of a message is kept", PATIENCE, |metrics| {
        metrics.sum("corelane_blocks_in_use_bytes") > 0.0
    });
    let held = field.gateway.metric("corelane_blocks_in_use_bytes", "");
    assert!(held <= 4096, "{held} bytes are held for {} that came", header.len());
    client.finish();
    field.still_serves();
}

#[test]
fn reserved_bits_close_with_1002() {
    let field = Field::new();
    for reserved in [0x40, 0x20, 0x10, 0x70] {
        for opcode in [TEXT, BINARY, PING] {
            field.closes(1002, &frame(FIN | reserved | opcode, b""));
        }
        let started = frame(BINARY, b"a");
        field.closes(1002, &[started, frame(FIN | reserved | CONTINUATION, b"b")].concat());
    }
    field.still_serves();
}

#[test]
fn reserved_opcodes_close_with_1002() {
    let field = Field::new();
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        field.closes(1002, &frame(FIN | opcode, b""));
        field.closes(1002, &frame(opcode, b"a"));
    }
    field.still_serves();
}

#[test]
fn a_continuation_of_nothing_closes_with_1002() {
    let field = Field::new();
    field.closes(1002, &frame(CONTINUATION, b"a"));
    field.closes(1002, &frame(FIN | CONTINUATION, b""));
    let whole = [frame(BINARY, b""), frame(FIN | CONTINUATION, &message())].concat();
    let [answer, end] = &field.answered(&[whole, frame(FIN | CONTINUATION, b"")].concat())[..]
    else {
        panic!("the message before is answered, what follows it is not");
    };
    assert_eq!((answer.answer(), end.close_code()), (Some((1, 30)), Some(1002)));
    field.still_serves();
}

#[test]
fn a_message_inside_another_closes_with_1002() {
    let field = Field::new();
    for opcode in [TEXT, BINARY] {
        field.closes(1002, &[frame(BINARY, b"a"), frame(FIN | opcode, b"b")].concat());
    }
    field.still_serves();
}

#[test]
fn a_fragmented_control_frame_closes_with_1002() {
    let field = Field::new();
    for opcode in [CLOSE, PING, PONG] {
        field.closes(1002, &frame(opcode, b""));
        let rest = frame(FIN | CONTINUATION, b"b");
        field.closes(1002, &[frame(opcode, b"a"), rest].concat());
    }
    field.still_serves();
}

#[test]
fn a_control_frame_of_more_than_125_bytes_closes_with_1002() {
    let field = Field::new();
    for opcode in [CLOSE, PING, PONG] {
        field.closes(1002, &masked(opcode, &[b'a'; 126]));
        field.closes(1002, &masked(opcode, &[b'a'; 70_000]));
    }
    let mut client = field.session();
    client.send(&masked(PING, &[b'a'; 125]));
    let pong = client
        .find("the Pong", PATIENCE, |frame| (frame.opcode == PONG).then(|| frame.payload.clone()));
    assert_eq!(pong, [b'a'; 125]);
    client.finish();
    field.still_serves();
}

#[test]
fn text_that_is_not_utf_8_closes_with_1007() {
    let field = Field::new();
    for bad in [&b"\xff"[..], b"ok \xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xe2\x82"]
    {
        field.closes(1007, &masked(TEXT, bad));
        for at in 0..bad.len() {
            let (start, end) = bad.split_at(at);
            field.closes(1007, &[frame(TEXT, start), frame(FIN | CONTINUATION, end)].concat());
        }
    }
    field.still_serves();
}

#[test]
fn sixty_four_fragments_are_a_message_and_one_more_closes_with_1009() {
    let field = Field::new();
    let fragments = |count: usize| {
        let between = frame(CONTINUATION, b"").repeat(count - 2);
        [frame(BINARY, &message()), between, frame(FIN | CONTINUATION, b"")].concat()
    };
    let mut client = field.session();
    client.send(&fragments(64));
    assert_eq!(client.find("the answer", PATIENCE, Frame::answer), (1, 30));
    client.finish();
    field.closes(1009, &fragments(65));
    field.still_serves();
}

#[test]
fn two_hundred_thousand_empty_fragments_close_with_1009() {
    let field = Field::new();
    for opcode in [TEXT, BINARY] {
        let flood = frame(CONTINUATION, b"").repeat(200_000);
        field.closes(1009, &[frame(opcode, b""), flood].concat());
    }
    field.still_serves();
}

#[test]
fn a_flood_of_control_frames_closes_with_1008() {
    const FLOOD: usize = 5000;
    /// What is let through in one second; the flood may lie on both sides of its end.
    const PER_SECOND: usize = 20;
    let field = Field::new();
    field.closes(1008, &masked(PONG, b"unasked").repeat(FLOOD));
    let mut frames = field.answered(&masked(PING, b"ping").repeat(FLOOD));
    let end = frames.pop().and_then(|last| last.close_code());
    assert_eq!(end, Some(1008), "behind {frames:02x?}");
    let pong = Frame { opcode: PONG, payload: b"ping".to_vec() };
    assert!(frames.iter().all(|frame| *frame == pong), "{frames:02x?}");
    assert!((PER_SECOND..=2 * PER_SECOND).contains(&frames.len()), "{} Pongs", frames.len());
    field.still_serves();
}

#[test]
fn a_close_frame_is_answered_with_its_code() {
    let field = Field::new();
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        field.closes(code, &close(code, "bye \u{20ac}".as_bytes()));
    }
    let frames = field.answered(&masked(CLOSE, b""));
    assert_eq!(frames, [Frame { opcode: CLOSE, payload: Vec::new() }]);
    field.still_serves();
}

#[test]
fn a_close_code_that_nobody_may_send_closes_with_1002() {
    let field = Field::new();
    let below = [0, 1, 999];
    let reserved = [1004, 1005, 1006, 1015];
    let unassigned = [1016, 1100, 1999];
    let of_extensions = [2000, 2999];
    let above = [5000, 65_535];
    let classes: [&[u16]; 5] = [&below, &reserved, &unassigned, &of_extensions, &above];
    for code in classes.concat() {
        field.closes(1002, &close(code, b""));
    }
    field.still_serves();
}

#[test]
fn a_close_reason_that_is_not_utf_8_closes_with_1007() {
    let field = Field::new();
    for reason in [&b"\xff"[..], b"cut \xe2\x82", b"\xed\xa0\x80"] {
        field.closes(1007, &close(1000, reason));
    }
    field.still_serves();
}

#[test]
fn a_close_frame_of_one_byte_closes_with_1002() {
    let field = Field::new();
    field.closes(1002, &masked(CLOSE, &[3]));
    field.still_serves();
}

#[test]
fn nothing_behind_a_close_frame_is_read() {
    let field = Field::new();
    let before = field.gateway.metric("corelane_messages_received_total", "");
    let behind = [masked(BINARY, &message()), masked(PING, b"?"), frame(0xff, b"")];
    for behind in behind {
        field.closes(1000, &[close(1000, b""), behind].concat());
    }
    // A message before it is answered first.
    let both = [masked(BINARY, &message()), close(1000, b""), masked(BINARY, &message())];
    let [answer, end] = &field.answered(&both.concat())[..] else {
        panic!("an answer and the end")
    };
    assert_eq!((answer.answer(), end.close_code()), (Some((1, 30)), Some(1000)));
    let after = field.gateway.metric("corelane_messages_received_total", "");
    assert_eq!(after - before, 1, "messages");
    field.still_serves();
}

#[test]
fn a_client_that_ends_its_side_without_a_close_frame_is_gone() {
    let field = Field::new();
    let frame = masked(BINARY, &message());
    for sent in [0, 1, 7, frame.len() - 1] {
        let session = Uuid::new_v4();
        let token = Claims::default().session(session).sign();
        let mut client = RawClient::session(field.gateway.public(), &token, PATIENCE);
        client.send(&frame[..sent]);
        client.finish_sending();
        assert_eq!(frames_until_end(client), [], "{sent} bytes of a frame");
        let line = field.gateway.await_session_end(&session.to_string());
        assert_eq!(line["close_code"], 1006);
        assert_eq!(line["cause"], "connection ended without a close frame");
    }
    field.still_serves();
}

#[test]
fn a_client_that_vanishes_in_the_midst_of_a_frame_is_dropped_when_no_pong_comes() {
    let setup = Setup::new("")
        .set("session.websocket_keep_alive_interval_seconds", "1")
        .set("session.pong_timeout", "1s");
    let mut field = Field::of(setup);
    let session = Uuid::new_v4();
    let token = Claims::default().session(session).sign();
    let mut vanished = RawClient::session(field.gateway.public(), &token, PATIENCE);
    vanished.send(&masked(BINARY, &message())[..20]);
    let Field { gateway, player } = &mut field;
    gateway.wait_until("only the player to be left", PATIENCE, || {
        player.expect_no_reply();
        gateway.metric("corelane_sessions", "") == 1
    });
    assert_eq!(field.gateway.await_session_end(&session.to_string())["cause"], "no pong in time");
    assert_eq!(frames_until_end(vanished).last().map(|frame| frame.opcode), Some(PING));
    field.still_serves();
}

#[test]
fn peers_that_never_hang_up_are_hung_up_on() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let field = Field::of(Setup::new("").set("session.connection_shutdown_timeout_seconds", "1"));
    let began = Instant::now();
    let mut misframed = field.session();
    misframed.send(&frame(0xff, b""));
    let mut closing = field.session();
    closing.send(&close(1000, b""));
    let mut refused = RawClient::connect(field.gateway.public());
    refused.send(upgrade_request("nonsense").as_bytes());
    let token = field.gateway.token();
    let replaced = RawClient::session(field.gateway.public(), &token, PATIENCE);
    let heir = RawClient::session(field.gateway.public(), &token, PATIENCE);
    heir.finish();
    field.gateway.await_metric("corelane_slots_in_use", "", 1);
    assert!(began.elapsed() >= TIMEOUT, "they have {TIMEOUT:?}");
    drop([misframed, closing, refused, replaced]);
    field.still_serves();
}
