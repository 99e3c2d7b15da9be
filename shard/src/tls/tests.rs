//! Against the client of rustls, over a wire that cuts bytes into pieces.

use std::io::{Read as _, Write as _};

use proptest::prelude::*;
use rustls::client::ClientConnection;
use rustls::{ClientConfig, SupportedCipherSuite};

use super::fixtures::{self, SUITES, configs};
use super::*;

/// A client and a server, and what is on its way between them.
struct Wire {
    client: ClientConnection,
    server: TlsStream,
    /// Not consumed by the server.
    kept: Vec<u8>,
    /// What the server has read, and the client.
    read: (Vec<u8>, Vec<u8>),
    ended: Option<Result<(), TlsFault>>,
}

impl Wire {
    fn new((server, client): &(Arc<ServerConfig>, Arc<ClientConfig>)) -> Self {
        Self {
            client: fixtures::client(client),
            server: TlsStream::new(Arc::clone(server)).unwrap(),
            kept: Vec::new(),
            read: (Vec::new(), Vec::new()),
            ended: None,
        }
    }

    /// One that stands.
    fn standing(suite: SupportedCipherSuite) -> Self {
        let mut wire = Self::new(&configs(suite));
        wire.settle(usize::MAX);
        assert!(wire.server.is_open() && !wire.client.is_handshaking(), "{suite:?}");
        wire
    }

    /// Moves bytes, at most `piece` at a time to the server, until nobody has more to say.
    fn settle(&mut self, piece: usize) {
        loop {
            let said = self.spoken_by_client();
            for bytes in said.chunks(piece) {
                self.deliver(bytes);
            }
            let answered = self.server.take_outgoing();
            if said.is_empty() && answered.is_empty() {
                return;
            }
            self.hear_from_server(&answered);
        }
    }

    fn spoken_by_client(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut said).unwrap();
        }
        said
    }

    fn hear_from_server(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets().unwrap();
            // WouldBlock once there is no more.
            let _more = self.client.reader().read_to_end(&mut self.read.1);
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let mut at = 0;
        while at < self.kept.len() && self.ended.is_none() {
            let base = at;
            match self.server.open(&mut self.kept[at..]) {
                Ok(Opened::InPlace { consumed, plain }) => {
                    at += consumed;
                    self.read.0.extend_from_slice(&self.kept[base + plain.start..base + plain.end]);
                }
                Ok(Opened::Aside { consumed, plain }) => {
                    at += consumed;
                    self.read.0.extend(plain);
                }
                Ok(Opened::Nothing { consumed }) => at += consumed,
                Ok(Opened::NeedMore { consumed }) => {
                    at += consumed;
                    break;
                }
                Ok(Opened::Closed) => self.ended = Some(Ok(())),
                Err(fault) => self.ended = Some(Err(fault)),
            }
        }
        self.kept.drain(..at);
    }

    fn server_says(&mut self, plain: &[u8]) {
        let mut bytes = self.server.take_outgoing();
        let before = bytes.len();
        bytes.resize(before + self.server.sealed_len(plain.len()), 0);
        self.server.seal(plain, &mut bytes[before..]).unwrap();
        self.hear_from_server(&bytes);
    }

    fn client_says(&mut self, plain: &[u8]) {
        self.client.writer().write_all(plain).unwrap();
    }
}

#[test]
fn every_suite_carries_bytes_both_ways_and_ends_in_good_order() {
    for suite in &SUITES {
        let mut wire = Wire::standing(*suite);
        let long: Vec<u8> = (0..50_000_u32).map(|n| n as u8).collect();
        for message in [b"hello".as_slice(), b"", &long] {
            wire.client_says(message);
            wire.settle(1000);
            wire.server_says(message);
        }
        let expected = [b"hello".as_slice(), &long].concat();
        assert!(wire.read == (expected.clone(), expected), "{suite:?}");
        wire.client.send_close_notify();
        wire.settle(usize::MAX);
        assert_eq!(wire.ended, Some(Ok(())));
        wire.server.say_goodbye();
        let goodbye = wire.server.take_outgoing();
        wire.hear_from_server(&goodbye);
        assert_eq!(wire.client.reader().read(&mut [0; 1]).unwrap(), 0, "a close_notify is an end");
    }
}

#[test]
fn what_comes_right_behind_the_handshake_is_read() {
    for suite in [SUITES[0], SUITES[3]] {
        let mut wire = Wire::new(&configs(suite));
        wire.client_says(b"as early as may be");
        wire.settle(usize::MAX);
        wire.client_says(b", and more");
        wire.settle(usize::MAX);
        assert_eq!(wire.read.0, b"as early as may be, and more", "{suite:?}");
    }
}

#[test]
fn a_client_that_comes_back_resumes_by_its_ticket() {
    for suite in [SUITES[0], SUITES[3]] {
        let configs = configs(suite);
        let kinds = [(); 2].map(|()| {
            let mut wire = Wire::new(&configs);
            wire.settle(usize::MAX);
            wire.client_says(b"x");
            wire.settle(usize::MAX);
            assert_eq!(wire.read.0, b"x");
            wire.client.handshake_kind().unwrap()
        });
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    }
}

#[test]
fn keys_are_renewed_when_the_client_asks() {
    let mut wire = Wire::standing(SUITES[0]);
    for round in 0..3_u8 {
        wire.client.refresh_traffic_keys().unwrap();
        wire.client_says(&[round]);
        wire.settle(3);
        wire.server_says(&[round]);
    }
    assert_eq!(wire.read, (vec![0, 1, 2], vec![0, 1, 2]));
}

