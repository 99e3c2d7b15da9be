//! A backend that speaks HTTP: honest, slow, broken, or dying in the middle of an answer.

use std::time::Duration;

use super::network::{Network, WireId};
use super::stamp::Stamp;
use crate::clock::Instant;

/// One connection that a shard has made.
#[derive(Debug)]
struct Served {
    wire: WireId,
    request: Vec<u8>,
    /// What is to be sent, from when on.
    answer: Option<(Instant, Vec<u8>)>,
    /// What becomes of the connection behind it.
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Stays,
    Closes,
    Breaks,
}

#[derive(Debug, Default)]
pub(super) struct HttpBackend {
    connections: Vec<Served>,
}

impl HttpBackend {
    pub(super) fn take(&mut self, wire: WireId) {
        let then = Then::Stays;
        self.connections.push(Served { wire, request: Vec::new(), answer: None, then });
    }

    pub(super) fn act(
        &mut self,
        now: Instant,
        calm: bool,
        network: &mut Network,
        rng: &mut fastrand::Rng,
    ) {
        self.connections.retain_mut(|served| served.serve(now, calm, network, rng));
    }

    /// When the next answer is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.connections.iter().filter_map(|served| Some(served.answer.as_ref()?.0)).min()
    }
}

impl Served {
    /// Says whether the connection is still there.
    fn serve(
        &mut self,
        now: Instant,
        calm: bool,
        network: &mut Network,
        rng: &mut fastrand::Rng,
    ) -> bool {
        let wire = network.wire(self.wire);
        let bytes = wire.read(rng.usize(1..4000));
        self.request.extend(bytes);
        if wire.is_over() {
            wire.close();
            return false;
        }
        if self.answer.is_none()
            && let Some(asked) = self.next_request()
        {
            self.decide(&asked, now, calm, rng);
        }
        let Some((_, answer)) = self.answer.as_mut().filter(|(due, _)| *due <= now) else {
            return calm || rng.u16(..400) > 0 || {
                // Its own idle time-out, or its end.
                network.wire(self.wire).close();
                false
            };
        };
        let piece = answer.len().min(rng.usize(1..5000));
        let taken = network.wire(self.wire).write(&answer[..piece]);
        answer.drain(..taken);
        if !answer.is_empty() {
            return true;
        }
        self.answer = None;
        match self.then {
            Then::Stays => return true,
            Then::Closes => network.wire(self.wire).close(),
            Then::Breaks => network.wire(self.wire).reset(),
        }
        false
    }

    /// What the next whole request is to be answered with in the best case.
    fn next_request(&mut self) -> Option<Vec<u8>> {
        let end = self.request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.request[..end].to_vec()).expect("heads are text");
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned)
        };
        let len = field("Content-Length").map_or(0, |len| len.parse().expect("a length"));
        let body = self.request.get(end..end + len)?.to_vec();
        self.request.drain(..end + len);
        assert!(self.request.is_empty(), "one request at a time");
        let session = field("X-Bannou-Session-Id").expect("a request names its session");
        if head.starts_with("GET ") {
            return Some(session.into_bytes());
        }
        assert_eq!(Stamp::read(&body).session.to_string(), session, "a call of somebody else");
        Some(body)
    }

    fn decide(&mut self, body: &[u8], now: Instant, calm: bool, rng: &mut fastrand::Rng) {
        let mood = if calm { 50 } else { rng.u8(..100) };
        let wait = match mood {
            0..8 => rng.u64(..8000),
            8..30 => rng.u64(..50),
            _ => 0,
        };
        let mut answer = match mood {
            30..36 => {
                let statuses =
                    ["204 None", "400 Bad", "401 No", "404 No", "409 No", "500 Oh", "503 Off"];
                let status = rng.choice(statuses).unwrap_or_default();
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
            }
            36..40 => chunked(body, rng),
            40..42 => [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), body.to_vec()].concat(),
            42..44 => [(); 60].map(|()| rng.u8(..)).to_vec(),
            44 => [whole(body), b"surplus".to_vec()].concat(),
            _ => whole(body),
        };
        self.then = match mood {
            40..42 => Then::Closes,
            45..47 => {
                answer.truncate(rng.usize(..answer.len()));
                if rng.bool() { Then::Breaks } else { Then::Closes }
            }
            47..49 => Then::Closes,
            _ => Then::Stays,
        };
        self.answer = Some((now + Duration::from_millis(wait), answer));
    }
}

fn whole(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body.to_vec()].concat()
}

fn chunked(body: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(rng.usize(1..1000)) {
        answer.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}
