use proptest::collection::vec;
use proptest::prelude::{Strategy, prop_assert_eq, proptest};

use super::*;
use crate::wire::envelope::{EVENT, Envelope, GATEWAY, decode, parse_guid};

const OWN: &str = "9b2f6a10-77aa-4c1e-8d3b-5e0a4a6f9c21";
const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An unmasked frame.
fn frame_of(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(payload.len()).unwrap()], payload].concat()
}

fn manifest() -> Vec<u8> {
    let payload = format!(
        r#"{{"eventName":"connect.capability-manifest","peerGuid":"{OWN}","availableApis":[]}}"#
    );
    let (flags, payload) = (EVENT, payload.as_bytes());
    let request = Request { flags, channel: 0, sequence: 0, guid: GATEWAY, message_id: 1, payload };
    let mut message = Vec::new();
    request.encode(&mut message);
    let len = u8::try_from(message.len()).unwrap();
    [&[0x82, 126, 0, len][..], &message].concat()
}

fn close(code: u16) -> Vec<u8> {
    frame_of(0x88, &code.to_be_bytes())
}

fn born(persona: Persona, now: Instant) -> Life {
    Life::new(persona, handshake::request("a:1", "/connect", "X: y\r\n"), now)
}

/// One that has come in, and what it has sent for that.
fn let_in(persona: Persona, now: Instant) -> Life {
    let mut life = born(persona, now);
    let mut request = Vec::new();
    life.send(now, &mut request);
    assert!(request.ends_with(b"\r\nX: y\r\n\r\n"));
    assert!(!life.is_due(now), "nothing goes out ahead of the 101");
    assert_eq!(life.hear(ACCEPTED), None);
    assert_eq!(life.hear(&manifest()), None);
    life
}

/// What it sends at one moment.
fn sent(life: &mut Life, now: Instant, most: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while all.len() < most && life.is_due(now) {
        let mut out = Vec::new();
        life.send(now, &mut out);
        all.push(out);
    }
    all
}

/// First byte and payload of a masked frame.
fn unmasked(frame: &[u8]) -> (u8, Vec<u8>) {
    let header = match frame[1] & 0x7f {
        126 => 4,
        short => {
            assert!(short < 126);
            2
        }
    };
    let mut payload = frame[header + 4..].to_vec();
    let key: [u8; 4] = frame[header..header + 4].try_into().unwrap();
    frame::mask(&mut payload, key);
    (frame[0], payload)
}

