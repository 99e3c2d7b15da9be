//! The example of docs/LINK.md, spoken by the code.

use super::*;

/// The conversation shown in docs/LINK.md, as the code speaks it.
fn worked_example() -> String {
    let mut shown = String::new();
    let mut show = |what: &str, bytes: &[u8]| {
        let (prefix, at) = Prefix::parse(bytes).expect("well-formed");
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let p = &bytes[..PREFIX_LEN];
        let fields = [&p[..1], &p[1..2], &p[2..4], &p[4..8], &p[8..]]
            .map(hex)
            .join(" ");
        let body = &bytes[at..];
        let body = match prefix.kind {
            Kind::Data => {
                let header = if body[0] & 0x40 != 0 { 16 } else { 31 };
                let payload = text(&body[header..]);
                format!("{} {payload}", hex(&body[..header]))
            }
            _ => text(body).to_owned(),
        };
        shown.push_str(&format!("{what}\n  {fields}\n  {body}\n\n"));
    };
    let sole = |out: &mut Vec<u8>| sent(out).pop().expect("a message").into_data();
    let anna = Identity {
        account: Some("anna".into()),
        ..identity(0)
    };
    let anna = Identity {
        session: SessionId(0x3f2a_9c10_77aa_4c1e_8d3b_5e0a_4a6f_9c21),
        roles: ["user".into()].into(),
        ..anna
    };
    let session = anna.session.0;
    let mut out = buffer();
    let mut link = open_link();
    link.write_hello(GATEWAY, &mut out).expect("room");
    show("gateway: hello", &sole(&mut out));
    show(
        "backend: hello",
        &message(Kind::Hello, 0, 0, BACKEND_HELLO.as_bytes()),
    );

    let mut request = vec![0x00, 0x00, 0x05, 0, 0, 0, 9];
    request.extend_from_slice(&[0xCA; 16]);
    request.extend_from_slice(&0x0123_4567_89ab_cdef_u64.to_be_bytes());
    request.extend_from_slice(br#"{"say":"hi"}"#);
    link.call(&client(&anna), data(&request), 1, START, &mut out)
        .expect("may go");
    let messages = sent(&mut out);
    show("gateway: open", &messages[0].clone().into_data());
    show("gateway: data, a call", &messages[1].clone().into_data());

    let mut reply = [&[0x40][..], &request[1..7], &request[23..31], &[0]].concat();
    reply.extend_from_slice(br#"{"said":"hi"}"#);
    let reply = message(Kind::Data, 1, session, &reply);
    assert!(matches!(
        link.receive(&reply),
        Ok(Inbound::Answer { call: 1, .. })
    ));
    show("backend: data, its answer", &reply);

    let push = |flags: u8, id: u64, payload: &str| {
        let frame = [
            &[flags][..],
            &[0; 22],
            &id.to_be_bytes(),
            payload.as_bytes(),
        ]
        .concat();
        message(Kind::Data, 0, session, &frame)
    };
    let event = push(0x10, 0x2a, r#"{"eventName":"demo.tick"}"#);
    assert!(matches!(
        link.receive(&event),
        Ok(Inbound::Push {
            kind: Push::Event,
            ..
        })
    ));
    show("backend: data, a pushed event", &event);
    let rpc = push(0x01, 0x2b, r#"{"ask":1}"#);
    assert!(matches!(
        link.receive(&rpc),
        Ok(Inbound::Push {
            kind: Push::Rpc,
            ..
        })
    ));
    show("backend: data, an RPC to the client", &rpc);
    link.handled(anna.session, event.len() - PREFIX_LEN, &mut out);
    link.handled(anna.session, rpc.len() - PREFIX_LEN, &mut out);
    show("gateway: credit for both", &sole(&mut out));

    let mut told = [&[0x40][..], &[0; 6], &0x2b_u64.to_be_bytes(), &[0]].concat();
    told.extend_from_slice(br#"{"told":1}"#);
    let answered = Data {
        endpoint: NO_ENDPOINT,
        trace: None,
        frame: [&told, &[]],
    };
    link.post(&client(&anna), answered, &mut out)
        .expect("may go");
    show("gateway: data, the client's answer", &sole(&mut out));
    let grant = format!(r#"{{"messages":1,"bytes":{}}}"#, told.len());
    let grant = message(Kind::Credit, 0, session, grant.as_bytes());
    assert!(matches!(link.receive(&grant), Ok(Inbound::Credit { .. })));
    show("backend: credit for it", &grant);
    link.end_session(anna.session, client(&anna).owner, "closed", &mut out)
        .expect("room");
    show("gateway: close", &sole(&mut out));
    shown.trim_end().to_owned()
}

#[test]
fn the_example_in_the_documentation_is_what_the_code_sends() {
    let document = include_str!("../../../../../docs/LINK.md");
    let example = worked_example();
    assert!(
        document.contains(&example),
        "docs/LINK.md should show:\n\n{example}\n"
    );
}
