use ipnet::IpNet;
use proptest::prelude::*;

use super::*;

/// 10.0.0.0/8 and 2001:db8:10::/48 are proxies.
fn trusted() -> Networks {
    let networks = ["10.0.0.0/8", "2001:db8:10::/48"];
    networks.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
}

fn found(field: ForwardedField, lines: &[&str]) -> Result<Option<String>, Malformed> {
    let name = match field {
        ForwardedField::Forwarded => "Forwarded",
        ForwardedField::XForwardedFor => "X-Forwarded-For",
    };
    let mut block = String::new();
    for line in lines {
        block += &format!("{name}: {line}\r\nX: y\r\n");
    }
    block += "\r\n";
    let fields = Fields::parse(block.as_bytes(), 100).unwrap();
    Ok(client(fields, field, &trusted())?.map(|client| client.to_string()))
}

fn x_forwarded_for(lines: &[&str]) -> Option<String> {
    found(ForwardedField::XForwardedFor, lines).unwrap()
}

fn forwarded(lines: &[&str]) -> Result<Option<String>, Malformed> {
    found(ForwardedField::Forwarded, lines)
}

#[test]
fn the_rightmost_address_that_is_no_proxy_is_the_client() {
    for (lines, client) in [
        (&["203.0.113.9"][..], Some("203.0.113.9:0")),
        (&["198.51.100.1, 203.0.113.9"], Some("203.0.113.9:0")),
        (&["198.51.100.1, 203.0.113.9, 10.0.0.1, 10.9.9.9"], Some("203.0.113.9:0")),
        (&["198.51.100.1", "203.0.113.9,10.0.0.1"], Some("203.0.113.9:0")),
        (&["rubbish\", 203.0.113.9"], Some("203.0.113.9:0")),
        (&["10.1.1.1, 10.0.0.1"], Some("10.1.1.1:0")),
        (&["198.51.100.1, unknown, 10.0.0.1"], Some("10.0.0.1:0")),
        (&["198.51.100.1, unknown"], None),
        (&[" , "], None),
        (&[], None),
    ] {
        assert_eq!(x_forwarded_for(lines).as_deref(), client, "{lines:?}");
    }
}

#[test]
fn addresses_come_with_and_without_ports_and_brackets() {
    for (text, client) in [
        ("203.0.113.9:4711", Some("203.0.113.9:4711")),
        ("2001:db8::9", Some("[2001:db8::9]:0")),
        ("[2001:db8::9]", Some("[2001:db8::9]:0")),
        ("[2001:db8::9]:4711", Some("[2001:db8::9]:4711")),
        ("::ffff:203.0.113.9", Some("203.0.113.9:0")),
        ("203.0.113.9:_hidden", Some("203.0.113.9:0")),
        ("203.0.113.9:+1", None),
        ("203.0.113.9:70000", None),
        ("203.0.113.9:", None),
        ("203.0.113.09", None),
        ("[203.0.113.9]", None),
        ("[2001:db8::9]x", None),
        ("[2001:db8::9", None),
        ("_gazonk", None),
        ("\u{e9}", None),
    ] {
        assert_eq!(x_forwarded_for(&[text]).as_deref(), client, "{text}");
    }
}

#[test]
fn forwarded_names_the_client_in_its_parameter_for() {
    for (lines, client) in [
        (&["for=203.0.113.9"][..], Some("203.0.113.9:0")),
        (&["For=\"[2001:db8::9]:4711\";proto=https;by=10.0.0.1"], Some("[2001:db8::9]:4711")),
        (&["proto=http; for=\"203.0.113.9:1\" , for=10.0.0.1"], Some("203.0.113.9:1")),
        (
            &["for=198.51.100.1, for=203.0.113.9;host=\"a,b;for=1.2.3.4\\\"\""],
            Some("203.0.113.9:0"),
        ),
        (&["for=198.51.100.1", "for=203.0.113.9, for=10.0.0.1"], Some("203.0.113.9:0")),
        (&["for=198.51.100.1, by=10.0.0.1"], None),
        (&["for=198.51.100.1, for=_hidden, for=10.0.0.1"], Some("10.0.0.1:0")),
        (&["for=\"\\1.2.3.4\""], None),
        (&[", ,for=203.0.113.9;,"], Some("203.0.113.9:0")),
        (&[""], None),
    ] {
        assert_eq!(forwarded(lines), Ok(client.map(str::to_owned)), "{lines:?}");
    }
}