fn addressee(frame: &[u8]) -> Guid {
    let (first, message) = unmasked(frame);
    assert_eq!(first, 0x82);
    match decode(&message).unwrap() {
        Envelope::Request(request) if request.flags == CLIENT => request.guid,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_of_single_bytes_never_ends() {
    let start = Instant::now();
    let mut life = born(Persona::OneByte, start);
    let mut request = Vec::new();
    for step in 0..2000 {
        let now = start + BYTE_EVERY * step;
        let bytes = sent(&mut life, now, 10);
        assert_eq!(bytes.len(), 1, "one at a time");
        request.extend(bytes.concat());
    }
    let text = String::from_utf8(request).unwrap();
    assert_eq!(text.len(), 2000);
    assert!(text.starts_with("GET /connect HTTP/1.1\r\n"), "{text}");
    assert!(!text.contains("\r\n\r\n"), "{text}");
    let timed_out = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(life.hear(timed_out), Some(End::Status(408)));
}

#[test]
fn a_fragmented_message_never_ends() {
    let now = Instant::now();
    let mut life = let_in(Persona::Fragmenter, now);
    let pieces = sent(&mut life, now, 200);
    assert_eq!(pieces.len(), 200);
    assert_eq!(unmasked(&pieces[0]), (0x02, b"!".to_vec()));
    assert!(pieces[1..].iter().all(|piece| unmasked(piece) == (0x00, b"!".to_vec())));
}

#[test]
fn a_flooder_writes_to_nobody_without_a_pause() {
    let now = Instant::now();
    let mut life = let_in(Persona::Flooder, now);
    let messages = sent(&mut life, now, 4000);
    assert_eq!(messages.len(), 4000);
    assert!(messages.iter().all(|message| addressee(message) == NOBODY));
    assert!(life.reads());
}

#[test]
fn a_slow_reader_sends_itself_more_than_is_kept_and_reads_only_then() {
    let now = Instant::now();
    let mut life = let_in(Persona::SlowReader, now);
    let own = parse_guid(OWN).unwrap();
    let mut messages = Vec::new();
    for part in 0..FILLINGS as u32 {
        let at = now + SULKS * part;
        assert!(part == 0 || sent(&mut life, at - SULKS / 2, 1).is_empty());
        messages.extend(sent(&mut life, at, 10_000));
        assert!(!life.reads());
    }
    let large = messages.iter().take_while(|message| message.len() > LARGE).count();
    assert!(large * LARGE > 6 << 20, "{large}");
    assert!(messages.iter().all(|message| addressee(message) == own));
    assert!(messages.iter().all(|message| message.len() < 64 << 10));
    let reads = now + SULKS * FILLINGS as u32;
    assert!(sent(&mut life, reads - SULKS / 2, 1).is_empty());
    assert!(!life.reads());
    sent(&mut life, reads, 1);
    assert!(life.reads());
    assert_eq!(life.hear(&close(1013)), Some(End::Close(1013)));
    // A gateway that had not come to its end is asked for the same again.
    assert!(sent(&mut life, reads + READS / 2, 1).is_empty());
    let again = sent(&mut life, reads + READS, 10_000).concat();
    assert_eq!(again, messages[..FIRST_ONES + FILLING].concat());
    assert!(!life.reads());
}

#[test]
fn messages_of_a_slow_reader_leave_no_room_for_an_answer() {
    const ROOM: usize = 1 << 20;
    /// Of frame and message.
    const HEADERS: usize = 4 + 31;
    const ANSWER: usize = 2 + 16;
    for taken_before in [0, 1, 5_000, 61_000, 100_000] {
        let mut left = ROOM - taken_before;
        let overflows = (0..FIRST_ONES + FILLING).map_while(asked_for).any(|payload| {
            let needed = if payload + HEADERS <= left { payload + HEADERS } else { ANSWER };
            let fits = needed <= left;
            left -= needed.min(left);
            !fits
        });
        assert!(overflows, "{left} bytes are left");
    }
}

#[test]
fn ends_are_told_apart() {
    let now = Instant::now();
    for (bytes, end) in [
        (close(4003), End::Close(4003)),
        (frame_of(0x88, b""), End::Codeless),
        (frame_of(0x88, b"x"), End::Garbled),
        (vec![0xff, 0xff], End::Garbled),
    ] {
        assert_eq!(let_in(Persona::Flooder, now).hear(&bytes), Some(end), "{bytes:02x?}");
    }
    for (answer, end) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", End::Status(503)),
        ("SSH-2.0-OpenSSH\r\n\r\n", End::Garbled),
    ] {
        assert_eq!(born(Persona::Flooder, now).hear(answer.as_bytes()), Some(end), "{answer}");
    }
}

fn chunks() -> impl Strategy<Value = Vec<usize>> {
    vec(1..40_usize, 1..60)
}

proptest! {
    /// However the network cuts what a server says, the end is the same.
    #[test]
    fn the_end_is_found_in_any_pieces(chunks in chunks()) {
        let answer = frame_of(0x82, &[0x60; 18]);
        let notice = frame_of(0x81, b"{}");
        let ping = frame_of(0x89, b"12345678");
        let said =
            [ACCEPTED, &manifest(), &answer, &ping, &notice, &answer, &close(4003)].concat();
        let now = Instant::now();
        let mut life = born(Persona::Flooder, now);
        life.send(now, &mut Vec::new());
        let mut rest = &said[..];
        let mut end = None;
        for chunk in chunks.iter().cycle() {
            let (piece, behind) = rest.split_at((*chunk).min(rest.len()));
            end = life.hear(piece);
            rest = behind;
            if rest.is_empty() {
                break;
            }
            prop_assert_eq!(end, None);
        }
        prop_assert_eq!(end, Some(End::Close(4003)));
    }
}
