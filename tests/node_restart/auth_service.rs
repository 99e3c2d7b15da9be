//! An auth service that accepts every token as a session of its own, until it is stopped.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::json;
use uuid::Uuid;

pub(crate) struct AuthService {
    address: SocketAddr,
    stops: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    listening: JoinHandle<()>,
}

impl AuthService {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let (stops, streams) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (told, kept) = (Arc::clone(&stops), Arc::clone(&streams));
        let listening = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let copy = stream.try_clone().expect("descriptors are left");
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
                // A connection that ends is the gateway's business.
                thread::spawn(move || drop(answer(stream)));
            }
        });
        Self { address, stops, streams, listening }
    }

    /// For the configuration.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/auth/validate", self.address)
    }

    /// Ends its connections; from here on new ones are refused.
    pub(crate) fn stop(self) {
        self.stops.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        self.listening.join().expect("it does not panic");
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Some have ended by themselves.
            drop(stream.shutdown(Shutdown::Both));
        }
        assert!(TcpStream::connect(self.address).is_err(), "it still listens");
    }
}

/// Its requests have no body.
fn answer(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            let body = json!({
                "sessionKey": Uuid::new_v4().to_string(), "accountId": Uuid::new_v4().to_string(),
                "roles": ["user"], "remainingTime": 3571,
            });
            let (body, head) = (body.to_string(), "HTTP/1.1 200 OK\r\nContent-Length: ");
            writer.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes())?;
        }
        line.clear();
    }
    Ok(())
}
