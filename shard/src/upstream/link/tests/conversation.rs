//! What link and backend say to each other, rule by rule.

use proptest::prelude::*;

use super::*;

#[test]
fn both_hellos_open_the_link() {
    let mut link = Link::<u32>::new(LIMITS, 1, START);
    let endpoints = [
        (Method::Post, "/demo/echo", 0),
        (Method::Post, "/other", 1),
        (Method::Get, "/demo/state", 0),
    ];
    assert_eq!(link.adopt(&snapshot(&endpoints), ServiceId(0)), Announcement::Needed);
    let mut out = buffer();
    assert_eq!(link.write_hello(GATEWAY, &mut out), Err(NotSent::NotOpen));
    link.connected();
    link.upgraded(START);
    link.write_hello(GATEWAY, &mut out).expect("room");
    let hello = sent_messages(&mut out);
    assert_eq!(hello[0].0, Prefix::of(Kind::Hello, SessionId(0)));
    assert_eq!(
        text(&hello[0].1),
        r#"{"versions":[1],"service":"demo","endpoints":["/demo/echo","GET:/demo/state"],"node":"7","shard":0,"credit":{"messages":4,"bytes":1000}}"#
    );
    assert_eq!(link.state(), LinkState::Hello);
    let early = message(Kind::Credit, 0, 1, b"{}");
    assert_eq!(link.receive(&early), Err(LinkError::BeforeHello));
    let hello = message(Kind::Hello, 0, 0, BACKEND_HELLO.as_bytes());
    assert_eq!(link.receive(&hello), Ok(Inbound::Ready));
    assert_eq!(link.state(), LinkState::Open);
}

#[test]
fn endpoint_indices_are_appended_and_never_reused() {
    let mut link = open_link();
    let grown = [(Method::Post, "/new", 0), (Method::Post, "/demo/echo", 0)];
    assert_eq!(link.adopt(&snapshot(&grown), ServiceId(0)), Announcement::Needed);
    assert_eq!(link.endpoint(EndpointId(0)), Some(1));
    assert_eq!(link.endpoint(EndpointId(1)), Some(0));
    let shrunk = [(Method::Post, "/other", 1), (Method::Post, "/new", 0)];
    assert_eq!(link.adopt(&snapshot(&shrunk), ServiceId(0)), Announcement::Unchanged);
    assert_eq!(link.endpoint(EndpointId(0)), None);
    assert_eq!(link.endpoint(EndpointId(1)), Some(1));
    assert_eq!(link.endpoint(EndpointId(2)), None);
}

