//! A link backend that costs as little as it can: one thread, `poll` over the few links, every call
//! answered with its own payload. What docs/LINK.md asks beside that (hello, Pings, credit for
//! untagged messages) is there; sessions are not remembered, because nothing depends on them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use clap::Parser;
use corelane_bench::server_arguments::ServerArguments;
use corelane_bench::websocket::{self, Malformed};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::Type;

/// Answers calls over links with their own payload.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
}

const SUBPROTOCOL: &str = "corelane-link.1";
/// Windows of a session: wide, so that what is measured is never the credit.
const HELLO_BODY: &[u8] = br#"{"version":1,"credit":{"messages":4096,"bytes":4194304}}"#;

const HELLO: u8 = 1;
const DATA: u8 = 4;
const CREDIT: u8 = 5;
/// kind 1, flags 1, endpoint 2, tag 4, session 16
const PREFIX_BYTES: usize = 24;
const TRACE_CONTEXT: u8 = 0x01;
const TRACE_CONTEXT_BYTES: usize = 25;
/// flags 1, channel 2, sequence 4, GUID 16, message id 8
const REQUEST_HEADER_BYTES: usize = 31;
/// The same without the GUID, and a code.
const RESPONSE_HEADER_BYTES: usize = 16;
const COMPRESSED: u8 = 0x04;
const RESPONSE: u8 = 0x40;

const READ_BYTES: usize = 512 << 10;
/// A link that takes no more answers is not read from, or its answers would pile up here.
const UNSENT_MAX: usize = 4 << 20;

