//! Backends in threads: an HTTP server that keeps connections, and a link backend that answers as
//! many calls with one write as came in one read. Both echo; they end with the process.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::client::{REQUEST_HEADER, RESPONSE_HEADER};
use super::poll::Poll;

const PREFIX: usize = 24;
const KIND_HELLO: u8 = 1;
const KIND_DATA: u8 = 4;
const KIND_CREDIT: u8 = 5;

/// Starts an HTTP echo and returns where it listens.
pub(crate) fn http() -> SocketAddr {
    serve(|input, output| {
        let mut at = 0;
        // The gateway sends nothing ahead of an answer, so the first empty line is the only one.
        while let Some(head) = find(&input[at..], b"\r\n\r\n") {
            let body = at + head + 4;
            let text = std::str::from_utf8(&input[at..body]).expect("a head is ASCII");
            let length = text
                .split_once("Content-Length: ")
                .map_or("0", |(_, rest)| rest.split_once('\r').expect("a line has an end").0);
            let end = body + length.parse::<usize>().expect("a length is a number");
            let Some(body) = input.get(body..end) else { break };
            output.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: ");
            output.extend_from_slice(length.as_bytes());
            output.extend_from_slice(b"\r\n\r\n");
            output.extend_from_slice(body);
            at = end;
        }
        input.drain(..at);
    })
}

/// Where the head in `bytes` ends.
fn find(bytes: &[u8], end: &[u8; 4]) -> Option<usize> {
    // Only the request line and the header names and values stand before it: a step a line.
    let mut at = 0;
    loop {
        at += bytes[at..].iter().position(|byte| *byte == b'\r')?;
        match bytes.get(at..at + 4) {
            Some(four) if four == end => return Some(at),
            Some(_) => at += 1,
            None => return None,
        }
    }
}

/// Starts a link echo and returns where it listens.
pub(crate) fn link() -> SocketAddr {
    serve(|input, output| {
        if input.starts_with(b"GET ") {
            let Some(head) = input.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            let text = std::str::from_utf8(&input[..head]).expect("a head is ASCII");
            let key = field(text, "Sec-WebSocket-Key").expect("an upgrade has a key");
            let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
            write!(
                output,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: \
                 Upgrade\r\nSec-WebSocket-Protocol: corelane-link.1\r\nSec-WebSocket-Accept: \
                 {accept}\r\n\r\n"
            )
            .expect("memory takes it");
            input.drain(..head + 4);
        }
        let mut at = 0;
        while let Some((header, length)) = masked_frame(&input[at..]) {
            let end = at + header + length;
            let Some(frame) = input.get_mut(at..end) else { break };
            let (head, payload) = frame.split_at_mut(header);
            let key = [head[header - 4], head[header - 3], head[header - 2], head[header - 1]];
            for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
                *byte ^= key;
            }
            if head[0] == 0x82 {
                link_message(payload, output);
            }
            at = end;
        }
        input.drain(..at);
    })
}

fn link_message(message: &[u8], output: &mut Vec<u8>) {
    let (prefix, body) = message.split_at(PREFIX);
    match prefix[0] {
        KIND_HELLO => {
            let hello = br#"{"version":1,"credit":{"messages":1024,"bytes":1048576}}"#;
            put_frame(&[prefix, hello], output);
        }
        KIND_DATA if prefix[4..8] == [0; 4] => {
            // No answer is wanted; the credit goes back.
            let mut credit = [0; PREFIX];
            credit.copy_from_slice(prefix);
            (credit[0], credit[2], credit[3]) = (KIND_CREDIT, 0xff, 0xff);
            let json = format!(r#"{{"messages":1,"bytes":{}}}"#, body.len());
            put_frame(&[&credit, json.as_bytes()], output);
        }
        KIND_DATA => {
            let mut answer = [0; PREFIX + RESPONSE_HEADER];
            answer[..PREFIX].copy_from_slice(prefix);
            (answer[2], answer[3]) = (0xff, 0xff);
            answer[PREFIX] = body[0] | 0x40;
            answer[PREFIX + 1..PREFIX + 7].copy_from_slice(&body[1..7]);
            answer[PREFIX + 7..PREFIX + 15].copy_from_slice(&body[23..31]);
            put_frame(&[&answer, &body[REQUEST_HEADER..]], output);
        }
        _ => {}
    }
}

/// Header and payload length of a client's frame, mask included in the header.
fn masked_frame(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(1)? & 0x7f {
        126 => Some((8, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])))),
        127 => panic!("no test message is that long"),
        short => Some((6, usize::from(short))),
    }
}

fn put_frame(pieces: &[&[u8]], output: &mut Vec<u8>) {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    output.push(0x82);
    if length <= 125 {
        output.push(length as u8);
    } else {
        output.push(126);
        output.extend(u16::try_from(length).expect("test messages are short").to_be_bytes());
    }
    for piece in pieces {
        output.extend_from_slice(piece);
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A thread that feeds what each connection sends to `answer`, which takes whole requests off the
/// input and appends to the output, and writes that output at once.
fn serve(answer: impl Fn(&mut Vec<u8>, &mut Vec<u8>) + Send + 'static) -> SocketAddr {
    const LISTENER: usize = usize::MAX;
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
    // A shard may open all its connections in one turn. What overflows the queue is tried again by the
    // kernel after one second and after three, which is more than the gateway waits for.
    socket2::SockRef::from(&listener).listen(ACCEPT_QUEUE).expect("it listens");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut poll = Poll::new();
        poll.watch(&listener, LISTENER);
        let mut connections: HashMap<usize, (TcpStream, Vec<u8>, Vec<u8>)> = HashMap::new();
        let (mut next, mut chunk) = (0, vec![0; 256 << 10]);
        loop {
            let ready: Vec<_> = poll.readable(Duration::from_secs(1)).collect();
            let mut answered = Vec::new();
            for id in ready {
                if id == LISTENER {
                    let (stream, _) = listener.accept().expect("somebody connects");
                    stream.set_nodelay(true).expect("a TCP socket");
                    poll.watch(&stream, next);
                    connections.insert(next, (stream, Vec::new(), Vec::new()));
                    next += 1;
                    continue;
                }
                let Some((stream, input, output)) = connections.get_mut(&id) else { continue };
                match stream.read(&mut chunk) {
                    Ok(got @ 1..) => input.extend_from_slice(&chunk[..got]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Ok(_) | Err(_) => {
                        connections.remove(&id);
                        continue;
                    }
                }
                answer(input, output);
                answered.push(id);
            }
            // As a loaded backend does, which reads again only when it has served the others.
            for id in answered {
                let Some((stream, _, output)) = connections.get_mut(&id) else { continue };
                if stream.write_all(output).is_err() {
                    connections.remove(&id);
                    continue;
                }
                output.clear();
            }
        }
    });
    address
}

/// Connections that wait to be accepted: more than any test opens at once.
const ACCEPT_QUEUE: i32 = 1024;
