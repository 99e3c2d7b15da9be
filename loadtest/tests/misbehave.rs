//! The command `misbehave` against servers that do not end bad clients as the gateway documents.

mod support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output};

use tempfile::NamedTempFile;

use support::{CLOSE, Peer, frame, serve};

/// The tokens of `count` clients.
fn tokens(count: usize) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file for the tokens");
    file.write_all("token\n".repeat(count).as_bytes()).expect("the file takes them");
    file
}

fn misbehave(at: SocketAddr, tokens: &NamedTempFile) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corelane-loadtest"))
        .args([
            "misbehave",
            "--each",
            "1",
            "--for",
            "500ms",
            "--url",
            &format!("ws://{at}/connect"),
        ])
        .arg("--tokens")
        .arg(tokens.path())
        .output()
        .expect("the harness is built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_server_that_ends_them_otherwise_fails_and_each_end_is_named() {
    let bye = |peer: &mut Peer| {
        if peer.upgrade().is_some() {
            peer.send(&frame(CLOSE, &1000_u16.to_be_bytes()));
        }
    };
    // Who has not finished the request after some bytes is hung up on.
    let at = serve(move |mut peer| match peer.stream.peek(&mut [0; 16]) {
        Ok(0..16) => {}
        _ => bye(&mut peer),
    });
    let output = misbehave(at, &tokens(4));
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for (kind, deserved) in [("slow reader", 1013), ("fragmenter", 1009), ("flooder", 4003)] {
        let line = said.lines().find(|line| line.starts_with(kind));
        let line = line.unwrap_or_else(|| panic!("nothing of {kind} in {said}"));
        let expected = format!(" were ended by close 1000, not by close {deserved}");
        assert!(line.ends_with(&expected), "{line}");
    }
    let one_byte = said.lines().find(|line| line.starts_with("one byte at a time"));
    assert!(one_byte.unwrap().ends_with("were ended by no word, not by status 408"), "{said}");
    let table = text(&output.stdout);
    assert!(table.contains("no word × ") && table.contains("close 1000 × "), "{table}");
}

#[test]
fn what_cannot_be_done_is_said_before() {
    let at = serve(|_peer| {});
    let output = misbehave(at, &tokens(3));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("token mint --count 4"), "{}", text(&output.stderr));
}
