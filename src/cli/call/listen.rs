//! `corelane listen`: stays connected as a game would, prints what comes and answers RPCs.

use std::time::{Duration, Instant};

use tungstenite::Message;

use super::super::frame::{BINARY, CLIENT, EVENT, Frame, Kind, RESPONSE};
use super::super::{Failure, ListenArgs, output};
use super::{Client, broken, request};

/// For the connection and for sending.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The wait for a message that need not come.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Until the gateway closes or somebody presses Ctrl-C.
pub(in super::super) fn run(args: &ListenArgs) -> Result<(), Failure> {
    let mut client = Client::connect(request(&args.url, &args.token)?, TIMEOUT)?;
    output::notice(&format!("connected to {}", args.url));
    loop {
        let bytes = client.receive(Instant::now() + A_YEAR, "messages")?;
        let frame = match Frame::decode(&bytes) {
            Ok(frame) => frame,
            Err(error) => {
                output::notice(&format!("not a message of the protocol: {error}"));
                continue;
            }
        };
        output::line(&described(&frame));
        if is_rpc(&frame) {
            let message = Message::binary(answer(&frame, args.answer.as_bytes()).encode());
            let sent = client.socket.send(message);
            sent.map_err(|error| broken("cannot answer", &error))?;
            output::notice(&format!("answered {}", args.answer));
        }
    }
}

/// In one line.
fn described(frame: &Frame<'_>) -> String {
    let what = match frame.kind {
        _ if is_rpc(frame) => "RPC",
        _ if frame.flags & CLIENT != 0 => "peer message",
        Kind::Request { .. } if frame.flags & EVENT != 0 => "event",
        Kind::Request { .. } => "request",
        Kind::Response { .. } => "answer",
    };
    format!("{what}: {}", output::payload(frame.payload))
}

/// With flag 0x01 and no other that gives it another meaning.
fn is_rpc(frame: &Frame<'_>) -> bool {
    frame.flags & (BINARY | EVENT | CLIENT | RESPONSE) == BINARY
}

fn answer<'a>(rpc: &Frame<'_>, payload: &'a [u8]) -> Frame<'a> {
    Frame {
        flags: RESPONSE,
        channel: rpc.channel,
        sequence: rpc.sequence,
        message_id: rpc.message_id,
        kind: Kind::Response { code: 0 },
        payload,
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::accept;
    use uuid::Uuid;

    use super::super::tests::gateway;
    use super::*;

    fn frame(flags: u8, payload: &[u8]) -> Frame<'_> {
        let kind = Kind::Request { guid: Uuid::nil() };
        Frame { flags, channel: 3, sequence: 0, message_id: 77, kind, payload }
    }

    #[test]
    fn an_rpc_is_answered_and_nothing_else() {
        let (url, server) = gateway(|stream| {
            let mut socket = accept(stream).unwrap();
            for flags in [EVENT, EVENT | BINARY, CLIENT | BINARY, BINARY] {
                socket.send(Message::binary(frame(flags, b"{}").encode())).unwrap();
            }
            let bytes = socket.read().unwrap().into_data();
            let reply = Frame::decode(&bytes).unwrap();
            assert_eq!((reply.flags, reply.channel, reply.message_id), (RESPONSE, 3, 77));
            assert_eq!((reply.kind, reply.payload), (Kind::Response { code: 0 }, &b"[1]"[..]));
            socket.close(None).unwrap();
            while let Ok(message) = socket.read() {
                assert!(message.is_close(), "{message}");
            }
        });
        let args = ListenArgs { url, token: "t".to_owned(), answer: "[1]".to_owned() };
        let failure = run(&args).unwrap_err();
        assert!(failure.to_string().contains("closed the connection"), "{failure}");
        server.join().unwrap();
    }

    #[test]
    fn each_message_is_one_line_that_says_what_it_is() {
        for (flags, line) in [
            (EVENT, "event: {\"a\":1}"),
            (EVENT | BINARY, "event: {\"a\":1}"),
            (CLIENT, "peer message: {\"a\":1}"),
            (BINARY, "RPC: {\"a\":1}"),
            (0, "request: {\"a\":1}"),
        ] {
            assert_eq!(described(&frame(flags, b"{\"a\":1}")), line);
        }
        let kind = Kind::Response { code: 0 };
        assert_eq!(described(&Frame { kind, flags: RESPONSE, ..frame(0, b"x") }), "answer: x");
    }
}
