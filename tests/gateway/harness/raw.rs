//! Requests at the door, byte by byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;
use crate::gateway_process::http::Answer;

pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the gateway listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a legal time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("a legal time-out");
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream
}

/// Sends `request` and reads the whole answer, which the end of the stream must follow.
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = dial(address);
    stream.write_all(request).expect("the gateway reads");
    read_answer(&mut stream).expect("a whole answer, then the end of the stream")
}

/// An error when the connection is reset, or when the answer's body is not as long as it says.
pub(crate) fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let answer = Answer::parse(&bytes)?;
    match answer.header("content-length") {
        Some(len) if len.parse() == Ok(answer.body.len()) => Ok(answer),
        _ => Err(io::Error::other(format!("cut short: {answer:?}"))),
    }
}

/// Reads a response head byte by byte, so that nothing behind it is taken.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head is ASCII")
}

/// An upgrade request to `path` with `fields` besides those of the handshake.
pub(crate) fn upgrade(path: &str, fields: &[&str]) -> String {
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for field in fields {
        text += field;
        text += "\r\n";
    }
    text + "\r\n"
}

/// A short binary message as a client sends it, masked.
pub(crate) fn client_frame(message: &[u8]) -> Vec<u8> {
    assert!(message.len() < 126, "only short messages");
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x82, 0x80 | message.len() as u8];
    frame.extend(mask);
    frame.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
