use proptest::prelude::*;

use super::*;

fn v1(text: &str) -> Result<Parsed, BadHeader> {
    parse(text.as_bytes(), Versions::V1)
}

fn header(client: Option<&str>, len: usize) -> Result<Parsed, BadHeader> {
    Ok(Parsed::Header { client: client.map(|text| text.parse().unwrap()), len })
}

fn v2(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let fixed = [version_and_command, family];
    [V2_SIGNATURE, &fixed, &(body.len() as u16).to_be_bytes(), body].concat()
}

/// 203.0.113.9:4711 to 10.0.0.1:443.
const BODY_V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb];

#[test]
fn version_1_names_the_client_and_leaves_what_follows() {
    let text = "PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\nGET / HTTP/1.1\r\n";
    assert_eq!(v1(text), header(Some("203.0.113.9:4711"), 42));
    let text = "PROXY TCP6 2001:db8::9 2001:db8::1 65535 0\r\n";
    assert_eq!(v1(text), header(Some("[2001:db8::9]:65535"), text.len()));
    let mapped = "PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n";
    assert_eq!(v1(mapped), header(Some("203.0.113.9:1"), mapped.len()));
    let all_ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {all_ones} {all_ones} 65535 65535\r\n");
    assert_eq!(longest.len(), V1_BYTES_MAX);
    assert_eq!(v1(&longest), header(None, V1_BYTES_MAX));
}

#[test]
fn a_proxy_that_cannot_say_or_speaks_for_itself_names_nobody() {
    for text in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN whatever it says\r\n"] {
        assert_eq!(v1(text), header(None, text.len()), "{text:?}");
    }
    for (command, family, body) in [
        (0x20, 0x00, &[][..]),
        (0x20, 0x11, &BODY_V4),
        (0x20, 0xff, &[7; 3]),
        (0x21, 0x00, &[7; 9]),
    ] {
        let bytes = v2(command, family, body);
        assert_eq!(parse(&bytes, Versions::V2), header(None, bytes.len()), "{bytes:02x?}");
    }
    let unix = v2(0x21, 0x31, &[b'/'; 216]);
    assert_eq!(parse(&unix, Versions::Any), header(None, unix.len()));
}

