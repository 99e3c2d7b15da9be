//! Sets of networks, thousands of them looked up in one binary search, and how an address is counted.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// A set of networks. IPv4 in the clothes of IPv6 (`::ffff:a.b.c.d`) is IPv4 here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// First and last address of each range, ascending, without overlap.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => within(&self.v4, u32::from(v4)),
            IpAddr::V6(v6) => within(&self.v6, u128::from(v6)),
        }
    }

    /// Bytes behind it.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.v4) + size_of_val(&*self.v6)
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match canonical(network) {
                IpNet::V4(net) => v4.push((net.network().into(), net.broadcast().into())),
                IpNet::V6(net) => v6.push((net.network().into(), net.broadcast().into())),
            }
        }
        Self { v4: merged(v4), v6: merged(v6) }
    }
}

/// A network of IPv4 that is written as one of IPv6 is IPv4.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let mapped = v6.network().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_BITS));
    match mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()) {
        Some(v4) => IpNet::V4(v4),
        None => network,
    }
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let begun = ranges.partition_point(|(first, _)| *first <= address);
    begun.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
}

/// An address as it is counted: IPv6 by its network of 64 bits, which one customer has to himself.
#[must_use]
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv6Net;
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_its_first_and_its_last_address_and_not_their_neighbours() {
        let set = networks(&["203.0.113.0/24", "198.51.100.7/32", "2001:db8::/32"]);
        for inside in
            ["203.0.113.0", "203.0.113.255", "198.51.100.7", "2001:db8::", "2001:db8:ffff::1"]
        {
            assert!(set.contains(address(inside)), "{inside}");
        }
        for outside in
            ["203.0.112.255", "203.0.114.0", "198.51.100.6", "198.51.100.8", "2001:db9::", "::"]
        {
            assert!(!set.contains(address(outside)), "{outside}");
        }
        assert!(!set.is_empty() && Networks::default().is_empty());
        assert!(!Networks::default().contains(address("0.0.0.0")));
    }

    #[test]
    fn everybody_is_two_networks_and_they_do_not_contain_each_other() {
        let (v4, v6) = (networks(&["0.0.0.0/0"]), networks(&["::/0"]));
        assert!(v4.contains(address("255.255.255.255")) && !v4.contains(address("::1")));
        assert!(v6.contains(address("ffff::1")) && !v6.contains(address("1.2.3.4")));
    }

    #[test]
    fn ipv4_in_the_clothes_of_ipv6_is_ipv4_on_both_sides() {
        let plain = networks(&["203.0.113.0/24"]);
        assert!(plain.contains(address("::ffff:203.0.113.9")));
        let mapped = networks(&["::ffff:203.0.113.0/120"]);
        assert_eq!(mapped, plain);
    }

    #[test]
    fn networks_that_touch_or_overlap_are_kept_once() {
        let set = networks(&["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "10.255.0.0/16"]);
        assert_eq!(set, networks(&["10.0.0.0/8"]));
        assert_eq!(set.memory_bytes(), 8);
    }

    #[test]
    fn an_address_of_ipv6_is_counted_by_its_network_and_one_of_ipv4_by_itself() {
        let counted = |text| counted_as(address(text)).to_string();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("203.0.113.9"), "203.0.113.9");
        assert_eq!(counted("::ffff:203.0.113.9"), "203.0.113.9");
    }

    fn network() -> impl Strategy<Value = IpNet> {
        // Few bits vary, so that networks meet.
        let v4 = (0..64_u32, 24..=32_u8)
            .prop_map(|(low, prefix)| IpNet::from(Ipv4Net::new(low.into(), prefix).unwrap()));
        let v6 = (0..64_u128, 120..=128_u8).prop_map(|(low, prefix)| {
            IpNet::from(Ipv6Net::new((0x2001 << 112 | low).into(), prefix).unwrap())
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn a_set_contains_what_one_of_its_networks_contains(
            nets in proptest::collection::vec(network(), 0..20),
            low in 0..80_u32,
        ) {
            let set: Networks = nets.iter().copied().collect();
            let v6 = Ipv6Addr::from(0x2001 << 112 | u128::from(low));
            for address in [IpAddr::V4(low.into()), IpAddr::V6(v6)] {
                let contained = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(set.contains(address), contained, "{}", address);
            }
        }
    }
}
