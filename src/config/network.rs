//! Networks: as values of keys, and as lines of a file that may have thousands of them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::shape::{Raw, Shape};

/// Networks that a file may have.
const LINES_MAX: usize = 1_000_000;

/// A network in CIDR notation, or one address.
pub(super) struct Network;

impl Shape for Network {
    type Value = IpNet;

    fn expects(&self) -> String {
        "a network such as \"203.0.113.0/24\" or \"2001:db8::/32\", with zeros behind its prefix, \
         or an address"
            .into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<IpNet> {
        network(raw.words()?)
    }
}

/// Bits behind the prefix are refused: one of both is a slip, and which cannot be told.
fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    (network.trunc() == network).then_some(network)
}

/// One network a line; what follows a `#` is for people. `Err` says what is wrong, and where.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let words = line.split_once('#').map_or(line, |(words, _)| words).trim();
        if words.is_empty() {
            continue;
        }
        let Some(network) = network(words) else {
            let shown: String = words.chars().take(80).collect();
            return Err(format!("line {number}: {shown:?} is not {}", Network.expects()));
        };
        if found.len() == LINES_MAX {
            return Err(format!("more than {LINES_MAX} networks"));
        }
        found.push(network);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_written_with_its_prefix_and_an_address_without() {
        for (text, network) in [
            ("203.0.113.0/24", Some("203.0.113.0/24")),
            ("203.0.113.9", Some("203.0.113.9/32")),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("::/0", Some("::/0")),
            ("203.0.113.9/24", None),
            ("203.0.113.0/33", None),
            ("203.0.113", None),
            ("example.net", None),
            ("", None),
        ] {
            let expected = network.map(|text| text.parse().unwrap());
            assert_eq!(super::network(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_has_a_network_a_line_and_room_for_remarks() {
        let text = "# who was a nuisance\n\n203.0.113.0/24 # since May\r\n  2001:db8::/32\n";
        assert_eq!(networks(text).unwrap().len(), 2);
        let wrong = networks("203.0.113.0/24\nnobody/24\n").unwrap_err();
        assert!(wrong.starts_with("line 2: \"nobody/24\" is not a network"), "{wrong}");
    }
}
