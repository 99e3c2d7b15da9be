//! A server that says the same to whoever asks, over TLS, with the certificate of `tests/keys`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

fn key_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
}

/// The authority that has signed the server's certificate.
pub(crate) fn authority() -> PathBuf {
    key_file("authority.pem")
}

/// Serves `body` until the test's process ends. Returns the URL.
pub(crate) fn serve(body: String) -> String {
    let certificate = CertificateDer::from_pem_file(key_file("localhost.pem"));
    let key = PrivateKeyDer::from_pem_file(key_file("localhost.key.pem"));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(
        vec![certificate.expect("it is a certificate")],
        key.expect("it is a key"),
    );
    let config = Arc::new(config.expect("the key is the certificate's"));
    // By whichever address the name is found first.
    let listener = TcpListener::bind("localhost:0").expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a good config");
            let stream = StreamOwned::new(connection, stream);
            // Whoever does not trust the certificate goes away.
            drop(answer(stream, &body));
        }
    });
    format!("https://localhost:{port}")
}

fn answer(stream: impl Read + Write, body: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
    }
    let head =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    let stream = stream.get_mut();
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    stream.flush()
}
