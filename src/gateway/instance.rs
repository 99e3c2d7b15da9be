//! Who this node is to the others.

use std::net::SocketAddr;

use rustix::system::uname;
use sha2::{Digest as _, Sha256};
use tracing::info;
use uuid::{Builder, Uuid};

use crate::config::{Auto, Config};
use crate::control::registry::Lessee;

/// The instance as configured, or else the same for every process of this host that listens at the same
/// addresses.
pub(super) fn of<'a>(config: &Config, listens: impl Iterator<Item = &'a SocketAddr>) -> Lessee {
    let instance = match config.control.instance {
        Auto::Fixed(instance) => instance,
        Auto::Auto => derived(uname().nodename().to_bytes(), listens),
    };
    info!(%instance, "this node");
    Lessee { instance, run: Uuid::new_v4() }
}

/// A hash as version 8 of RFC 9562.
fn derived<'a>(host: &[u8], listens: impl Iterator<Item = &'a SocketAddr>) -> Uuid {
    let mut addresses: Vec<SocketAddr> = listens.copied().collect();
    addresses.sort_unstable();
    let mut hash = Sha256::new_with_prefix(b"corelane instance");
    hash.update((host.len() as u64).to_be_bytes());
    hash.update(host);
    addresses.iter().for_each(|address| hash.update(format!(" {address}")));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_the_same_after_a_restart_and_no_other() {
        let [a, b] = ["10.0.0.1:80", "[::1]:443"].map(|text| text.parse().unwrap());
        let node = derived(b"host", [a, b].iter());
        assert_eq!(derived(b"host", [b, a].iter()), node);
        for other in [
            derived(b"other", [a, b].iter()),
            derived(b"host", [a].iter()),
            derived(b"host", [].iter()),
        ] {
            assert_ne!(other, node);
        }
        assert_eq!(node.get_version_num(), 8);
    }
}
