//! A gateway of a few lines on a loopback port, and what the client makes of it.

use std::io::BufRead;
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Faithful,
    /// Echoes with the last byte changed.
    FlipsAByte,
    /// Puts a Ping and an event between call and reply, and sends the reply in two fragments.
    Interrupts,
    /// Answers calls with code 60.
    Fails,
    /// Answers calls with a Close.
    Closes,
}

/// Accepts `TOKEN` and knows one endpoint, `/demo/echo`. Its threads end with their connections.
pub(crate) struct TestGateway {
    address: SocketAddr,
}

const ECHO: &str = "cab54425-5941-5c52-bfb2-221b0cea4f17";

impl TestGateway {
    pub(crate) const TOKEN: &str = "good";

    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || serve(stream.unwrap(), behaviour));
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self) -> Url {
        format!("ws://{}/connect", self.address).parse().unwrap()
    }
}

/// Ends with an error when the client goes away, which is how every test ends.
fn serve(stream: TcpStream, behaviour: Behaviour) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let mut authorized = false;
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        authorized |= line.trim() == format!("Authorization: Bearer {}", TestGateway::TOKEN);
        if line.trim().is_empty() {
            break;
        }
    }
    if !authorized {
        return out.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
    }
    let manifest = format!(
        r#"{{"eventName":"connect.capability-manifest","availableApis":[{{"serviceId":"{ECHO}","endpoint":"/demo/echo","service":"demo"}}]}}"#
    );
    // The manifest leaves in the same packet as the head.
    let mut first =
        format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n")
            .into_bytes();
    first.extend(server_frame(0x82, &event(manifest.as_bytes())));
    out.write_all(&first)?;
    loop {
        let message = read_client_message(&mut input)?;
        if message == 1000_u16.to_be_bytes() {
            out.write_all(&server_frame(0x82, &event(b"{}")))?;
            return out.write_all(&server_frame(0x88, &message));
        }
        answer(&mut out, &message, behaviour)?;
        if behaviour == Behaviour::Interrupts {
            let pong = read_client_message(&mut input)?;
            assert_eq!(pong, b"are you there");
        }
    }
}

fn answer(out: &mut TcpStream, message: &[u8], behaviour: Behaviour) -> io::Result<()> {
    let Ok(Envelope::Request(request)) = envelope::decode(message) else {
        panic!("a client sends requests");
    };
    let mut reply = vec![request.flags | envelope::RESPONSE];
    reply.extend(request.channel.to_be_bytes());
    reply.extend(request.sequence.to_be_bytes());
    reply.extend(request.message_id.to_be_bytes());
    reply.push(if behaviour == Behaviour::Fails { 60 } else { 0 });
    reply.extend(request.payload);
    match behaviour {
        Behaviour::Interrupts => {
            out.write_all(&server_frame(0x89, b"are you there"))?;
            out.write_all(&server_frame(0x82, &event(b"{}")))?;
            let (head, tail) = reply.split_at(reply.len() / 2);
            out.write_all(&server_frame(0x02, head))?;
            out.write_all(&server_frame(0x80, tail))
        }
        Behaviour::Closes => out.write_all(&server_frame(0x88, &1001_u16.to_be_bytes())),
        Behaviour::FlipsAByte => {
            *reply.last_mut().unwrap() ^= 1;
            out.write_all(&server_frame(0x82, &reply))
        }
        Behaviour::Faithful | Behaviour::Fails => out.write_all(&server_frame(0x82, &reply)),
    }
}

fn event(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let event = Request {
        flags: envelope::EVENT,
        channel: 0,
        sequence: 0,
        guid: Guid::default(),
        message_id: 1,
        payload,
    };
    event.encode(&mut bytes);
    bytes
}

fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    if payload.len() < 126 {
        frame.push(payload.len() as u8);
    } else {
        frame.push(126);
        frame.extend((payload.len() as u16).to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// The payload of one masked frame.
fn read_client_message(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = [0; 2];
    input.read_exact(&mut head)?;
    assert_eq!(head[1] & 0x80, 0x80, "a client masks");
    let mut len = usize::from(head[1] & 0x7f);
    if len == 126 {
        let mut long = [0; 2];
        input.read_exact(&mut long)?;
        len = usize::from(u16::from_be_bytes(long));
    }
    let mut mask = [0; 4];
    input.read_exact(&mut mask)?;
    let mut payload = vec![0; len];
    input.read_exact(&mut payload)?;
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[index % 4];
    }
    Ok(payload)
}

fn connected(behaviour: Behaviour) -> (Client, Guid) {
    let gateway = TestGateway::start(behaviour);
    let mut client = Client::connect(&gateway.url(), TestGateway::TOKEN).unwrap();
    let guid = client.find_endpoint("/demo/echo").unwrap();
    (client, guid)
}

#[test]
fn a_call_gives_its_payload_back() {
    let (mut client, guid) = connected(Behaviour::Faithful);
    for payload in [&b"{}"[..], &[b'x'; 3000]] {
        assert_eq!(client.call(guid, payload).unwrap(), payload);
    }
}

#[test]
fn a_session_ends_with_the_gateways_close_reply() {
    let (client, _) = connected(Behaviour::Faithful);
    client.close().unwrap();
}

#[test]
fn pings_events_and_fragments_do_not_disturb_a_call() {
    let (mut client, guid) = connected(Behaviour::Interrupts);
    assert_eq!(client.call(guid, b"payload").unwrap(), b"payload");
    assert_eq!(client.call(guid, b"again").unwrap(), b"again");
}

#[test]
fn a_bad_token_is_refused_with_the_status() {
    let gateway = TestGateway::start(Behaviour::Faithful);
    let error = Client::connect(&gateway.url(), "bad").unwrap_err();
    assert!(matches!(&error, ClientError::Refused(status) if status.contains("401")), "{error}");
}

#[test]
fn an_unknown_endpoint_is_named() {
    let gateway = TestGateway::start(Behaviour::Faithful);
    let mut client = Client::connect(&gateway.url(), TestGateway::TOKEN).unwrap();
    let error = client.find_endpoint("/demo/nothing").unwrap_err();
    assert!(matches!(error, ClientError::NoEndpoint(_)), "{error}");
}

#[test]
fn codes_and_closes_are_told_apart() {
    let (mut client, guid) = connected(Behaviour::Fails);
    assert!(matches!(client.call(guid, b"x"), Err(ClientError::Code(60))));
    let (mut client, guid) = connected(Behaviour::Closes);
    assert!(matches!(client.call(guid, b"x"), Err(ClientError::Closed(1001))));
}

#[test]
fn urls_need_a_port_and_a_path() {
    assert!("ws://[::1]:80/connect".parse::<Url>().is_ok());
    for wrong in ["ws://host/connect", "ws://host:1", "http://h:1/", "ws://h:x/"] {
        assert!(wrong.parse::<Url>().is_err(), "{wrong}");
    }
}
