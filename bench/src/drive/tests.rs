//! The driver against echo servers of a few lines, one faithful and some not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::*;

/// Serves every connection of a loopback port on a thread of its own; ends with the process.
fn serve(handle: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || handle(stream.unwrap()));
        }
    });
    authority
}

fn load(url: &str, in_flight: u32, payload_bytes: usize) -> Load {
    Load {
        target: url.parse().unwrap(),
        connections: 4,
        in_flight,
        payload_bytes,
        warm_up: Duration::from_millis(20),
        duration: Duration::from_millis(80),
    }
}

fn echo_bytes(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

fn echo_messages(stream: TcpStream) {
    let mut socket = tungstenite::accept(stream).unwrap();
    while let Ok(message) = socket.read() {
        if message.is_binary() && socket.send(message).is_err() {
            return;
        }
    }
}

fn echo_with_a_flaw(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        buffer[len - 1] ^= 1;
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

#[test]
fn raw_bytes_go_round() {
    let url = format!("tcp://{}", serve(echo_bytes));
    for (in_flight, payload_bytes) in [(1, 200), (16, 64), (2, 5000)] {
        let measured = run(&load(&url, in_flight, payload_bytes), None).unwrap();
        assert!(measured.messages > 0, "{in_flight} in flight");
        assert!(measured.elapsed >= Duration::from_millis(80));
    }
}

#[test]
fn web_socket_messages_go_round_and_the_server_is_measured() {
    let url = format!("ws://{}/echo", serve(echo_messages));
    for payload_bytes in [5, 200, 70_000] {
        let measured = run(&load(&url, 3, payload_bytes), Some(std::process::id())).unwrap();
        assert!(measured.messages > 0, "{payload_bytes} bytes");
        assert!(measured.server_thread(None).unwrap().on_cpu > Duration::ZERO);
        assert!(measured.server_thread(Some("no such thread")).is_none());
    }
}

#[test]
fn a_changed_byte_ends_the_run() {
    let url = format!("tcp://{}", serve(echo_with_a_flaw));
    let error = run(&load(&url, 1, 200), None).unwrap_err();
    assert!(error.to_string().contains("differs at byte 199"), "{error}");
}

#[test]
fn a_server_that_hangs_up_ends_the_run() {
    let url = format!("tcp://{}", serve(drop));
    assert!(run(&load(&url, 1, 200), None).is_err());
}
