//! Clients behind proxies: who they are to the gateway, and who may say so.

use ipnet::IpNet;

use super::*;
use crate::engine::{Proxies, Role};
use crate::network::Networks;
use crate::snapshot::DoorLimits;
use crate::wire::forwarded::ForwardedField;
use crate::wire::proxy_protocol::Versions;

const V1: &[u8] = b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n";

/// As [`V1`], with a field behind the addresses.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xcb\0\x71\x09\x7f\0\0\x01\x12\x67\x01\xbb\x20\0\0";

fn networks(texts: &[&str]) -> Networks {
    texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
}

/// The test's own address is a proxy's.
fn behind(header: Option<Versions>, field: Option<ForwardedField>) -> Shape {
    let proxies = Proxies { trusted: networks(&["127.0.0.0/8", "10.0.0.0/8"]), header, field };
    Shape { door: DoorRules { proxies, ..DoorRules::default() }, ..shape() }
}

/// Sends the pieces one after the other, each when the one before has been read, and reads the
/// head of the answer.
fn told(rig: &mut Rig, pieces: &[&[u8]]) -> (String, Client) {
    let mut client = Client::connect(rig.address);
    for (at, piece) in pieces.iter().enumerate() {
        let before = rig.engine.probe.bytes_in.read();
        client.write(piece);
        if at + 1 < pieces.len() {
            let read = before + piece.len() as u64;
            rig.until("a piece is read", |engine| engine.probe.bytes_in.read() == read);
        }
    }
    rig.run(thread::spawn(move || (read_head(&mut client), client)))
}

fn status_of(rig: &mut Rig, pieces: &[&[u8]]) -> u16 {
    told(rig, pieces).0[9..12].parse().unwrap()
}

/// The address of the session.
fn peer(rig: &Rig) -> String {
    let mut connections = rig.engine.table.iter().map(|(_, connection)| connection);
    let session = connections.find(|connection| matches!(connection.role, Role::Session(_)));
    session.unwrap().peer_address().unwrap().to_string()
}

fn upgrade() -> Vec<u8> {
    request(&["Authorization: Bearer 1"])
}

#[test]
fn a_trusted_proxy_says_who_its_client_is() {
    for (versions, header) in
        [(Versions::V1, V1), (Versions::Any, V1), (Versions::V2, V2), (Versions::Any, V2)]
    {
        let mut rig = behind(Some(versions), None).build();
        let (head, client) = told(&mut rig, &[&[header, &upgrade()].concat()]);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(peer(&rig), "203.0.113.9:4711");
        drop(client);
        rig.until_nothing_is_left();
    }
}

#[test]
fn a_header_may_come_in_pieces_and_alone() {
    for header in [V1, V2] {
        let mut rig = behind(Some(Versions::Any), None).build();
        let upgrade = upgrade();
        let mut pieces: Vec<&[u8]> = header.chunks(1).collect();
        pieces.push(&upgrade);
        let (head, client) = told(&mut rig, &pieces);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(peer(&rig), "203.0.113.9:4711");
        drop(client);
        rig.until_nothing_is_left();

        // The seam within one piece, and frames behind.
        let mut rig = behind(Some(Versions::Any), None).build();
        let (start, rest) = header.split_at(header.len() / 2);
        let rest = [rest, HEAD, &whole(BINARY, b"early")].concat();
        let (head, client) = told(&mut rig, &[start, &rest]);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let (client, opcode, echo) = next(&mut rig, client);
        assert_eq!((opcode, &*echo), (BINARY, &b"early"[..]));
        drop(client);
        rig.until_nothing_is_left();
    }
}

#[test]
fn a_proxy_that_speaks_for_itself_is_the_client() {
    let local = [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..], &upgrade()].concat();
    let unknown = [&b"PROXY UNKNOWN\r\n"[..], &upgrade()].concat();
    for bytes in [local, unknown] {
        let mut rig = behind(Some(Versions::Any), None).build();
        let (_, client) = told(&mut rig, &[&bytes]);
        assert!(peer(&rig).starts_with("127.0.0.1:"));
        drop(client);
    }
}

#[test]
fn a_trusted_proxy_without_a_good_header_is_refused() {
    let mut rig = behind(Some(Versions::V1), None).build();
    for bytes in [
        &upgrade()[..],
        b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n",
        &[V2, &upgrade()].concat(),
        b"PROXY TCP4 203.0.113.9 127.0.0.1 4711\r\n",
        &[0x16, 3, 1, 0, 5],
    ] {
        assert_eq!(status_of(&mut rig, &[bytes]), 400, "{bytes:?}");
    }
    // One header, not two: what is behind it is the client's word.
    assert_eq!(status_of(&mut rig, &[&[V1, V1, &upgrade()].concat()]), 403);
    rig.until_nothing_is_left();
    // Nothing at all is waited for as long as for a head.
    let mut silent = Client::connect(rig.address);
    silent.write(b"PROXY TC");
    rig.until("it is there", |engine| engine.blocks.in_use() > 0);
    rig.ahead = Duration::from_secs(11);
    let head = rig.run(thread::spawn(move || read_head(&mut silent)));
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    rig.until_nothing_is_left();
}