#[test]
fn a_session_is_opened_before_its_first_data_and_closed_when_it_ends() {
    let mut link = open_link();
    let anna = identity(5);
    let mut out = buffer();
    link.call(&client(&anna), data(b"one"), 1, START, &mut out).expect("may go");
    link.post(&client(&anna), data(b"two"), &mut out).expect("may go");
    link.end_session(anna.session, owner(6), "other connection", &mut out).expect("room");
    link.end_session(anna.session, owner(5), "gone", &mut out).expect("room");
    link.end_session(anna.session, owner(5), "gone", &mut out).expect("room");
    let messages = sent_messages(&mut out);
    let kinds: Vec<_> = messages.iter().map(|(p, _)| (p.kind, p.tag, p.session.0)).collect();
    assert_eq!(
        kinds,
        [(Kind::Open, 0, 5), (Kind::Data, 1, 5), (Kind::Data, 0, 5), (Kind::Close, 0, 5)]
    );
    assert_eq!(
        text(&messages[0].1),
        r#"{"account":"anna \"a\"","roles":["admin","user"],"tenant":"default","peer":"192.0.2.9:40000"}"#
    );
    assert_eq!(text(&messages[3].1), r#"{"reason":"gone"}"#);
}

#[test]
fn another_connection_of_the_session_is_opened_anew() {
    let mut link = open_link();
    let anna = identity(5);
    let old = call(&mut link, &anna, 1, &[0; 90]);
    let mut out = buffer();
    let taken_over = Client { owner: owner(8), ..client(&anna) };
    link.post(&taken_over, data(&[0; 90]), &mut out).expect("a new window");
    let kinds: Vec<_> = sent_messages(&mut out).iter().map(|(p, _)| p.kind).collect();
    assert_eq!(kinds, [Kind::Close, Kind::Open, Kind::Data]);
    let reply = message(Kind::Data, old, 5, &answer(0, b""));
    assert!(matches!(link.receive(&reply), Ok(Inbound::Answer { call: 1, .. })));
    assert!(
        !link.has_credit(anna.session, owner(8), 90),
        "the answer to the old opening gave credit to the new one"
    );
}

#[test]
fn an_answer_finds_its_call_once_and_only_under_its_session() {
    let mut link = open_link();
    let tag = call(&mut link, &identity(5), 77, b"request");
    let unknown = Ok(Inbound::Dropped(Dropped::UnknownTag));
    assert_eq!(link.receive(&message(Kind::Data, tag, 6, &answer(0, b""))), unknown);
    let reply = message(Kind::Data, tag, 5, &answer(0, b"payload"));
    let Ok(Inbound::Answer { call: 77, code: 0, frame }) = link.receive(&reply) else {
        panic!("an answer");
    };
    assert_eq!(reply[frame], answer(0, b"payload"));
    assert_eq!(link.receive(&reply), unknown);
}

#[test]
fn answers_are_checked_and_errors_lose_their_payload() {
    let mut link = open_link();
    let anna = identity(5);
    let mut outcome = |frame: &[u8]| {
        let tag = call(&mut link, &anna, 1, b"r");
        link.receive(&message(Kind::Data, tag, 5, frame)).expect("harmless")
    };
    let failed = Inbound::Answer { call: 1, code: 51, frame: 24..40 };
    assert_eq!(outcome(&answer(51, b"why")), failed);
    let bad = Inbound::BadAnswer { call: 1 };
    assert_eq!(outcome(&answer(12, b"")), bad);
    assert_eq!(outcome(&answer(0, b"")[..15]), bad);
    assert_eq!(outcome(&[0; 31]), bad);
}

#[test]
fn a_used_up_window_stops_its_own_session_alone() {
    let mut link = open_link();
    let (anna, bert) = (identity(5), identity(6));
    let tag = call(&mut link, &anna, 1, &[0; 60]);
    let mut out = buffer();
    assert!(!link.has_credit(anna.session, owner(5), 41));
    assert_eq!(link.post(&client(&anna), data(&[0; 41]), &mut out), Err(NotSent::NoCredit));
    link.post(&client(&anna), data(&[0; 40]), &mut out).expect("fits");
    assert_eq!(link.post(&client(&anna), data(&[]), &mut out), Err(NotSent::NoCredit));
    link.post(&client(&bert), data(&[0; 500]), &mut out).expect("larger, but untouched");

    link.receive(&message(Kind::Data, tag, 5, &answer(0, b""))).expect("an answer");
    assert!(link.has_credit(anna.session, owner(5), 60));
    assert!(!link.has_credit(anna.session, owner(5), 61), "the post is not given back");
    let grant = message(Kind::Credit, 0, 5, br#"{"messages":1,"bytes":40}"#);
    assert_eq!(link.receive(&grant), Ok(Inbound::Credit { owner: owner(5) }));
    assert!(link.has_credit(anna.session, owner(5), 5000));
}

#[test]
fn a_push_needs_an_open_session_a_window_and_a_header() {
    let mut link = open_link();
    let anna = identity(5);
    let event = |len: usize| [&[0x10][..], &vec![0; len - 1]].concat();
    let dropped = |why| Ok(Inbound::Dropped(why));
    let push = message(Kind::Data, 0, 5, &event(31));
    assert_eq!(link.receive(&push), dropped(Dropped::UnknownSession));
    call(&mut link, &anna, 1, b"r");
    let expected =
        |kind| Ok(Inbound::Push { owner: owner(5), session: anna.session, kind, frame: 24..55 });
    assert_eq!(link.receive(&push), expected(Push::Event));
    let mut rpc = push.clone();
    rpc[24] = 0x01;
    assert_eq!(link.receive(&rpc), expected(Push::Rpc));
    for flags in [0x00, 0x40, 0x50, 0x30, 0x90] {
        let mut link = open_link();
        call(&mut link, &anna, 1, b"r");
        rpc[24] = flags;
        assert_eq!(link.receive(&rpc), dropped(Dropped::MalformedPush), "{flags:#x}");
    }
    let short = message(Kind::Data, 0, 5, &event(30));
    assert_eq!(link.receive(&short), dropped(Dropped::MalformedPush));
    assert!(link.receive(&push).is_ok());
    assert_eq!(link.receive(&push), dropped(Dropped::PushWithoutCredit));
}

#[test]
fn pushes_are_given_back_by_half_windows() {
    let mut link = open_link();
    call(&mut link, &identity(5), 1, b"r");
    let event = [&[0x10][..], &[0; 99]].concat();
    let mut out = buffer();
    for round in 0..20 {
        let push = message(Kind::Data, 0, 5, &event);
        assert!(matches!(link.receive(&push), Ok(Inbound::Push { .. })), "{round}");
        link.handled(SessionId(5), event.len(), &mut out);
    }
    let grants = sent_messages(&mut out);
    assert_eq!(grants.len(), 10);
    assert_eq!(grants[0].0, Prefix::of(Kind::Credit, SessionId(5)));
    assert_eq!(text(&grants[0].1), r#"{"messages":2,"bytes":200}"#);
}

#[test]
fn a_session_that_the_backend_forgot_is_opened_again() {
    let mut link = open_link();
    let anna = identity(5);
    call(&mut link, &anna, 1, b"r");
    let forget = message(Kind::Close, 0, 5, br#"{"reason":"restart"}"#);
    assert_eq!(link.receive(&forget), Ok(Inbound::Forgotten { owner: owner(5) }));
    assert_eq!(link.receive(&forget), Ok(Inbound::Dropped(Dropped::UnknownSession)));
    let mut out = buffer();
    link.post(&client(&anna), data(b"r"), &mut out).expect("may go");
    assert_eq!(sent_messages(&mut out)[0].0.kind, Kind::Open);
}

#[test]
fn a_link_that_goes_away_takes_no_new_session() {
    for ours in [false, true] {
        let mut link = open_link();
        let tag = call(&mut link, &identity(5), 1, b"r");
        let mut out = buffer();
        let within = Some(Duration::from_secs(3));
        if ours {
            link.go_away(Duration::from_secs(3), &mut out).expect("room");
            let (prefix, body) = sent_messages(&mut out).remove(0);
            assert_eq!(prefix, Prefix::of(Kind::GoAway, SessionId(0)));
            assert_eq!(text(&body), r#"{"deadlineMs":3000}"#);
        } else {
            let goaway = message(Kind::GoAway, 0, 0, br#"{"deadlineMs":3000}"#);
            assert_eq!(link.receive(&goaway), Ok(Inbound::GoAway { within }));
        }
        assert_eq!(link.state(), LinkState::GoingAway);
        let refused = link.post(&client(&identity(6)), data(b"x"), &mut out);
        assert_eq!(refused, Err(NotSent::GoingAway));
        link.post(&client(&identity(5)), data(b"x"), &mut out).expect("open sessions go on");
        let reply = message(Kind::Data, tag, 5, &answer(0, b""));
        assert!(matches!(link.receive(&reply), Ok(Inbound::Answer { .. })));
    }
}

#[test]
fn messages_that_break_the_protocol_end_the_link_with_1002() {
    let cases: [(Vec<u8>, LinkError); 4] = [
        (vec![4; 23], LinkError::Short),
        (message(Kind::Open, 0, 5, b"{}"), LinkError::UnknownKind),
        (message(Kind::Credit, 0, 5, b"[]"), LinkError::BadBody),
        (message(Kind::GoAway, 0, 5, b""), LinkError::BadBody),
    ];
    for (bytes, error) in cases {
        assert_eq!(open_link().receive(&bytes), Err(error));
        assert_eq!(error.close_code(), Some(1002));
    }
    let hello = message(Kind::Hello, 0, 0, br#"{"version":9}"#);
    assert_eq!(link_awaiting_hello().receive(&hello), Err(LinkError::NoCommonVersion));
    assert_eq!(LinkError::NoCommonVersion.close_code(), Some(1008));
}

#[test]
fn a_backend_that_is_late_or_silent_is_given_up() {
    let mut out = buffer();
    let mut dialling = Link::<u32>::new(LIMITS, 1, START);
    let due = dialling.next_deadline().expect("dialling");
    assert_eq!(due, START + LIMITS.dial_timeout);
    assert_eq!(dialling.on_timer(Instant(due.0 - 1), &mut out), Ok(()));
    assert_eq!(dialling.on_timer(due, &mut out), Err(LinkError::DialTimeout));

    let mut awaiting = link_awaiting_hello();
    let due = awaiting.next_deadline().expect("awaiting");
    assert_eq!(due, START + HELLO_TIMEOUT);
    assert_eq!(awaiting.on_timer(due, &mut out), Err(LinkError::HelloTimeout));

    let mut link = open_link();
    for _ in 0..3 {
        let due = link.next_deadline().expect("open");
        assert_eq!(link.on_timer(due, &mut out), Ok(()));
        assert_eq!(sent(&mut out), [Message::Ping(bytes::Bytes::new())]);
        link.heard();
        assert_eq!(link.next_deadline(), Some(due + LIMITS.ping_interval));
    }
    let due = link.next_deadline().expect("open");
    assert_eq!(link.on_timer(due, &mut out), Ok(()));
    let due = link.next_deadline().expect("open");
    assert_eq!(link.on_timer(due, &mut out), Err(LinkError::Silent));
}

#[test]
fn a_call_that_times_out_gives_its_credit_back_and_its_late_answer_is_dropped() {
    let mut link = open_link();
    let anna = identity(5);
    let mut out = buffer();
    for (number, after) in [(1, 3), (2, 4)] {
        let deadline = START + Duration::from_secs(after);
        link.call(&client(&anna), data(b"r"), number, deadline, &mut out).expect("may go");
    }
    assert!(!link.has_credit(anna.session, owner(5), 1));
    assert_eq!(link.next_deadline(), Some(START + Duration::from_secs(3)));
    let now = START + Duration::from_secs(3);
    assert_eq!((link.expire(now), link.expire(now)), (Some(1), None));
    assert!(link.has_credit(anna.session, owner(5), 1));
    let late = message(Kind::Data, 1, 5, &answer(0, b""));
    assert_eq!(link.receive(&late), Ok(Inbound::Dropped(Dropped::UnknownTag)));
}

#[test]
fn a_lost_link_hands_back_every_call() {
    let mut link = open_link();
    for session in 1..=50 {
        call(&mut link, &identity(session), session as u32, b"r");
    }
    let mut out = buffer();
    link.close(1002, "why", &mut out).expect("room");
    assert!(matches!(&sent(&mut out)[..], [Message::Close(Some(_))]));
    let lost: Vec<_> = std::iter::from_fn(|| link.pop_lost()).collect();
    assert_eq!(lost, (1..=50).collect::<Vec<_>>());
    assert_eq!((link.outstanding(), link.sessions(), link.next_deadline()), (0, 0, None));
}

#[test]
fn what_finds_no_room_is_sent_later() {
    let mut link = open_link();
    let anna = identity(5);
    call(&mut link, &anna, 1, b"r");
    let mut full = Vec::with_capacity(10);
    let no_room = Err(NotSent::NoRoom);
    assert_eq!(link.write_hello(GATEWAY, &mut full), no_room);
    assert_eq!(link.go_away(Duration::from_secs(1), &mut full), no_room);
    assert_eq!(link.end_session(anna.session, owner(5), "gone", &mut full), no_room);
    assert_eq!(link.pong(&[0; 5], &mut full), no_room);
    assert!(full.is_empty());
    assert_eq!((link.state(), link.sessions()), (LinkState::Open, 1));

    let event = [&[0x10][..], &[0; 599]].concat();
    let push = message(Kind::Data, 0, 5, &event);
    assert!(matches!(link.receive(&push), Ok(Inbound::Push { .. })));
    link.handled(anna.session, event.len(), &mut full);
    assert!(full.is_empty());
    let mut out = buffer();
    link.handled(anna.session, 0, &mut out);
    assert_eq!(text(&sent_messages(&mut out)[0].1), r#"{"messages":1,"bytes":600}"#);
}

/// Has room until something is written: a batch takes more of a pool than what it is begun for.
struct Once(Vec<u8>);

impl SendBuffer for Once {
    fn room(&self) -> usize {
        if self.0.is_empty() { 1000 } else { 0 }
    }

    fn reserve(&mut self, len: usize) -> &mut [u8] {
        self.0.resize(len, 0);
        &mut self.0
    }
}

#[test]
fn a_call_whose_opening_took_the_room_is_not_under_way() {
    let mut link = open_link();
    let who = identity(1);
    let sent = link.call(&client(&who), data(b"call"), 1, START, &mut Once(Vec::new()));
    assert_eq!(sent, Err(NotSent::NoRoom));
    assert_eq!((link.outstanding(), link.expire(START)), (0, None));
    // Nor has it used up credit: two may go.
    call(&mut link, &who, 2, b"call");
    call(&mut link, &who, 3, b"call");
}

#[test]
fn calls_beyond_the_bound_get_no_tag() {
    let mut link = open_link();
    let mut out = buffer();
    for session in 0..LIMITS.calls_max {
        call(&mut link, &identity(session as u128), 0, b"r");
    }
    let refused = link.call(&client(&identity(1)), data(b"r"), 0, START, &mut out);
    assert_eq!(refused, Err(NotSent::NoTag));
    assert!(out.is_empty());
}

#[test]
fn a_traced_call_carries_its_context_before_the_body() {
    let mut link = open_link();
    let trace = Trace { trace: 0xA1, span: 0xB2, flags: 1 };
    let mut out = buffer();
    let traced = Data { trace: Some(trace), ..data(b"frame") };
    link.post(&client(&identity(5)), traced, &mut out).expect("may go");
    let messages: Vec<_> = sent(&mut out).into_iter().map(Message::into_data).collect();
    let open = text(&messages[0][PREFIX_LEN..]).to_owned();
    let parent = "00-000000000000000000000000000000a1-00000000000000b2-01";
    assert!(open.contains(&format!(r#""traceparent":"{parent}""#)), "{open}");
    assert_eq!(messages[1][1], 1);
    assert_eq!(messages[1][24..49], trace.to_bytes());
    assert_eq!(&messages[1][49..], b"frame");
}

proptest! {
    #[test]
    fn without_room_nothing_is_written_and_nothing_has_changed(
        room in 0..400usize, opened: bool, frame in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut link = open_link();
        let anna = identity(5);
        if opened {
            call(&mut link, &anna, 1, b"r");
        }
        let (sessions, outstanding) = (link.sessions(), link.outstanding());
        let mut tight = Vec::with_capacity(room);
        match link.call(&client(&anna), data(&frame), 2, START, &mut tight) {
            Ok(()) => prop_assert_eq!(sent_messages(&mut tight).len(), 2 - usize::from(opened)),
            Err(error) => {
                prop_assert_eq!(error, NotSent::NoRoom);
                prop_assert!(tight.is_empty());
                prop_assert_eq!((link.sessions(), link.outstanding()), (sessions, outstanding));
                call(&mut link, &anna, 2, &frame);
            }
        }
    }

    #[test]
    fn frames_of_every_length_are_read_by_an_independent_server(
        len in prop_oneof![0..300usize, 65_400..65_700usize], split in any::<prop::sample::Index>(),
    ) {
        let mut link = open_link();
        let frame: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let (front, rest) = frame.split_at(split.index(len + 1));
        let mut out = buffer();
        let two = Data { frame: [front, rest], ..data(&[]) };
        link.post(&client(&identity(5)), two, &mut out).expect("may go");
        prop_assert_eq!(&sent_messages(&mut out)[1].1, &frame);
    }

    #[test]
    fn no_message_from_a_backend_panics(
        kind in 0..8u8, flags in 0..3u8, tag in 0..3u32, session in 4..7u128,
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "[{}\\[\\]\":,a0-9credit]{0,40}".prop_map(String::into_bytes),
        ],
        cut in 0..100usize,
    ) {
        let mut link = open_link();
        call(&mut link, &identity(5), 1, b"r");
        let mut bytes = message(Kind::Data, tag, session, &body);
        bytes[0] = kind;
        bytes[1] = flags;
        bytes.truncate(cut);
        let len = bytes.len();
        if let Ok(Inbound::Answer { frame, .. } | Inbound::Push { frame, .. }) = link.receive(&bytes) {
            prop_assert!(frame.start >= PREFIX_LEN && frame.end <= len);
        }
    }
}
