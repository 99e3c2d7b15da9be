//! A broker that was just started and knows the topics before it knows itself.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;

const API_VERSIONS: i16 = 18;
const METADATA: i16 = 3;
/// The newest version of each that it speaks.
const METADATA_VERSION: i16 = 1;
const API_VERSIONS_VERSION: i16 = 3;

/// Speaks as much of Kafka's protocol as tells clients what is there: itself, and every topic that they
/// ask for, without partitions.
struct ForgetfulBroker {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    knows_no_broker: AtomicBool,
    /// Questions about topics that were answered, and those of them that no broker was named in.
    answered: AtomicU64,
    answered_without: AtomicU64,
}

impl ForgetfulBroker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<State>::default());
        let shared = Arc::clone(&state);
        // Both end with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // The client leaves.
                thread::spawn(move || drop(shared.serve(address.port(), client)));
            }
        });
        Self { address, state }
    }
}

impl State {
    fn serve(&self, port: u16, mut client: TcpStream) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            client.read_exact(&mut length)?;
            let mut request = vec![0; i32::from_be_bytes(length) as usize];
            client.read_exact(&mut request)?;
            let mut request = Request(&request);
            let (what, version, correlation) = (request.i16(), request.i16(), request.i32());
            let _client_id = request.text();
            let mut answer = Vec::from(correlation.to_be_bytes());
            match what {
                API_VERSIONS => answer.extend(api_versions(version)),
                METADATA => answer.extend(self.metadata(port, &mut request)),
                other => panic!("request {other} was not offered"),
            }
            client.write_all(&(answer.len() as i32).to_be_bytes())?;
            client.write_all(&answer)?;
        }
    }

    fn metadata(&self, port: u16, request: &mut Request<'_>) -> Vec<u8> {
        let topics: Vec<_> = (0..request.i32().max(0)).map(|_| request.text()).collect();
        let forgets = self.knows_no_broker.load(Ordering::Relaxed);
        let mut answer = Vec::from(i32::from(!forgets).to_be_bytes());
        if !forgets {
            answer.extend(1_i32.to_be_bytes());
            answer.extend(text(b"127.0.0.1"));
            answer.extend(i32::from(port).to_be_bytes());
            answer.extend((-1_i16).to_be_bytes());
        }
        answer.extend(1_i32.to_be_bytes());
        answer.extend((topics.len() as i32).to_be_bytes());
        for name in &topics {
            answer.extend(0_i16.to_be_bytes());
            answer.extend(text(name));
            answer.push(0);
            answer.extend(0_i32.to_be_bytes());
        }
        if !topics.is_empty() {
            self.answered.fetch_add(1, Ordering::Relaxed);
            self.answered_without.fetch_add(forgets.into(), Ordering::Relaxed);
        }
        answer
    }
}

fn api_versions(version: i16) -> Vec<u8> {
    let offers = [(METADATA, METADATA_VERSION), (API_VERSIONS, API_VERSIONS_VERSION)];
    let compact = version >= API_VERSIONS_VERSION;
    let mut answer = vec![0, 0];
    match compact {
        true => answer.push(offers.len() as u8 + 1),
        false => answer.extend((offers.len() as i32).to_be_bytes()),
    }
    for (what, newest) in offers {
        answer.extend([what.to_be_bytes(), 0_i16.to_be_bytes(), newest.to_be_bytes()].concat());
        answer.extend(compact.then_some(0));
    }
    if version >= 1 {
        answer.extend(0_i32.to_be_bytes());
    }
    answer.extend(compact.then_some(0));
    answer
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes(), text].concat()
}

struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn take(&mut self, length: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken.to_vec()
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn text(&mut self) -> Vec<u8> {
        let length = self.i16().max(0);
        self.take(length as usize)
    }
}

#[test]
fn brokers_that_have_not_named_themselves_once_are_asked_again() {
    let broker = ForgetfulBroker::start();
    let mut node = Node::new(settings(&broker.address.to_string()));
    let mut until_more = |what: &str, of: &AtomicU64| {
        let before = of.load(Ordering::Relaxed);
        node.until(what, |node| {
            node.arrivals_now(&mut Vec::new());
            (of.load(Ordering::Relaxed) > before).then_some(())
        });
    };
    let State { knows_no_broker, answered, answered_without } = &*broker.state;
    until_more("answers", answered);
    knows_no_broker.store(true, Ordering::Relaxed);
    until_more("answers without a broker", answered_without);
    knows_no_broker.store(false, Ordering::Relaxed);
    until_more("answers with a broker", answered);
    until_more("answers as before", answered);
}