#[test]
fn keys_are_renewed_before_they_are_used_up() {
    let mut wire = Wire::standing(SUITES[1]);
    for _ in 0..1000 {
        wire.server_says(b"x");
    }
    assert_eq!(wire.read.1.len(), 1000);
    // TLS 1.2 cannot: its connections end.
    let mut wire = Wire::standing(SUITES[3]);
    let mut record = vec![0; wire.server.sealed_len(1)];
    let said = (0..1000).take_while(|_| wire.server.seal(b"x", &mut record).is_ok()).count();
    assert!((150..=200).contains(&said), "{said}");
}

#[test]
fn a_record_that_was_changed_on_the_way_is_refused_with_an_alert() {
    for suite in [SUITES[0], SUITES[2], SUITES[3], SUITES[5]] {
        for bit in [0, 13, 40, 41, 70, 100, 200] {
            let mut wire = Wire::standing(suite);
            wire.client_says(b"twenty bytes of text");
            let mut said = wire.spoken_by_client();
            let at = bit / 8 % said.len();
            said[at] ^= 1 << (bit % 8);
            wire.deliver(&said);
            // A length that has grown waits for more; everything else is noticed.
            if wire.ended.is_none() {
                wire.deliver(&[0; 20_000]);
            }
            assert!(matches!(wire.ended, Some(Err(TlsFault::Record(_)))), "{suite:?} bit {bit}");
            assert!(wire.read.0.is_empty());
            assert!(!wire.server.take_outgoing().is_empty(), "the client is told");
            assert!(!wire.server.is_open());
        }
    }
}

#[test]
fn what_has_no_place_in_a_connection_that_stands_ends_it() {
    // A change of cipher, a handshake in the clear, and a record that is too long.
    for record in [&[20, 3, 3, 0, 1, 1][..], &[22, 3, 3, 0, 4, 0, 0, 0, 0], &[23, 3, 3, 0xFF, 0xFF]]
    {
        for suite in [SUITES[0], SUITES[3]] {
            let mut wire = Wire::standing(suite);
            wire.deliver(record);
            assert!(matches!(wire.ended, Some(Err(TlsFault::Record(_)))), "{suite:?} {record:?}");
        }
    }
}

#[test]
fn a_peer_that_sends_nothing_but_empty_records_is_let_go() {
    let mut wire = Wire::standing(SUITES[0]);
    for _ in 0..32 {
        wire.client.refresh_traffic_keys().unwrap();
        wire.settle(usize::MAX);
    }
    assert_eq!(wire.ended, None);
    wire.client.refresh_traffic_keys().unwrap();
    let said = wire.spoken_by_client();
    wire.deliver(&said);
    assert_eq!(wire.ended, Some(Err(TlsFault::Record(RecordFault::OnlyEmpty))));
}

#[test]
fn what_is_not_tls_is_told_apart_at_its_first_byte() {
    for bytes in [&b"GET /connect HTTP/1.1\r\n"[..], b"\x80", b"\0\0\0"] {
        let mut server = TlsStream::new(configs(SUITES[0]).0).unwrap();
        assert_eq!(server.open(&mut bytes.to_vec()), Err(TlsFault::NotTls));
    }
    let mut server = TlsStream::new(configs(SUITES[0]).0).unwrap();
    let broken = server.open(&mut [22, 3, 1, 0, 4, 1, 0, 0, 0]);
    assert!(matches!(broken, Err(TlsFault::Handshake(_))), "{broken:?}");
    assert!(!server.take_outgoing().is_empty(), "an alert says so");
}

#[test]
fn a_refused_hello_with_more_behind_it_is_answered_with_one_alert() {
    let (server, _) = configs(SUITES[0]);
    let (_, client) = configs(SUITES[1]);
    let mut hello = Vec::new();
    fixtures::client(&client).write_tls(&mut hello).unwrap();
    // The same message once more, in the same record: read, and not taken any more.
    let message = hello[5..].to_vec();
    hello.extend(message);
    let len = (hello.len() - 5) as u16;
    hello[3..5].copy_from_slice(&len.to_be_bytes());
    let mut server = TlsStream::new(server).unwrap();
    let refused = server.open(&mut hello);
    assert!(matches!(refused, Err(TlsFault::Handshake(_))), "{refused:?}");
    let alert = server.take_outgoing();
    assert!(matches!(alert[..], [21, 3, 3, 0, 2, 2, _]), "{alert:?}");
}

#[test]
fn an_open_stream_takes_little_memory() {
    assert!(size_of::<TlsStream>() <= 48, "{}", size_of::<TlsStream>());
    assert!(size_of::<Records>() <= 1024, "{}", size_of::<Records>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_split_of_the_bytes_gives_the_same_plaintext(
        piece in 1_usize..200,
        suite in 0..SUITES.len(),
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..8),
    ) {
        let mut wire = Wire::new(&configs(SUITES[suite]));
        for message in &messages {
            wire.client_says(message);
            wire.settle(piece);
        }
        prop_assert_eq!(&wire.read.0, &messages.concat());
    }

    #[test]
    fn no_input_makes_a_stream_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        stands in any::<bool>(),
    ) {
        let mut wire = if stands { Wire::standing(SUITES[0]) } else { Wire::new(&configs(SUITES[0])) };
        wire.deliver(&bytes);
        wire.server.take_outgoing();
    }
}
