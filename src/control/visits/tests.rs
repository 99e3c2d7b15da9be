//! Kept connections over real sockets on loopback.

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const RULES: KeepRules = KeepRules {
    places: 1,
    idle_max: Duration::from_millis(50),
    stall_max: Duration::from_millis(50),
};

async fn served(router: Router, rules: KeepRules) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_kept(listener, router, rules));
    address
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let soon = Duration::from_secs(10);
    runtime.block_on(async { tokio::time::timeout(soon, test).await.unwrap() });
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: internal\r\n\r\n";

async fn answer(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"hello") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "{read:?}");
    }
    String::from_utf8(read).unwrap()
}

#[test]
fn a_connection_is_kept_until_it_is_idle_and_gives_its_place_back() {
    run(async {
        let address = served(Router::new().route("/", get("hello")), RULES).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            first.write_all(REQUEST).await.unwrap();
            assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
        }
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(first.read(&mut [0; 64]).await.unwrap(), 0, "closed when idle");
        assert_eq!(silent.read(&mut [0; 64]).await.unwrap(), 0, "closed before a head");
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(REQUEST).await.unwrap();
        answer(&mut third).await;
    });
}

#[test]
fn one_beyond_the_places_waits_for_the_first_to_go() {
    run(async {
        let rules = KeepRules { idle_max: Duration::from_secs(60), ..RULES };
        let address = served(Router::new().route("/", get("hello")), rules).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        answer(&mut first).await;
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(50), answer(&mut second)).await;
        assert!(waits.is_err(), "{waits:?}");
        drop(first);
        answer(&mut second).await;
    });
}

#[test]
fn a_client_that_does_not_read_loses_its_connection() {
    run(async {
        let long = "x".repeat(32 << 20);
        let router = Router::new().route("/", get(move || async move { long.clone() }));
        let rules = KeepRules { idle_max: Duration::from_secs(60), ..RULES };
        let address = served(router, rules).await;
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(REQUEST).await.unwrap();
        // Its place is the only one: the next is served when it has lost it.
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(REQUEST).await.unwrap();
        let mut head = [0; 12];
        next.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
    });
}
