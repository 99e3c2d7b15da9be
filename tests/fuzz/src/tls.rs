//! What a client says over TLS is read as it was said, whatever becomes of the bytes on their way; and
//! no bytes harm a server.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use arbitrary::{Arbitrary, Unstructured};
use corelane_shard::tls::{GOODBYE_MAX, Opened, TlsStream};
use rustls::client::ClientConnection;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

/// A connection, and what happens on it.
#[derive(Debug, Arbitrary)]
struct Plan {
    tls12: bool,
    /// How many bytes reach the server at a time.
    piece: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// The client says so many bytes.
    Say(u16),
    /// The server does.
    Answer(u16),
    /// The client renews its keys and asks for new ones.
    Renew,
    /// A bit of what the client says next is turned over.
    Damage {
        at: u16,
        bit: u8,
    },
    /// Bytes that are not the client's.
    Insert(Vec<u8>),
    Close,
}

/// The first bit says whether the rest is a plan, or the first bytes that a server gets to see.
pub fn tls(input: &[u8]) {
    match input.split_first() {
        Some((first, bytes)) if first & 1 == 0 => {
            let mut link = Link::new(first & 2 == 0);
            link.deliver(bytes.to_vec(), usize::from(first >> 2) + 1);
        }
        Some((_, bytes)) => {
            if let Ok(plan) = Plan::arbitrary(&mut Unstructured::new(bytes)) {
                follow(&plan);
            }
        }
        None => {}
    }
}

fn follow(plan: &Plan) {
    let piece = usize::from(plan.piece) + 1;
    let mut link = Link::new(plan.tls12);
    link.settle(piece);
    assert!(link.server.is_open(), "two good ends agree");
    let mut damage = None;
    for step in plan.steps.iter().take(40) {
        match step {
            Step::Say(len) => link.say(usize::from(*len) % 40_000),
            Step::Answer(len) => link.answer(usize::from(*len) % 40_000),
            Step::Renew => drop(link.client.refresh_traffic_keys()),
            Step::Damage { at, bit } => damage = Some((usize::from(*at), bit % 8)),
            Step::Insert(bytes) => {
                link.genuine = false;
                link.deliver(bytes.clone(), piece);
            }
            Step::Close => link.client.send_close_notify(),
        }
        let mut said = link.spoken_by_client();
        if let Some((at, bit)) = damage.take_if(|_| !said.is_empty()) {
            let at = at % said.len();
            said[at] ^= 1 << bit;
            link.genuine = false;
        }
        link.deliver(said, piece);
        link.hear();
        link.check();
    }
    link.server.say_goodbye();
    assert!(!link.server.is_open());
}

/// A client and a server with everything that they said and heard.
struct Link {
    client: ClientConnection,
    server: TlsStream,
    kept: Vec<u8>,
    said: Vec<u8>,
    read: Vec<u8>,
    answered: Vec<u8>,
    heard: Vec<u8>,
    over: bool,
    /// Every byte that reached the server is the client's.
    genuine: bool,
}

impl Link {
    fn new(tls12: bool) -> Self {
        static CONFIGS: OnceLock<[(Arc<ServerConfig>, Arc<ClientConfig>); 2]> = OnceLock::new();
        let (server, client) =
            &CONFIGS.get_or_init(|| [false, true].map(configs))[usize::from(tls12)];
        let name = ServerName::try_from("game.test").expect("a name");
        Self {
            client: ClientConnection::new(Arc::clone(client), name).expect("a client"),
            server: TlsStream::new(Arc::clone(server)).expect("a server"),
            kept: Vec::new(),
            said: Vec::new(),
            read: Vec::new(),
            answered: Vec::new(),
            heard: Vec::new(),
            over: false,
            genuine: true,
        }
    }

    fn settle(&mut self, piece: usize) {
        while self.client.is_handshaking() || self.server.is_handshaking() {
            let said = self.spoken_by_client();
            self.deliver(said, piece);
            self.hear();
        }
    }

    fn spoken_by_client(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut said).expect("memory takes all");
        }
        said
    }

    fn say(&mut self, len: usize) {
        let bytes: Vec<u8> = (self.said.len()..).take(len).map(|n| n as u8).collect();
        if self.client.writer().write_all(&bytes).is_ok() {
            self.said.extend(bytes);
        }
    }

    fn answer(&mut self, len: usize) {
        if !self.server.is_open() {
            return;
        }
        let bytes: Vec<u8> = (self.answered.len()..).take(len).map(|n| n as u8).collect();
        let mut sealed = self.server.take_outgoing();
        let before = sealed.len();
        sealed.resize(before + self.server.sealed_len(len), 0);
        self.server.seal(&bytes, &mut sealed[before..]).expect("the keys are fresh");
        self.answered.extend(bytes);
        self.hear_from_server(&sealed);
    }

    /// What TLS itself has to say reaches the client.
    fn hear(&mut self) {
        let bytes = self.server.take_outgoing();
        assert!(self.over || self.server.is_handshaking() || bytes.len() <= 64 * GOODBYE_MAX);
        self.hear_from_server(&bytes);
    }

    fn hear_from_server(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.client.read_tls(&mut bytes);
            if taken.is_err() || self.client.process_new_packets().is_err() {
                assert!(!self.genuine || self.over, "a client was told what it did not understand");
                return;
            }
            // WouldBlock once there is no more.
            drop(self.client.reader().read_to_end(&mut self.heard));
        }
    }

    fn deliver(&mut self, bytes: Vec<u8>, piece: usize) {
        for piece in bytes.chunks(piece) {
            self.kept.extend_from_slice(piece);
            let mut at = 0;
            while at < self.kept.len() && !self.over {
                let missing = self.server.missing(&self.kept[at..]);
                assert!(missing > 0, "the beginning of a record asks for more, or it hangs");
                let opened = self.server.open(&mut self.kept[at..]);
                let consumed = match opened {
                    Ok(Opened::InPlace { consumed, plain }) => {
                        self.read.extend_from_slice(&self.kept[at..][plain]);
                        consumed
                    }
                    Ok(Opened::Aside { consumed, plain }) => {
                        self.read.extend(plain);
                        consumed
                    }
                    Ok(Opened::Nothing { consumed }) => consumed,
                    Ok(Opened::NeedMore { consumed }) => {
                        at += consumed;
                        break;
                    }
                    Ok(Opened::Closed) | Err(_) => {
                        self.over = true;
                        0
                    }
                };
                assert!(consumed > 0 || self.over, "every record is consumed");
                at += consumed;
            }
            assert!(at <= self.kept.len());
            self.kept.drain(..at);
        }
    }

    fn check(&self) {
        assert!(self.said.starts_with(&self.read), "what was read was said");
        assert!(self.answered.starts_with(&self.heard), "what was heard was answered");
        if self.genuine && !self.over {
            assert_eq!(self.read.len(), self.said.len(), "nothing is held back");
            assert_eq!(self.heard.len(), self.answered.len(), "nothing is held back");
        }
    }
}

fn configs(tls12: bool) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["game.test".to_owned()]).expect("a certificate");
    let certificate = CertificateDer::from(cert.der().to_vec());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let versions = if tls12 { [&version::TLS12] } else { [&version::TLS13] };
    let mut server = ServerConfig::builder_with_protocol_versions(&versions)
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a server");
    server.enable_secret_extraction = true;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let client = ClientConfig::builder_with_protocol_versions(&versions)
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}