fn main() -> io::Result<()> {
    let listener: TcpListener =
        Arguments::parse().server.listen(Type::STREAM.nonblocking())?.into();
    let mut links: Vec<Link> = Vec::new();
    loop {
        let ready = wait(&listener, &links)?;
        if let Some((accepting, of_links)) = ready.split_first() {
            let mut of_links = of_links.iter();
            links.retain_mut(|link| {
                let events = of_links.next().copied().unwrap_or(PollFlags::empty());
                events.is_empty() || link.turn().is_ok()
            });
            if !accepting.is_empty() {
                match listener.accept() {
                    Ok((stream, _)) => links.push(Link::new(stream)?),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }
}

/// What the listener and each link are ready for, in this order.
fn wait(listener: &TcpListener, links: &[Link]) -> io::Result<Vec<PollFlags>> {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(links.iter().map(|link| PollFd::new(&link.stream, link.interest())));
    match poll(&mut fds, None) {
        Ok(_) => Ok(fds.iter().map(PollFd::revents).collect()),
        Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}

struct Link {
    stream: TcpStream,
    upgraded: bool,
    /// Bytes that no whole message has been made of yet lie at the start.
    incoming: Box<[u8]>,
    filled: usize,
    answers: Answers,
}

impl Link {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            upgraded: false,
            incoming: vec![0; READ_BYTES].into_boxed_slice(),
            filled: 0,
            answers: Answers::default(),
        })
    }

    fn interest(&self) -> PollFlags {
        let (mut wanted, unsent) = (PollFlags::empty(), self.answers.unsent().len());
        wanted.set(PollFlags::IN, unsent < UNSENT_MAX);
        wanted.set(PollFlags::OUT, unsent > 0);
        wanted
    }

    /// Reads once, answers what is whole, writes once.
    fn turn(&mut self) -> io::Result<()> {
        if self.answers.unsent().len() < UNSENT_MAX {
            match self.stream.read(&mut self.incoming[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.filled += read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            let taken = self.take_messages().map_err(|Malformed| ErrorKind::InvalidData)?;
            self.incoming.copy_within(taken..self.filled, 0);
            self.filled -= taken;
        }
        self.answers.write_to(&mut self.stream)
    }

    /// Answers every whole message; says how many bytes they were.
    fn take_messages(&mut self) -> Result<usize, Malformed> {
        let mut taken = 0;
        if !self.upgraded {
            let Some(upgrade) = websocket::parse_upgrade(&self.incoming[..self.filled])? else {
                return Ok(0);
            };
            self.answers.bytes.extend(upgrade.answer(Some(SUBPROTOCOL)).as_bytes());
            self.upgraded = true;
            taken = upgrade.len;
        }
        while let Some(frame) = websocket::parse_frame(&self.incoming[taken..self.filled])? {
            let end = taken + frame.payload.end;
            let payload = &mut self.incoming[taken + frame.payload.start..end];
            websocket::apply_mask(payload, frame.mask);
            match frame.opcode {
                websocket::BINARY => self.answers.answer(payload)?,
                websocket::PING => self.answers.frame(websocket::PONG, payload),
                websocket::PONG => {}
                // A close, which the end of the connection answers.
                _ => return Err(Malformed),
            }
            taken = end;
        }
        Ok(taken)
    }
}

/// What one link still has to send.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    sent: usize,
}

impl Answers {
    fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn write_to(&mut self, stream: &mut impl Write) -> io::Result<()> {
        if self.unsent().is_empty() {
            return Ok(());
        }
        match stream.write(self.unsent()) {
            Ok(written) => self.sent += written,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        if self.unsent().is_empty() {
            self.bytes.clear();
            self.sent = 0;
        }
        Ok(())
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        websocket::write_header(&mut self.bytes, opcode, payload.len());
        self.bytes.extend(payload);
    }

    fn message(&mut self, kind: u8, tag: &[u8], session: &[u8], body_bytes: usize) {
        websocket::write_header(&mut self.bytes, websocket::BINARY, PREFIX_BYTES + body_bytes);
        self.bytes.extend([kind, 0, 0xff, 0xff]);
        self.bytes.extend(tag);
        self.bytes.extend(session);
    }

    fn answer(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let (prefix, body) = message.split_at_checked(PREFIX_BYTES).ok_or(Malformed)?;
        let (kind, flags, tag, session) = (prefix[0], prefix[1], &prefix[4..8], &prefix[8..]);
        match kind {
            HELLO => {
                self.message(HELLO, &[0; 4], session, HELLO_BODY.len());
                self.bytes.extend(HELLO_BODY);
            }
            DATA => {
                let trace = if flags & TRACE_CONTEXT == 0 { 0 } else { TRACE_CONTEXT_BYTES };
                self.data(tag, session, body.get(trace..).ok_or(Malformed)?)?;
            }
            // Open, close and goaway need no answer; credit is for pushes, and there are none.
            _ => {}
        }
        Ok(())
    }

    fn data(&mut self, tag: &[u8], session: &[u8], frame: &[u8]) -> Result<(), Malformed> {
        if tag == [0; 4] {
            let grant = format!(r#"{{"messages":1,"bytes":{}}}"#, frame.len());
            self.message(CREDIT, tag, session, grant.len());
            self.bytes.extend(grant.as_bytes());
            return Ok(());
        }
        let (header, payload) = frame.split_at_checked(REQUEST_HEADER_BYTES).ok_or(Malformed)?;
        self.message(DATA, tag, session, RESPONSE_HEADER_BYTES + payload.len());
        self.bytes.push((header[0] | RESPONSE) & !COMPRESSED);
        self.bytes.extend(&header[1..7]);
        self.bytes.extend(&header[23..31]);
        self.bytes.push(0); // success
        self.bytes.extend(payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    const SESSION: &str = "3f2a9c1077aa4c1e8d3b5e0a4a6f9c21";

    fn answer_to(message: &[u8]) -> Vec<u8> {
        let mut answers = Answers::default();
        answers.answer(message).unwrap();
        answers.bytes
    }

    /// The call of the conversation in docs/LINK.md.
    #[test]
    fn a_call_is_answered_as_the_protocol_says() {
        let mut call = hex(&format!("04 00 0000 00000001 {SESSION}"));
        call.extend(hex(&format!("00 0005 00000009 {} 0123456789abcdef", "ca".repeat(16))));
        call.extend(b"{\"say\":\"hi\"}");
        let mut expected = vec![0x82, 24 + 16 + 12];
        expected.extend(hex(&format!("04 00 ffff 00000001 {SESSION}")));
        expected.extend(hex("400005000000090123456789abcdef00"));
        expected.extend(b"{\"say\":\"hi\"}");
        assert_eq!(answer_to(&call), expected);
    }

    #[test]
    fn an_untagged_message_gives_its_credit_back() {
        let mut told = hex(&format!("04 00 ffff 00000000 {SESSION}"));
        told.extend([0; 26]);
        let answer = answer_to(&told);
        assert_eq!(answer[2..10], hex("05 00 ffff 00000000"));
        assert!(answer.ends_with(br#"{"messages":1,"bytes":26}"#));
    }

    #[test]
    fn a_message_without_its_prefix_ends_the_link() {
        assert_eq!(Answers::default().answer(&[4; 23]), Err(Malformed));
    }
}
