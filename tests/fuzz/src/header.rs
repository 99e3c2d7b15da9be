//! Binary headers and the GUIDs and tokens in them: reading and writing are inverse, and what is
//! sealed cannot be made without the keys.

use corelane_shard::id::{Epoch, Generation, SessionId, ShardId, Slot};
use corelane_shard::wire::code::ResponseCode;
use corelane_shard::wire::guid::{Guid, PeerKeys, PeerRoute};
use corelane_shard::wire::header::{
    Flags, Header, Layout, RequestHeader, ResponseHeader, WantsReply,
};
use corelane_shard::wire::meta::MetaKind;
use corelane_shard::wire::reconnect_token::ReconnectKeys;

/// The bytes are a message, and a text.
pub fn header(input: &[u8]) {
    layouts(input);
    if let Some((guid, rest)) = input.split_first_chunk::<16>() {
        guids(Guid(*guid), rest);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        texts(text);
    }
}

fn layouts(message: &[u8]) {
    let Ok(header) = Header::parse(message) else {
        let needed = match message.first() {
            Some(flags) => Flags(*flags).layout().header_len(),
            None => 1,
        };
        assert!(message.len() < needed, "only what is short is refused");
        return;
    };
    let flags = Flags(message[0]);
    match header {
        Header::Request(request) => {
            assert_eq!(flags.layout(), Layout::Request);
            assert_eq!(request.to_bytes(), message[..RequestHeader::LEN]);
            assert!(MetaKind::from_channel(request.channel).path_suffix().starts_with("/meta/"));
        }
        Header::Response(response) => {
            assert_eq!(flags.layout(), Layout::Response);
            assert_eq!(response.to_bytes(), message[..ResponseHeader::LEN]);
            if let Some(code) = ResponseCode::from_value(response.code) {
                assert_eq!(code.value(), response.code);
            }
        }
    }
    let reply = header.reply_to();
    let answer = reply.answer(ResponseCode::Ok);
    let Ok(Header::Response(answer)) = Header::parse(&answer) else {
        panic!("an answer has the layout of answers");
    };
    assert_eq!(answer.reply_to().wants_reply(), WantsReply::No, "nobody answers an answer");
    assert!(!answer.flags.contains(Flags::COMPRESSED));
    assert_eq!(answer.flags.union(Flags::COMPRESSED), flags.union(Flags(0x44)));
    let echoed = (answer.channel, answer.sequence, answer.message_id);
    assert_eq!(echoed, (reply.channel, reply.sequence, reply.message_id));
}

fn guids(guid: Guid, rest: &[u8]) {
    assert_eq!(guid.to_string().parse::<Guid>(), Ok(guid));
    assert_eq!(guid.text(), guid.to_string().as_bytes());
    let keys = PeerKeys::from_salt("salt");
    if let Some(route) = keys.decode(guid) {
        assert_eq!(keys.encode(route), guid, "only what was sealed is unsealed");
    }
    let Some(bits) = rest.first_chunk::<8>().map(|bits| u64::from_be_bytes(*bits)) else { return };
    let route = PeerRoute {
        node: (bits & 0xFFF) as u16,
        shard: ShardId((bits >> 12) as u8),
        slot: Slot((bits >> 20) as u32 & 0xF_FFFF),
        generation: Generation((bits >> 40) as u32 & 0x3_FFFF),
    };
    let sealed = keys.encode(route);
    assert_eq!(keys.decode(sealed), Some(route));
    let id = uuid::Uuid::from_bytes(sealed.0);
    assert_eq!(id.get_version_num(), 4, "it looks like any random one");
    let other = PeerKeys::from_salt("another");
    assert_eq!(other.decode(sealed), None, "sealed by others");
    let bit = usize::from(guid.0[0]) % 128;
    let mut forged = sealed;
    forged.0[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(keys.decode(forged), None, "one bit is enough");
}

fn texts(text: &str) {
    if let Ok(guid) = text.parse::<Guid>() {
        assert_eq!(guid.to_string().parse::<Guid>(), Ok(guid));
    }
    let keys = ReconnectKeys::from_salt("salt");
    let Some((session, seal)) = keys.read(text) else { return };
    let epoch = Epoch(text.len() as u64);
    assert!(!keys.is_of(seal, session, epoch), "nobody has made it");
    let token = keys.token(session, epoch);
    let read = std::str::from_utf8(&token).ok().and_then(|token| keys.read(token));
    let Some((again, own)) = read else { panic!("a token is read by who made it") };
    assert_eq!(again, session);
    assert!(keys.is_of(own, session, epoch));
    assert!(!keys.is_of(own, SessionId(session.0 ^ 1), epoch));
}
