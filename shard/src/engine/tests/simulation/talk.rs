//! What one connection has said and what it may hear: each answer is held against its request.

use std::collections::{BTreeMap, BTreeSet};

use super::stamp::Stamp;
use crate::id::SessionId;
use crate::wire::guid::Guid;
use crate::wire::header::{Flags, RequestHeader, ResponseHeader};

/// Codes of the protocol that no answer bears, whoever asks and whatever a backend says.
const NEVER_SENT: [u8; 2] = [32, 72];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Call,
    Meta,
    /// Of a GUID that is nobody's, or another session's.
    Stranger,
    Peer,
    Broadcast,
    TooLong,
    BadChannel,
    /// An answer to nothing.
    Unmatched,
}

#[derive(Debug)]
struct Message {
    asked: Asked,
    header: RequestHeader,
    payload_len: usize,
    answer: Option<u8>,
}

/// One WebSocket of one client, from its side.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) session: SessionId,
    pub(super) serial: u32,
    /// By number.
    messages: Vec<Message>,
    /// Number of the newest answered call of each channel.
    answered: BTreeMap<u16, u32>,
    texts: u32,
    texts_answered: u32,
    pub(super) guid: Option<Guid>,
    pub(super) endpoints: Vec<Guid>,
    /// The newest message heard of each other connection.
    heard: BTreeMap<u32, u32>,
    received: BTreeSet<(u32, u32)>,
    pub(super) newest_event: u64,
    /// RPCs that were answered, perhaps too late.
    rpcs: BTreeSet<u64>,
    /// It sends noise, which may be answered.
    pub(super) noisy: bool,
    /// The gateway may refuse calls without a place in their channel.
    pub(super) draining: bool,
}

/// Something from the gateway that the client acts upon.
#[derive(Debug)]
pub(super) enum Heard {
    Nothing,
    ReconnectToken(String),
    Event(u64),
    /// The gateway asks; the message id goes into the answer.
    Question(u64),
}

impl Talk {
    pub(super) fn new(session: SessionId, serial: u32) -> Self {
        Self {
            session,
            serial,
            messages: Vec::new(),
            answered: BTreeMap::new(),
            texts: 0,
            texts_answered: 0,
            guid: None,
            endpoints: Vec::new(),
            heard: BTreeMap::new(),
            received: BTreeSet::new(),
            newest_event: 0,
            rpcs: BTreeSet::new(),
            noisy: false,
            draining: false,
        }
    }

    /// Writes down a message that is about to be sent, and makes it.
    pub(super) fn ask(
        &mut self,
        asked: Asked,
        flags: Flags,
        channel: u16,
        guid: Guid,
        filler: usize,
    ) -> Vec<u8> {
        let number = self.messages.len() as u32;
        let message_id = u64::from(self.serial) << 32 | u64::from(number);
        let header = RequestHeader { flags, channel, sequence: number ^ 0x55, guid, message_id };
        let payload_len = Stamp::LEN + filler;
        self.messages.push(Message { asked, header, payload_len, answer: None });
        if asked == Asked::Unmatched {
            let (channel, sequence) = (header.channel, header.sequence);
            return ResponseHeader { flags, channel, sequence, message_id, code: 0 }
                .to_bytes()
                .into();
        }
        let mut message = header.to_bytes().to_vec();
        let stamp = Stamp { session: self.session, serial: self.serial, number, to: guid.0 };
        message.extend(stamp.payload(filler));
        message
    }

    pub(super) fn sent_text(&mut self) {
        self.texts += 1;
    }

    /// The client's answer to an RPC.
    pub(super) fn answer(&mut self, message_id: u64) -> Vec<u8> {
        self.rpcs.insert(message_id);
        let flags = Flags::RESPONSE.union(Flags::BINARY);
        let header = ResponseHeader { flags, channel: 0, sequence: 0, message_id, code: 0 };
        [&header.to_bytes()[..], &self.session.0.to_be_bytes()].concat()
    }

    /// One binary message from the gateway.
    ///
    /// # Panics
    /// When the gateway may not have sent it.
    pub(super) fn hear(&mut self, message: &[u8]) -> Heard {
        let flags = Flags(message[0]);
        if flags.contains(Flags::RESPONSE) {
            let header = ResponseHeader::parse(message).expect("a whole header");
            self.hear_answer(header, &message[ResponseHeader::LEN..]);
            return Heard::Nothing;
        }
        let header = RequestHeader::parse(message).expect("a whole header");
        let payload = &message[RequestHeader::LEN..];
        if flags.contains(Flags::CLIENT) {
            self.hear_peer(&header, payload);
            Heard::Nothing
        } else if flags.contains(Flags::EVENT) {
            self.hear_event(payload)
        } else {
            let asked = Stamp::read(payload);
            assert_eq!(asked.session, self.session, "an RPC for somebody else");
            Heard::Question(header.message_id)
        }
    }