#[test]
fn whoever_is_no_trusted_proxy_speaks_for_itself_alone() {
    let mut shape = behind(Some(Versions::Any), Some(ForwardedField::XForwardedFor));
    shape.door.proxies.trusted = networks(&["10.0.0.0/8"]);
    let mut rig = shape.build();
    for header in [V1, V2] {
        assert_eq!(status_of(&mut rig, &[&[header, &upgrade()].concat()]), 403);
    }
    let fields = ["Authorization: Bearer 1", "X-Forwarded-For: 203.0.113.9"];
    let _client = opened(&mut rig, &fields);
    assert!(peer(&rig).starts_with("127.0.0.1:"), "{}", peer(&rig));
}

#[test]
fn without_the_keys_headers_of_proxies_mean_nothing() {
    let mut rig = shape().build();
    for header in [V1, V2] {
        assert_eq!(status_of(&mut rig, &[&[header, &upgrade()].concat()]), 400);
    }
    let forwarded = ["Forwarded: for=203.0.113.9", "X-Forwarded-For: 203.0.113.9"];
    let _client = opened(&mut rig, &[&["Authorization: Bearer 1"], &forwarded[..]].concat());
    assert!(peer(&rig).starts_with("127.0.0.1:"));
}

#[test]
fn a_request_names_its_client_in_the_field_that_is_chosen() {
    let both = ["Forwarded: for=198.51.100.1", "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.1"];
    for (field, expected) in [
        (ForwardedField::Forwarded, "198.51.100.1:0"),
        (ForwardedField::XForwardedFor, "203.0.113.9:0"),
    ] {
        let mut rig = behind(None, Some(field)).build();
        let client = opened(&mut rig, &[&["Authorization: Bearer 1"], &both[..]].concat());
        assert_eq!(peer(&rig), expected);
        drop(client);
        rig.until_nothing_is_left();
    }
    let mut rig = behind(None, Some(ForwardedField::Forwarded)).build();
    assert_eq!(status(&mut rig, &["Authorization: Bearer 1", "Forwarded: for=\""]), 400);
    let _client = opened(&mut rig, &["Authorization: Bearer 1"]);
    assert!(peer(&rig).starts_with("127.0.0.1:"), "nobody is named");
}

#[test]
fn a_client_is_judged_by_the_address_that_its_proxies_give() {
    let deny = Arc::new(networks(&["203.0.113.0/24"]));
    let denied = || DoorLimits { deny: Arc::clone(&deny), ..DoorLimits::default() };
    let mut rig = Shape { limits: denied(), ..behind(Some(Versions::Any), None) }.build();
    assert_eq!(status_of(&mut rig, &[&[V1, &upgrade()].concat()]), 403);
    assert_eq!(status_of(&mut rig, &[V2]), 403, "before a byte of its own");
    let other = V1.to_vec();
    let other = String::from_utf8(other).unwrap().replace("203.0.113.9", "203.0.112.9");
    assert_eq!(status_of(&mut rig, &[&[other.as_bytes(), &upgrade()].concat()]), 101);

    let field = Some(ForwardedField::XForwardedFor);
    let mut rig = Shape { limits: denied(), ..behind(None, field) }.build();
    let token = "Authorization: Bearer 1";
    assert_eq!(status(&mut rig, &[token, "X-Forwarded-For: 203.0.113.9"]), 403);
    assert_eq!(status(&mut rig, &[token, "X-Forwarded-For: 203.0.113.9, 198.51.100.1"]), 101);
    rig.until_nothing_is_left();

    // A header names the next proxy, whose request names the client.
    let mut rig = Shape { limits: denied(), ..behind(Some(Versions::V1), field) }.build();
    let header = b"PROXY TCP4 10.1.1.1 127.0.0.1 4711 443\r\n";
    let from = |client| request(&[token, &format!("X-Forwarded-For: {client}")]);
    let good = [&header[..], &from("198.51.100.1")].concat();
    let bad = [&header[..], &from("203.0.113.9")].concat();
    assert_eq!(status_of(&mut rig, &[&bad]), 403);
    let (_, _client) = told(&mut rig, &[&good]);
    assert_eq!(peer(&rig), "198.51.100.1:0");
}
