//! The example of docs/LINK.md, spoken by the code.

use super::*;

const SESSION: u128 = 0x3f2a_9c10_77aa_4c1e_8d3b_5e0a_4a6f_9c21;

/// The messages of a conversation, each as its name, its prefix field by field, and its body.
#[derive(Default)]
struct Transcript(String);

impl Transcript {
    fn show(&mut self, what: &str, bytes: &[u8]) {
        let (prefix, at) = Prefix::parse(bytes).expect("well-formed");
        let p = &bytes[..PREFIX_LEN];
        let fields = [&p[..1], &p[1..2], &p[2..4], &p[4..8], &p[8..]].map(hex);
        let body = &bytes[at..];
        let body = if prefix.kind == Kind::Data {
            let (header, payload) = body.split_at(if body[0] & 0x40 != 0 { 16 } else { 31 });
            format!("{} {}", hex(header), text(payload))
        } else {
            text(body).to_owned()
        };
        self.0 += &format!("{what}\n  {}\n  {body}\n\n", fields.join(" "));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn last(out: &mut Vec<u8>) -> Vec<u8> {
    sent(out).pop().expect("a message").into_data().to_vec()
}

fn push(flags: u8, id: u64, payload: &str) -> Vec<u8> {
    let id = id.to_be_bytes();
    let frame = [&[flags], &[0; 22][..], &id, payload.as_bytes()].concat();
    message(Kind::Data, 0, SESSION, &frame)
}

fn anna() -> Identity {
    let account = Some("anna".into());
    let standing = standing(["user".into()].into());
    Identity { account, standing, ..identity(SESSION) }
}

fn greet_and_call(link: &mut Link<u32>, shown: &mut Transcript) {
    let mut out = buffer();
    link.write_hello(GATEWAY, &mut out).expect("room");
    shown.show("gateway: hello", &last(&mut out));
    let hello = message(Kind::Hello, 0, 0, BACKEND_HELLO.as_bytes());
    shown.show("backend: hello", &hello);

    let id = 0x0123_4567_89ab_cdef_u64.to_be_bytes();
    let routing = [0x00, 0x00, 0x05, 0, 0, 0, 9];
    let request = [&routing[..], &[0xCA; 16], &id, br#"{"say":"hi"}"#].concat();
    let who = anna();
    link.call(&client(&who), data(&request), 1, START, &mut out).expect("may go");
    let messages = sent(&mut out);
    shown.show("gateway: open", &messages[0].clone().into_data());
    shown.show("gateway: data, a call", &messages[1].clone().into_data());

    let reply = [&[0x40], &routing[1..], &id, &[0], br#"{"said":"hi"}"#].concat();
    let reply = message(Kind::Data, 1, SESSION, &reply);
    let answered = link.receive(&reply);
    assert!(matches!(answered, Ok(Inbound::Answer { call: 1, .. })));
    shown.show("backend: data, its answer", &reply);
}

fn push_and_answer(link: &mut Link<u32>, shown: &mut Transcript) {
    let mut out = buffer();
    let event = push(0x10, 0x2a, r#"{"eventName":"demo.tick"}"#);
    let rpc = push(0x01, 0x2b, r#"{"ask":1}"#);
    let pushes = [
        ("backend: data, a pushed event", event, Push::Event),
        ("backend: data, an RPC to the client", rpc, Push::Rpc),
    ];
    for (what, bytes, expected) in pushes {
        let pushed = link.receive(&bytes);
        assert!(matches!(pushed, Ok(Inbound::Push { kind, .. }) if kind == expected));
        shown.show(what, &bytes);
        link.handled(SessionId(SESSION), bytes.len() - PREFIX_LEN, &mut out);
    }
    shown.show("gateway: credit for both", &last(&mut out));

    let id = 0x2b_u64.to_be_bytes();
    let told = [&[0x40], &[0; 6][..], &id, &[0], br#"{"told":1}"#].concat();
    let answer = Data { endpoint: NO_ENDPOINT, ..data(&told) };
    link.post(&client(&anna()), answer, &mut out).expect("may go");
    shown.show("gateway: data, the client's answer", &last(&mut out));
    let grant = format!(r#"{{"messages":1,"bytes":{}}}"#, told.len());
    let grant = message(Kind::Credit, 0, SESSION, grant.as_bytes());
    assert!(matches!(link.receive(&grant), Ok(Inbound::Credit { .. })));
    shown.show("backend: credit for it", &grant);
}

fn worked_example() -> String {
    let mut shown = Transcript::default();
    let mut link = open_link();
    greet_and_call(&mut link, &mut shown);
    push_and_answer(&mut link, &mut shown);
    let mut out = buffer();
    let owner = client(&anna()).owner;
    link.end_session(SessionId(SESSION), owner, "closed", &mut out).expect("room");
    shown.show("gateway: close", &last(&mut out));
    shown.0.trim_end().to_owned()
}

#[test]
fn the_example_in_the_documentation_is_what_the_code_sends() {
    let document = include_str!("../../../../../docs/LINK.md");
    let example = worked_example();
    assert!(document.contains(&example), "docs/LINK.md should show:\n\n{example}\n");
}
