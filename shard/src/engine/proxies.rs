//! Who a client is when a proxy stands in front: its address comes with the socket, in a PROXY
//! header before everything else, or in a field of its request. Whichever it is, it is judged once,
//! and from then on it is what limits, logs and backends see.

use std::net::{IpAddr, SocketAddr};

use super::connection::{Phase, Receiving};
use super::{Engine, Role};
use crate::block::Block;
use crate::id::ConnectionKey;
use crate::network::Networks;
use crate::sockets::Sockets;
use crate::wire::forwarded::{self, ForwardedField};
use crate::wire::handshake::{Malformed, Refusal, Request};
use crate::wire::proxy_protocol::{self, BadHeader, Parsed, Versions};

/// Who may speak for clients, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub trusted: Networks,
    /// Connections from trusted addresses begin with a PROXY header.
    pub header: Option<Versions>,
    /// Requests of trusted addresses name their client.
    pub field: Option<ForwardedField>,
}

impl Proxies {
    pub(super) fn are_expected(&self) -> bool {
        self.header.is_some() || self.field.is_some()
    }

    fn send_headers(&self, address: IpAddr) -> Option<Versions> {
        self.header.filter(|_| self.trusted.contains(address))
    }

    fn name_clients(&self, address: IpAddr) -> bool {
        self.field.is_some() && self.trusted.contains(address)
    }
}

impl<S: Sockets> Engine<S> {
    /// Whether an address must be known before the first byte of its connection is read.
    pub(super) fn asks_for_names_first(&self) -> bool {
        self.options.door.proxies.are_expected() || self.snapshot.door.judges_addresses()
    }

    /// The kernel has said who `key` is.
    pub(super) fn peer_named(&mut self, key: ConnectionKey, peer: Option<SocketAddr>) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.peer = peer.map(|peer| (peer.ip().to_canonical(), peer.port()));
        let waits = connection.receiving == Receiving::Off && connection.phase == Phase::Open;
        let (true, Some(socket), Role::Head(_)) = (waits, connection.socket, &connection.role)
        else {
            return;
        };
        connection.receiving = Receiving::Armed;
        self.sockets.receive(socket, key);
        let Some(peer) = self.table.get(key).and_then(|connection| connection.peer) else {
            // Only a connection that is gone has no name.
            return self.lost(key, "connection reset");
        };
        if self.options.door.proxies.send_headers(peer.0).is_some() {
            return self.await_proxy_header(key);
        }
        if let Err(refusal) = self.identify(key, peer) {
            self.refuse(key, refusal);
        }
    }

    fn await_proxy_header(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.role = match std::mem::replace(&mut connection.role, Role::Gone) {
            Role::Head(head) => Role::Proxied(head),
            other => other,
        };
    }

    /// Reads more of the PROXY header of `key`. When all of it is there, returns where in `bytes`
    /// the client's own begin, if any have come.
    pub(super) fn read_proxy_header(&mut self, key: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        let versions = self.options.door.proxies.header?;
        let connection = self.table.get_mut(key)?;
        let peer = connection.peer?;
        let Role::Proxied(head) = &mut connection.role else { return None };
        let carried = head.carry.take();
        let before = carried.as_ref().map_or(0, Block::len);
        let carry = match self.append(carried, bytes) {
            Ok(carry) => carry,
            Err(refusal) => {
                self.refuse(key, refusal);
                return None;
            }
        };
        let parsed = match &carry {
            Some(carry) => proxy_protocol::parse(carry.as_slice(), versions),
            None => proxy_protocol::parse(bytes, versions),
        };
        match parsed {
            Ok(Parsed::Incomplete) => {
                self.keep_proxy_header(key, carry, bytes);
                None
            }
            Ok(Parsed::Header { client, len }) => {
                self.blocks_back(carry);
                let client = client.map_or(peer, |client| (client.ip(), client.port()));
                self.begin_head(key, client)?;
                let from = len - before;
                (from < bytes.len()).then_some(from)
            }
            Err(bad) => {
                self.blocks_back(carry);
                self.refuse(
                    key,
                    match bad {
                        BadHeader::Missing => Refusal::NoProxyHeader,
                        BadHeader::Malformed => Malformed::ProxyHeader.into(),
                    },
                );
                None
            }
        }
    }

    fn keep_proxy_header(&mut self, key: ConnectionKey, carry: Option<Block>, bytes: &[u8]) {
        let carry = carry.or_else(|| {
            let mut block = self.blocks.take(bytes.len())?;
            block.append(bytes);
            Some(block)
        });
        let Some(carry) = carry else {
            return self.refuse(key, Refusal::Full);
        };
        match self.table.get_mut(key).map(|connection| &mut connection.role) {
            Some(Role::Proxied(head)) => head.carry = Some(carry),
            _ => self.blocks.give_back(carry),
        }
    }

    /// What comes now is `client`'s own. `None` when it is refused.
    fn begin_head(&mut self, key: ConnectionKey, client: (IpAddr, u16)) -> Option<()> {
        let connection = self.table.get_mut(key)?;
        connection.role = match std::mem::replace(&mut connection.role, Role::Gone) {
            Role::Proxied(head) => Role::Head(head),
            other => other,
        };
        match self.identify(key, client) {
            Ok(()) => Some(()),
            Err(refusal) => {
                self.refuse(key, refusal);
                None
            }
        }
    }

    /// `key` is at `peer`, as far as can be known before its request.
    fn identify(&mut self, key: ConnectionKey, peer: (IpAddr, u16)) -> Result<(), Refusal> {
        let names_clients = self.options.door.proxies.name_clients(peer.0);
        let Some(connection) = self.table.get_mut(key) else { return Ok(()) };
        connection.peer = Some(peer);
        if names_clients && let Role::Head(head) = &mut connection.role {
            head.names_its_client = true;
            return Ok(());
        }
        self.judge_address(key, peer.0)
    }

    /// Takes the client's address from the request of a proxy that names it.
    pub(super) fn name_forwarded(
        &mut self,
        key: ConnectionKey,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        let proxies = &self.options.door.proxies;
        let Some(field) = proxies.field else { return Ok(()) };
        let Some(connection) = self.table.get_mut(key) else { return Ok(()) };
        let Role::Head(head) = &mut connection.role else { return Ok(()) };
        if !std::mem::take(&mut head.names_its_client) {
            return Ok(());
        }
        let client = forwarded::client(request.fields, field, &proxies.trusted)
            .map_err(|forwarded::Malformed| Malformed::Forwarded)?;
        let Some(peer) = client.map(|client| (client.ip(), client.port())).or(connection.peer)
        else {
            return Ok(());
        };
        connection.peer = Some(peer);
        self.judge_address(key, peer.0)
    }

    fn judge_address(&mut self, key: ConnectionKey, address: IpAddr) -> Result<(), Refusal> {
        let limits = &self.snapshot.door;
        if limits.deny.contains(address) {
            return Err(Refusal::Denied);
        }
        let Some(max) = limits.unauthenticated_per_address else { return Ok(()) };
        self.crowd.count(address, max)?;
        if let Some(Role::Head(head)) = self.table.get_mut(key).map(|c| &mut c.role) {
            head.counted = true;
        }
        Ok(())
    }

    /// Whoever had `role`, at `peer`, is no longer at the door.
    pub(super) fn left_the_door(&mut self, role: &Role, peer: Option<(IpAddr, u16)>) {
        if let Role::Head(head) | Role::Proxied(head) = role {
            self.crowd.leaves(peer.map(|(address, _)| address).filter(|_| head.counted));
        }
    }
}