#[test]
fn version_1_is_read_to_the_letter() {
    for bad in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n",
        "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 nobody 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY UNKNOWN \x01\r\n",
    ] {
        assert_eq!(v1(bad), Err(BadHeader::Malformed), "{bad:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(V1_BYTES_MAX));
    assert_eq!(v1(&endless), Err(BadHeader::Malformed));
    assert_eq!(v1(&endless[..V1_BYTES_MAX - 1]), Ok(Parsed::Incomplete));
}

#[test]
fn version_2_names_the_client_and_its_fields_are_passed_over() {
    let bytes = v2(0x21, 0x11, &BODY_V4);
    assert_eq!(parse(&bytes, Versions::V2), header(Some("203.0.113.9:4711"), 28));
    let fields = [&BODY_V4[..], &[0x20, 0, 3, 1, 2, 3, 0x04, 0, 0]].concat();
    let bytes = [v2(0x21, 0x11, &fields), b"GET /".to_vec()].concat();
    assert_eq!(parse(&bytes, Versions::Any), header(Some("203.0.113.9:4711"), 28 + 9));
    let mut body = [0; 36];
    body[..16].copy_from_slice(&"2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
    body[32..34].copy_from_slice(&7_u16.to_be_bytes());
    let bytes = v2(0x21, 0x21, &body);
    assert_eq!(parse(&bytes, Versions::V2), header(Some("[2001:db8::9]:7"), 52));
}

#[test]
fn version_2_has_two_commands_a_bound_and_no_datagrams() {
    for (command, family, body) in [
        (0x11, 0x11, &BODY_V4[..]),
        (0x22, 0x11, &BODY_V4),
        (0x21, 0x12, &BODY_V4),
        (0x21, 0x41, &BODY_V4),
        (0x21, 0x11, &BODY_V4[..11]),
        (0x21, 0x21, &BODY_V4),
        (0x20, 0x00, &[0; V2_BYTES_MAX - V2_FIXED + 1]),
    ] {
        let bytes = v2(command, family, body);
        assert_eq!(parse(&bytes, Versions::V2), Err(BadHeader::Malformed), "{bytes:02x?}");
    }
    let longest = v2(0x20, 0x00, &[0; V2_BYTES_MAX - V2_FIXED]);
    assert_eq!(parse(&longest, Versions::V2), header(None, V2_BYTES_MAX));
    // Its length is refused before it has come.
    let mut endless = v2(0x21, 0x11, &BODY_V4);
    endless[14] = 0xff;
    assert_eq!(parse(&endless[..V2_FIXED], Versions::V2), Err(BadHeader::Malformed));
}

#[test]
fn a_version_that_is_not_read_is_no_header() {
    let (one, two) = (b"PROXY UNKNOWN\r\n", v2(0x20, 0, &[]));
    assert_eq!(parse(one, Versions::V2), Err(BadHeader::Missing));
    assert_eq!(parse(&two, Versions::V1), Err(BadHeader::Missing));
    for versions in [Versions::V1, Versions::V2, Versions::Any] {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n", versions), Err(BadHeader::Missing));
        assert_eq!(parse(&[0x16, 3, 1], versions), Err(BadHeader::Missing));
    }
    assert!(is_header(one) && is_header(&two) && !is_header(b"GET /") && !is_header(b"PROXY"));
}

fn any_header() -> impl Strategy<Value = (Option<SocketAddr>, Vec<u8>)> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), any::<u16>());
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>());
    let fields = proptest::collection::vec(any::<u8>(), 0..40);
    let one = v4.prop_map(|(from, to, port, to_port)| {
        let (from, to) = (Ipv4Addr::from(from), Ipv4Addr::from(to));
        let line = format!("PROXY TCP4 {from} {to} {port} {to_port}\r\n");
        (Some(SocketAddr::new(from.into(), port)), line.into_bytes())
    });
    let one_v6 = v6.prop_map(|(from, to, port, to_port)| {
        let (from, to) = (Ipv6Addr::from(from), Ipv6Addr::from(to));
        let line = format!("PROXY TCP6 {from} {to} {port} {to_port}\r\n");
        (Some(canonical(from.into(), port)), line.into_bytes())
    });
    let two = (v4, fields.clone()).prop_map(|((from, to, port, to_port), fields)| {
        let ports = [port.to_be_bytes(), to_port.to_be_bytes()].concat();
        let body = [&from[..], &to, &ports, &fields].concat();
        (Some(SocketAddr::new(from.into(), port)), v2(0x21, 0x11, &body))
    });
    let two_v6 = (v6, fields.clone()).prop_map(|((from, to, port, to_port), fields)| {
        let ports = [port.to_be_bytes(), to_port.to_be_bytes()].concat();
        let body = [&from[..], &to, &ports, &fields].concat();
        (Some(canonical(IpAddr::from(from), port)), v2(0x21, 0x21, &body))
    });
    let local = fields.prop_map(|fields| (None, v2(0x20, 0x00, &fields)));
    prop_oneof![one, one_v6, two, two_v6, local]
}

proptest! {
    #[test]
    fn every_header_is_found_whole_and_not_before(
        (client, bytes) in any_header(),
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        for end in 0..bytes.len() {
            prop_assert_eq!(parse(&bytes[..end], Versions::Any), Ok(Parsed::Incomplete));
        }
        let whole = [&bytes[..], &behind].concat();
        let found = Parsed::Header { client, len: bytes.len() };
        prop_assert_eq!(parse(&whole, Versions::Any), Ok(found));
    }

    #[test]
    fn the_answer_to_a_prefix_stands(
        (_, mut bytes) in any_header(),
        at in any::<proptest::sample::Index>(),
        damage in any::<u8>(),
        versions in prop_oneof![Just(Versions::V1), Just(Versions::V2), Just(Versions::Any)],
    ) {
        let at = at.index(bytes.len());
        bytes[at] = damage;
        let mut answer = Ok(Parsed::Incomplete);
        for end in 0..=bytes.len() {
            let next = parse(&bytes[..end], versions);
            prop_assert!(answer == Ok(Parsed::Incomplete) || answer == next, "{:?}", bytes);
            answer = next;
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0..3_u8) {
        let start = [&[][..], V1_START, V2_SIGNATURE][usize::from(start)];
        let bytes = [start, &bytes].concat();
        if let Ok(Parsed::Header { len, .. }) = parse(&bytes, Versions::Any) {
            prop_assert!(len <= bytes.len() && len <= V2_BYTES_MAX);
        }
    }
}
