//! Centrifugo's JSON client protocol: commands with ids, several replies in one text message, one
//! a line. An endpoint is the method of an RPC call.

use std::io::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Dialect, Incoming, Seat, Upgrade};
use crate::scenario::Traffic;
use crate::wire::frame::Opcode;

/// Of the connect command; calls have their sequence above it.
const CONNECT_ID: u64 = 1;

#[derive(Debug)]
pub(crate) struct Centrifugo {
    /// Everything of a call between its id and its data, for each endpoint.
    methods: Vec<String>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: u64,
    error: Option<Failure>,
    #[serde(borrow)]
    rpc: Option<Data<'a>>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct Failure {
    code: u32,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow, rename = "pub")]
    publication: Option<Data<'a>>,
}

impl Dialect for Centrifugo {
    const OPCODE: Opcode = Opcode::Text;

    fn new(seat: &Seat<'_>) -> Self {
        let methods = match &seat.scenario.traffic {
            Traffic::Call { endpoints, .. } => endpoints.as_slice(),
            _ => &[],
        };
        let methods = methods.iter().map(|method| {
            let method = serde_json::Value::from(method.as_str());
            format!(",\"rpc\":{{\"method\":{method},\"data\":")
        });
        Self { methods: methods.collect() }
    }

    fn upgrade(&self, path: &str, _seat: &Seat<'_>) -> Upgrade {
        Upgrade { path: path.to_owned(), fields: String::new() }
    }

    fn greet(&mut self, seat: &Seat<'_>, out: &mut Vec<u8>) -> bool {
        let connect = match seat.token {
            Some(token) => serde_json::json!({ "token": token }),
            None => serde_json::json!({}),
        };
        let command = format!("{{\"id\":{CONNECT_ID},\"connect\":{connect}}}");
        out.extend_from_slice(command.as_bytes());
        false
    }

    fn around(&self, sequence: u64) -> usize {
        let digits = id_of(sequence).ilog10() as usize + 1;
        "{\"id\":".len() + digits + self.method(sequence).len() + "}}".len()
    }

    fn put_before(&self, sequence: u64, out: &mut Vec<u8>) {
        write!(out, "{{\"id\":{}{}", id_of(sequence), self.method(sequence))
            .expect("a vector takes everything");
    }

    fn put_after(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"}}");
    }

    fn take(
        &mut self,
        message: &[u8],
        _opcode: Opcode,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String> {
        for line in message.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            if line == b"{}" {
                each(Incoming::SendBack(b"{}")); // a ping; its answer looks the same
                continue;
            }
            let reply: Reply<'_> =
                serde_json::from_slice(line).map_err(|error| format!("centrifugo: {error}"))?;
            take_reply(&reply, each)?;
        }
        Ok(())
    }

    /// Calls run beside each other.
    fn lanes(&self) -> u64 {
        0
    }
}

impl Centrifugo {
    fn method(&self, sequence: u64) -> &str {
        let turn = sequence as usize % self.methods.len().max(1);
        self.methods.get(turn).map_or(",\"rpc\":{\"data\":", String::as_str)
    }
}

fn id_of(sequence: u64) -> u64 {
    sequence + CONNECT_ID + 1
}

fn take_reply(reply: &Reply<'_>, each: &mut impl FnMut(Incoming<'_>)) -> Result<(), String> {
    let error = reply.error.as_ref().map(|failure| failure.code);
    match reply.id.checked_sub(CONNECT_ID + 1) {
        Some(sequence) => {
            let sequence = Some(sequence);
            let payload = reply.rpc.as_ref().and_then(|rpc| rpc.data).map_or("", RawValue::get);
            each(match error {
                Some(code) => Incoming::Refused { sequence, code },
                None => Incoming::Answer { sequence, payload: payload.as_bytes() },
            });
        }
        None if reply.id == CONNECT_ID => match error {
            Some(code) => return Err(format!("centrifugo: connect failed with code {code}")),
            None => each(Incoming::Ready),
        },
        None => {
            let publication = reply.push.as_ref().and_then(|push| push.publication.as_ref());
            if let Some(data) = publication.and_then(|publication| publication.data) {
                each(Incoming::Payload(data.get().as_bytes()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sample::{heard, scenario, seat};
    use crate::scenario::Reply as ReplyKind;

    fn calls() -> Traffic {
        Traffic::Call { endpoints: vec!["echo".to_owned()], reply: ReplyKind::Echo, channels: 1 }
    }

    #[test]
    fn replies_come_several_in_a_message() {
        let scenario = scenario(calls());
        let spoken = b"{\"id\":1,\"connect\":{\"client\":\"x\",\"ping\":25,\"pong\":true}}\n\
            {\"id\":2,\"rpc\":{\"data\":\"abc\"}}\n{}\n\
            {\"id\":12,\"error\":{\"code\":108,\"message\":\"method not found\"}}\n\
            {\"push\":{\"channel\":\"c\",\"pub\":{\"data\":\"def\"}}}\n";
        let events = heard(&mut Centrifugo::new(&seat(&scenario)), spoken);
        let expected = [
            "Ready",
            "Answer Some(0) \"\\\"abc\\\"\"",
            "SendBack \"{}\"",
            "Refused Some(10) 108",
            "Payload \"\\\"def\\\"\"",
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_call_is_json_of_the_promised_length() {
        let scenario = scenario(calls());
        let centrifugo = Centrifugo::new(&seat(&scenario));
        for sequence in [0, 7, 8, 97, 98, 1_000_000] {
            let mut out = Vec::new();
            centrifugo.put_before(sequence, &mut out);
            centrifugo.put_after(&mut out);
            assert_eq!(out.len(), centrifugo.around(sequence));
            out.truncate(out.len() - 2);
            out.extend_from_slice(b"\"p\"}}");
            let call: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let expected = serde_json::json!({
                "id": sequence + 2, "rpc": { "method": "echo", "data": "p" }
            });
            assert_eq!(call, expected);
        }
    }

    #[test]
    fn a_refused_connect_ends_the_connection() {
        let scenario = scenario(calls());
        let mut centrifugo = Centrifugo::new(&seat(&scenario));
        let refused = b"{\"id\":1,\"error\":{\"code\":109,\"message\":\"token expired\"}}";
        assert!(centrifugo.take(refused, Opcode::Text, &mut |_| {}).is_err());
    }
}