#[test]
fn a_quote_that_a_client_leaves_open_does_not_swallow_what_the_proxy_adds() {
    for bad in [
        "for=\", for=203.0.113.9",
        "for=6.6.6.6;by=\", for=\"203.0.113.9\"",
        "for=6.6.6.6;by=\"\\, for=\"[2001:db8::9]\"",
        "for=\"6.6.6.6\"x, for=203.0.113.9",
        "for=6.6.6.6;for=6.6.6.7",
        "for=",
        "for=\"\"",
        "for",
        "=6.6.6.6",
        "for = 6.6.6.6",
        "for=6.6.6.6 7",
        "for=\"\\\"",
    ] {
        assert_eq!(forwarded(&[bad]), Err(Malformed), "{bad}");
    }
}

/// As the text says it: from the right, as long as they are trusted.
fn from_the_right(hops: &[Option<IpAddr>]) -> Option<IpAddr> {
    let mut client = None;
    for hop in hops.iter().rev() {
        let Some(hop) = hop else { break };
        client = Some(*hop);
        if !trusted().contains(*hop) {
            break;
        }
    }
    client
}

fn hops() -> impl Strategy<Value = Vec<Option<IpAddr>>> {
    const ADDRESSES: &[&str] =
        &["10.0.0.1", "10.2.3.4", "203.0.113.9", "198.51.100.1", "2001:db8:10::1", "::2"];
    let hop = prop_oneof![
        6 => proptest::sample::select(ADDRESSES).prop_map(|text| text.parse().ok()),
        1 => Just(None),
    ];
    proptest::collection::vec(hop, 0..6)
}

proptest! {
    #[test]
    fn both_fields_find_whom_a_walk_from_the_right_finds(
        hops in hops(),
        breaks in proptest::collection::vec(any::<bool>(), 6),
    ) {
        let mut lines = [vec![String::new()], vec![String::new()]];
        for (hop, split) in hops.iter().zip(&breaks) {
            let plain = hop.map_or("unknown".to_owned(), |hop| hop.to_string());
            let quoted = match hop {
                Some(IpAddr::V6(v6)) => format!("for=\"[{v6}]\";proto=wss"),
                _ => format!("proto=wss;for={plain}"),
            };
            for (lines, element) in lines.iter_mut().zip([plain, quoted]) {
                match lines.last_mut() {
                    Some(last) if !split && !last.is_empty() => *last += &format!(", {element}"),
                    _ => lines.push(element),
                }
            }
        }
        let expected = from_the_right(&hops).map(|ip| SocketAddr::new(ip, 0).to_string());
        let [x, standard] = lines.each_ref().map(|lines| {
            lines.iter().map(String::as_str).collect::<Vec<_>>()
        });
        prop_assert_eq!(x_forwarded_for(&x), expected.clone());
        prop_assert_eq!(forwarded(&standard), Ok(expected));
    }

    /// Whatever a client sends, it is not taken for anybody but the one whom its proxy has seen.
    #[test]
    fn what_a_client_sends_does_not_change_who_it_is(
        sent in "[ -~]{0,40}",
        own_line in any::<bool>(),
        quoted in any::<bool>(),
    ) {
        let seen = if quoted { "for=\"203.0.113.9:80\";by=\"x\"" } else { "for=203.0.113.9:80" };
        let joined = format!("{sent}, {seen}");
        let lines = if own_line { vec![&*sent, seen] } else { vec![&*joined] };
        if let Ok(client) = forwarded(&lines) {
            prop_assert_eq!(client.as_deref(), Some("203.0.113.9:80"));
        }
        let joined = format!("{sent}, 203.0.113.9");
        let lines = if own_line { vec![&*sent, "203.0.113.9"] } else { vec![&*joined] };
        prop_assert_eq!(x_forwarded_for(&lines), Some("203.0.113.9:0".to_owned()));
    }

    #[test]
    fn no_value_panics(value in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut walk = Walk { trusted: &trusted(), found: None };
        let _answered = walk.pass_line(&value);
        walk.pass(node(&value));
    }
}
