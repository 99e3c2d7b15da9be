//! HTTP backends whose answers a test writes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::PATIENCE;

/// What a backend was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Which of the backend's connections it came on, counted from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) path: String,
    /// The head as it came, without its empty line.
    pub(crate) head: String,
    /// By name in lower case.
    pub(crate) fields: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What a backend does about it.
pub(crate) enum Answer {
    /// These bytes; the connection stays.
    Keep(Vec<u8>),
    /// These bytes, then the end of the connection.
    Close(Vec<u8>),
}

impl Answer {
    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200, body)
    }

    pub(crate) fn status(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status} Word\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::Keep([head.as_bytes(), body].concat())
    }

    /// A response whose body comes in chunks.
    pub(crate) fn chunked(chunks: &[&[u8]]) -> Self {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(*chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        Self::Keep(bytes)
    }
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A backend that serves until the test's process ends.
pub(crate) struct HttpBackend {
    pub(crate) url: String,
    asked: Receiver<Asked>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl HttpBackend {
    pub(crate) fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        Self::serve(listener, address, script)
    }

    /// On an address where nobody listens at present.
    pub(crate) fn start_at(
        address: SocketAddr,
        script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        Self::serve(listener, address, script)
    }

    fn serve(
        listener: TcpListener,
        address: SocketAddr,
        script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (sender, asked) = channel();
        let script: Arc<Script> = Arc::new(script);
        let streams = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&streams);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (script, sender) = (Arc::clone(&script), sender.clone());
                let copy = stream.try_clone().expect("descriptors are left");
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
                let reader = stream.try_clone().expect("descriptors are left");
                thread::spawn(move || {
                    converse(number, reader, &stream, &*script, &sender);
                    // Another descriptor is kept for the test: only this ends the connection.
                    drop(stream.shutdown(std::net::Shutdown::Both));
                });
            }
        });
        Self { url: format!("http://{address}"), asked, streams }
    }

    pub(crate) fn start_unix(
        file: &Path,
        script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(file).expect("the folder is writable");
        let (sender, asked) = channel();
        let script: Arc<Script> = Arc::new(script);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (script, sender) = (Arc::clone(&script), sender.clone());
                let reader: UnixStream = stream.try_clone().expect("descriptors are left");
                thread::spawn(move || converse(number, reader, stream, &*script, &sender));
            }
        });
        let streams = Arc::default();
        Self { url: format!("http+unix:{}", file.display()), asked, streams }
    }

    /// The next request that came in.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.recv_timeout(PATIENCE).expect("the backend is asked")
    }

    pub(crate) fn was_not_asked(&self) -> bool {
        self.asked.try_recv().is_err()
    }

    /// Ends the connection with this number, as an idle time-out would.
    pub(crate) fn end_connection(&self, number: usize) {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams[number].shutdown(std::net::Shutdown::Both).expect("the connection is open");
    }

    /// TOML of a service `demo` with this backend, one endpoint per word of `paths`.
    pub(crate) fn service(&self, paths: &str, settings: &str) -> String {
        service(&self.url, paths, settings)
    }
}

/// TOML of the service `demo` at `url` and of the role `user`, who may call all of it. A path may
/// be written `METHOD:/path`, and `!` behind it makes it idempotent.
pub(crate) fn service(url: &str, paths: &str, settings: &str) -> String {
    let endpoint = |word: &str| {
        let (word, idempotent) = match word.strip_suffix('!') {
            Some(word) => (word, true),
            None => (word, false),
        };
        let (method, path) = word.split_once(':').unwrap_or(("POST", word));
        format!("{{ path = {path:?}, method = {method:?}, idempotent = {idempotent} }}")
    };
    let endpoints: Vec<_> = paths.split_whitespace().map(endpoint).collect();
    format!(
        "[[service]]\nname = \"demo\"\naddresses = [{url:?}]\nendpoints = [{}]\n{settings}\n\
         [[role]]\nname = \"user\"\nendpoints = [\"demo:*\"]\n",
        endpoints.join(", ")
    )
}

fn converse(
    connection: usize,
    reader: impl Read,
    mut writer: impl Write,
    script: &Script,
    sender: &Sender<Asked>,
) {
    let mut reader = BufReader::new(reader);
    while let Some(asked) = read_request(connection, &mut reader) {
        // The test may have stopped listening; the backend goes on.
        drop(sender.send(asked.clone()));
        let (bytes, last) = match script(&asked) {
            Answer::Keep(bytes) => (bytes, false),
            Answer::Close(bytes) => (bytes, true),
        };
        // The gateway may have given up; then there is nobody to tell.
        if writer.write_all(&bytes).and_then(|()| writer.flush()).is_err() || last {
            return;
        }
    }
}

fn read_request(connection: usize, reader: &mut impl BufRead) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    head.truncate(head.len() - 4);
    let mut lines = head.split("\r\n");
    let mut line = lines.next()?.split(' ');
    let (method, path) = (line.next()?.to_owned(), line.next()?.to_owned());
    let fields: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let len = fields.get("content-length").map_or(Ok(0), |len| len.parse()).ok()?;
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { connection, method, path, head, fields, body })
}
