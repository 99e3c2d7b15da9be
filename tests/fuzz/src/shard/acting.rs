//! What clients and backends do to their sockets.

use std::collections::VecDeque;

use corelane_shard::id::SessionId;
use corelane_shard::upstream::link::Kind;
use corelane_shard::wire::frame::{OpCode, client_header_len, write_client_header};
use corelane_shard::wire::guid::Guid;
use corelane_shard::wire::header::{Flags, RequestHeader, ResponseHeader};
use corelane_shard::wire::mask::copy_masked;

use super::peer::Peer;
use super::ring::Wire;
use super::step::{Backend, Client, Door, To};
use super::world::{player, session_of};

/// What a client does to its socket.
pub(super) fn say(
    wire: &mut Wire,
    does: &Client<'_>,
    guid: impl FnOnce(Option<SessionId>, &To) -> Guid,
    resumption: impl FnOnce(u8, u8) -> String,
) {
    handle(wire, does);
    let Peer::Client(client) = &mut wire.peer else { return };
    let let_in = client.is_let_in();
    let bytes = match does {
        Client::Upgrade { to, brotli } if client.asked => {
            client.echoes = None;
            upgrade(to, *brotli, resumption)
        }
        Client::Upgrade { to, brotli } => {
            client.asked = true;
            client.asks_for_echo = matches!(to, Door::Echo);
            client.echoes = Some(VecDeque::new());
            client.session = match *to {
                Door::Session { player: who } | Door::Foreign { player: who } => {
                    Some(session_of(player(who)))
                }
                Door::Resumed { player: who, .. } => Some(session_of(player(who))),
                _ => None,
            };
            upgrade(to, *brotli, resumption)
        }
        Client::Message { text, byte, len, pieces } => {
            let opcode = if *text { OpCode::Text } else { OpCode::Binary };
            let byte = if *text { byte & 0x7F } else { *byte };
            let len = usize::from(*len) % 5000;
            match &mut client.echoes {
                Some(echoes) if let_in => echoes.push_back((opcode, byte, len)),
                // Early ones may come back or not.
                echoes => *echoes = None,
            }
            message(opcode, &vec![byte; len], 1 + usize::from(pieces % 5))
        }
        Client::Request { flags, channel, to, byte, len } => {
            client.echoes = None;
            let header = RequestHeader {
                flags: Flags(*flags).without(Flags::RESPONSE).without(Flags::COMPRESSED),
                channel: (*channel).into(),
                sequence: 1,
                guid: guid(client.session, to),
                message_id: 2,
            };
            let payload = vec![*byte; usize::from(*len) % 5000];
            message(OpCode::Binary, &[&header.to_bytes()[..], &payload].concat(), 1)
        }
        Client::Answer { code, len } => {
            client.echoes = None;
            let header = ResponseHeader {
                flags: Flags::RESPONSE,
                channel: 0,
                sequence: 0,
                message_id: client.rpc.take().unwrap_or(1),
                code: *code,
            };
            let payload = vec![b'a'; usize::from(*len) % 3000];
            message(OpCode::Binary, &[&header.to_bytes()[..], &payload].concat(), 1)
        }
        Client::Acknowledge => {
            client.echoes = None;
            let sequence = client.event.unwrap_or(5);
            let json = format!(r#"{{"eventName":"connect.ack","sequence":"{sequence}"}}"#);
            let header = RequestHeader::event(0);
            message(OpCode::Binary, &[&header.to_bytes()[..], json.as_bytes()].concat(), 1)
        }
        Client::Ping { len } => message(OpCode::Ping, &vec![1; usize::from(len % 126)], 1),
        Client::Pong { right } => {
            let last = client.ping.take().filter(|_| *right);
            message(OpCode::Pong, &last.unwrap_or_else(|| vec![3; 8]), 1)
        }
        Client::Close { code } => message(OpCode::Close, &code.to_be_bytes(), 1),
        Client::Raw { bytes } => {
            client.echoes = None;
            bytes.to_vec()
        }
        _ => return,
    };
    if !client.asked {
        (client.asked, client.asks_for_echo, client.echoes) = (true, true, None);
    }
    if !wire.say(&bytes)
        && let Peer::Client(client) = &mut wire.peer
    {
        client.echoes = None;
    }
}

/// What needs no bytes.
fn handle(wire: &mut Wire, does: &Client<'_>) {
    match does {
        Client::Fin => wire.finish(),
        Client::Reset => wire.reset(),
        Client::Takes { bytes } => wire.takes = Some(usize::from(*bytes)),
        Client::TakesAll => wire.takes = None,
        Client::ArrivesInPiecesOf { bytes } => wire.piece = usize::from(*bytes).max(1),
        _ => {}
    }
}

fn upgrade(to: &Door, brotli: bool, resumption: impl FnOnce(u8, u8) -> String) -> Vec<u8> {
    let (path, credential) = match *to {
        Door::Echo => ("/echo", None),
        Door::Session { player: who } => ("/connect", Some(format!("Bearer p-{}", player(who)))),
        Door::Foreign { player: who } => ("/connect", Some(format!("Bearer ask-{}", player(who)))),
        Door::Resumed { player: who, epoch } => {
            ("/connect", Some(format!("Reconnect {}", resumption(player(who), epoch))))
        }
        Door::Stranger => ("/connect", Some("Bearer x".to_owned())),
        Door::Health => ("/health", None),
        Door::Nowhere => ("/", None),
    };
    let query = if brotli { "?compress=br" } else { "" };
    let credential = credential.map(|credential| format!("Authorization: {credential}\r\n"));
    format!(
        "GET {path}{query} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
        credential.unwrap_or_default()
    )
    .into_bytes()
}

/// One message of a client in so many frames.
fn message(opcode: OpCode, payload: &[u8], frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = payload.len().div_ceil(frames).max(1);
    let mut pieces: Vec<&[u8]> = payload.chunks(len).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    for (number, piece) in pieces.iter().enumerate() {
        let at = bytes.len();
        let header_len = client_header_len(piece.len());
        bytes.resize(at + header_len + piece.len(), 0);
        let (header, body) = bytes[at..].split_at_mut(header_len);
        let opcode = if number == 0 { opcode } else { OpCode::Continuation };
        let mask = [0x5A, 0x00, 0xC3, 0xFF];
        write_client_header(header, opcode, piece.len(), mask);
        if number + 1 < pieces.len() {
            header[0] &= 0x7F;
        }
        copy_masked(piece, body, mask, 0);
    }
    bytes
}

/// What a backend does to its socket.
pub(super) fn answer(wire: &mut Wire, does: &Backend<'_>) {
    let bytes = match (does, &mut wire.peer) {
        (Backend::Answers { status, len, chunked }, Peer::Http(http)) => {
            let len = usize::from(*len) % 6000;
            http.answer(100 + status % 500, len, *chunked).unwrap_or_default()
        }
        (Backend::Answers { len, .. }, Peer::Link(link)) => link.answer(usize::from(*len) % 4500),
        (Backend::Pushes { session, flags, len }, Peer::Link(link)) => {
            link.push(*session, *flags, usize::from(*len) % 3000)
        }
        (Backend::Grants { session, messages, bytes }, Peer::Link(link)) => {
            let grant = format!(r#"{{"messages":{messages},"bytes":{bytes}}}"#);
            link.about(Kind::Credit, *session, grant.as_bytes())
        }
        (Backend::Forgets { session }, Peer::Link(link)) => {
            link.about(Kind::Close, *session, b"{}")
        }
        (Backend::GoesAway, Peer::Link(link)) => link.about(Kind::GoAway, 0, br#"{"seconds":3}"#),
        (Backend::Raw { bytes }, Peer::Http(_)) => bytes.to_vec(),
        (Backend::Raw { bytes }, Peer::Link(link)) => {
            link.wilful = true;
            bytes.to_vec()
        }
        (Backend::Fin, _) => return wire.finish(),
        (Backend::Reset, _) => return wire.reset(),
        (Backend::Takes { bytes }, _) => {
            wire.takes = Some(usize::from(*bytes));
            return;
        }
        (Backend::TakesAll, _) => {
            wire.takes = None;
            return;
        }
        (Backend::ArrivesInPiecesOf { bytes }, _) => {
            wire.piece = usize::from(*bytes).max(1);
            return;
        }
        _ => return,
    };
    let _is_heard = wire.say(&bytes);
}