    fn hear_answer(&mut self, header: ResponseHeader, payload: &[u8]) {
        assert!(!NEVER_SENT.contains(&header.code), "{header:?}");
        let (serial, number) = ((header.message_id >> 32) as u32, header.message_id as u32);
        if self.rpcs.remove(&header.message_id) {
            return assert!(matches!(header.code, 12 | 30), "it came too late: {header:?}");
        }
        if serial != self.serial {
            if self.noisy {
                return;
            }
            assert!(
                header.flags == Flags::RESPONSE && matches!(header.code, 12 | 14),
                "{header:?}"
            );
            self.texts_answered += 1;
            assert!(self.texts_answered <= self.texts, "text was answered that was not sent");
            return;
        }
        let (session, draining) = (self.session, self.draining);
        let message = self.messages.get_mut(number as usize).expect("an answer to a request");
        let asked = message.header;
        assert_eq!(message.answer, None, "{message:?} is answered twice: {header:?}");
        message.answer = Some(header.code);
        let expected = asked.reply_to().header(crate::wire::code::ResponseCode::Ok);
        assert_eq!(ResponseHeader { code: 0, ..header }, expected, "the header is the request's");
        let legal: &[u8] = match message.asked {
            Asked::Call | Asked::Meta => &[0, 12, 30, 50, 51, 52, 53, 60],
            Asked::Stranger | Asked::Unmatched => &[12, 30],
            Asked::Peer => &[0, 12, 31],
            Asked::Broadcast => &[12],
            Asked::TooLong => &[11, 12],
            Asked::BadChannel => &[12, 13],
        };
        assert!(legal.contains(&header.code), "{message:?} is answered {}", header.code);
        if header.code != 0 {
            assert!(payload.is_empty(), "{message:?}: errors have no payload");
        }
        let wanted = !asked.flags.contains(Flags::EVENT);
        let silent = matches!(header.code, 0 | 50..=53) || (header.code == 60 && !draining);
        assert!(wanted || !silent, "{message:?} wants no answer");
        match (message.asked, header.code) {
            // A backend may have nothing to say.
            (Asked::Call | Asked::Meta, 0) if payload.is_empty() => {}
            (Asked::Call, 0) => {
                let stamp = Stamp::read(payload);
                let own = Stamp { session, serial, number, to: asked.guid.0 };
                assert_eq!(stamp, own, "the answer to somebody else's call");
                assert_eq!(payload.len(), message.payload_len, "the answer is whole");
            }
            (Asked::Meta, 0) => {
                let text = String::from_utf8_lossy(payload);
                assert_eq!(text, session.to_string(), "the answer to somebody else's question");
            }
            (Asked::Peer, 0) => {
                let text = String::from_utf8_lossy(payload);
                assert!(text.contains(&asked.guid.to_string()), "{text}: {message:?}");
            }
            _ => {}
        }
        // The order of a channel.
        if matches!(message.asked, Asked::Call | Asked::Meta)
            && (matches!(header.code, 0 | 50..=53) || (header.code == 60 && !draining))
        {
            let before = self.answered.insert(asked.channel, number);
            assert!(before < Some(number), "channel {}: {number} after {before:?}", asked.channel);
        }
    }

    fn hear_peer(&mut self, header: &RequestHeader, payload: &[u8]) {
        let stamp = Stamp::read(payload);
        assert_eq!(stamp.to, header.guid.0, "the message was sent to this GUID");
        if header.guid != Guid::BROADCAST {
            assert_eq!(Some(header.guid), self.guid, "{stamp:?} is for somebody else");
        }
        let before = self.heard.insert(stamp.serial, stamp.number);
        assert!(before < Some(stamp.number), "{stamp:?} comes after {before:?} of the same sender");
        self.received.insert((stamp.serial, stamp.number));
    }

    fn hear_event(&mut self, payload: &[u8]) -> Heard {
        if payload.first() != Some(&b'{') {
            let stamp = Stamp::read(payload);
            assert_eq!(stamp.session, self.session, "a push for somebody else");
            return Heard::Nothing;
        }
        let event: serde_json::Value = serde_json::from_slice(payload).expect("an event is JSON");
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        match text("eventName") {
            "connect.capability-manifest" => {
                assert_eq!(text("sessionId"), self.session.to_string());
                self.guid = Some(text("peerGuid").parse().expect("the mode is Relayed"));
                let apis = event["availableApis"].as_array().expect("a list");
                let guid = |api: &serde_json::Value| api["serviceId"].as_str()?.parse().ok();
                self.endpoints = apis.iter().filter_map(guid).collect();
                Heard::Nothing
            }
            "connect.session-token" => Heard::ReconnectToken(text("token").into()),
            "connect.disconnect-notification" => {
                Heard::ReconnectToken(text("reconnectionToken").into())
            }
            "simulation" => {
                assert_eq!(text("for"), self.session.to_string(), "an event for somebody else");
                let number = event["number"].as_u64().expect("a number");
                let next = self.newest_event + 1;
                assert!(self.newest_event == 0 || number == next, "event {number}, not {next}");
                self.newest_event = number;
                Heard::Event(number)
            }
            other => panic!("an event {other:?} that nobody sent"),
        }
    }

    /// Whether it has what was acknowledged as delivered to it.
    pub(super) fn has_received(&self, serial: u32, number: u32) -> bool {
        self.received.contains(&(serial, number))
    }

    /// Peer messages that were acknowledged: number and GUID of the target.
    pub(super) fn delivered(&self) -> impl Iterator<Item = (u32, Guid)> {
        let messages = (0u32..).zip(&self.messages);
        let peers = messages.filter(|(_, message)| message.asked == Asked::Peer);
        peers.filter(|(_, message)| message.answer == Some(0)).map(|(n, m)| (n, m.header.guid))
    }

    /// The first message that still has no answer and must have one.
    pub(super) fn unanswered(&self) -> Option<String> {
        let waits = self.messages.iter().find(|message| {
            let wanted = !message.header.flags.contains(Flags::EVENT);
            wanted && message.asked != Asked::Broadcast && message.answer.is_none()
        });
        match waits {
            Some(message) => Some(format!("{message:?}")),
            None => (self.texts_answered < self.texts).then(|| "text".into()),
        }
    }

    /// Answers with each code so far.
    pub(super) fn count(&self, code: u8) -> u64 {
        self.messages.iter().filter(|message| message.answer == Some(code)).count() as u64
    }
}
