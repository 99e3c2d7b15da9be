//! TLS of the players, and what the shards need for theirs. Keys and tickets are fresh in each run, but
//! all that is said with them is as long; and nobody acts by what records look like. So runs of one
//! seed agree.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::{ClientConnection, Resumption};
use rustls::{ClientConfig, ServerConfig};

use super::network::SEALED;
use crate::engine::TlsOptions;
use crate::tls::fixtures::{self, SUITES, configs_of_one_length};

/// Sealed at one time; the rest waits where it can be counted.
const SEALED_AT_ONCE: usize = 20_000;

/// What both ends of a run agree on, by its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suite(usize);

impl Suite {
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        Self(rng.usize(..SUITES.len()))
    }

    fn configs(self) -> &'static (Arc<ServerConfig>, Arc<ClientConfig>) {
        static CONFIGS: OnceLock<Vec<(Arc<ServerConfig>, Arc<ClientConfig>)>> = OnceLock::new();
        &CONFIGS.get_or_init(|| SUITES.map(configs_of_one_length).into())[self.0]
    }

    /// What shards are built with.
    pub(super) fn of_shards(self, handshakes_max: usize) -> TlsOptions {
        TlsOptions {
            first_listener: SEALED.0,
            config: Arc::new(ArcSwap::new(Arc::clone(&self.configs().0))),
            handshakes_max,
            handshake_timeout: Duration::from_secs(5),
        }
    }

    /// What the players of one run have; tickets of another would change it.
    pub(super) fn of_players(self) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.configs().1);
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }
}

/// A player's end of TLS.
#[derive(Debug)]
pub(super) struct Sealed {
    connection: ClientConnection,
    /// Records that are not on the wire yet.
    records: VecDeque<u8>,
    /// All that went onto the wire was said by `connection`, to somebody who speaks TLS.
    genuine: bool,
    has_left: bool,
    goodbye_heard: bool,
}

impl Sealed {
    pub(super) fn new(config: &Arc<ClientConfig>, genuine: bool) -> Self {
        let mut connection = fixtures::client(config);
        connection.set_buffer_limit(None);
        let records = VecDeque::new();
        Self { connection, records, genuine, has_left: false, goodbye_heard: false }
    }

    /// Seals some of `plain` if nothing waits. Returns what does.
    pub(super) fn seal(&mut self, plain: &mut VecDeque<u8>) -> &mut VecDeque<u8> {
        if self.has_left {
            plain.clear();
        } else if self.records.is_empty() {
            let len = plain.len().min(SEALED_AT_ONCE);
            let bytes: Vec<u8> = plain.drain(..len).collect();
            self.connection.writer().write_all(&bytes).expect("it takes all");
        }
        self.write_records();
        &mut self.records
    }

    pub(super) fn has_sent_all(&self) -> bool {
        self.records.is_empty()
    }

    /// Opens what was read; `None` where it cannot go on.
    ///
    /// # Panics
    /// When a shard says to a good client what that does not understand.
    pub(super) fn open(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            assert!(!self.goodbye_heard, "something is said behind the goodbye");
            self.connection.read_tls(&mut bytes).expect("what came before was taken");
            match self.connection.process_new_packets() {
                Ok(state) => self.goodbye_heard |= state.peer_has_closed(),
                Err(error) => {
                    assert!(!self.genuine, "a good client is told: {error}");
                    return None;
                }
            }
            // WouldBlock once there is no more.
            drop(self.connection.reader().read_to_end(&mut plain));
        }
        Some(plain)
    }

    /// Whoever ends in good order says so, if anything could be said at all.
    pub(super) fn ends(&self, in_good_order: bool) {
        let could_be_told = self.genuine && !self.connection.is_handshaking();
        assert!(
            self.goodbye_heard || !in_good_order || !could_be_told,
            "the stream ends, and that it would was not said"
        );
    }

    /// Asks for new keys, where there are any.
    pub(super) fn renew(&mut self) {
        drop(self.connection.refresh_traffic_keys());
    }

    /// Says that nothing more will come.
    pub(super) fn leave(&mut self) {
        self.connection.send_close_notify();
        self.has_left = true;
        self.write_records();
    }

    /// Puts something between the records.
    pub(super) fn spoil(&mut self, noise: &[u8]) {
        self.genuine = false;
        self.records.extend(noise);
    }

    fn write_records(&mut self) {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.records).expect("memory takes all");
        }
    }
}
