//! A backend that keeps count, against any history.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Call { session: u128, bytes: usize },
    Post { session: u128, bytes: usize },
    Answer { pick: usize },
    Grant { session: u128 },
    Forget { session: u128 },
    End { session: u128 },
    Push { session: u128, bytes: usize },
    Handle { session: u128 },
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![0..40usize, 0..40usize, Just(150)];
    (0..8u8, 1..4u128, size, any::<usize>()).prop_map(|(op, session, bytes, pick)| match op {
        0 | 1 => Op::Call { session, bytes },
        2 => Op::Post { session, bytes },
        3 => Op::Answer { pick },
        4 => Op::Grant { session },
        5 if pick % 4 == 0 => Op::Forget { session },
        5 => Op::End { session },
        6 => Op::Push { session, bytes: bytes.max(31) },
        _ => Op::Handle { session },
    })
}

/// A backend that follows docs/LINK.md and complains when the gateway does not.
#[derive(Default)]
struct Backend {
    open: std::collections::HashMap<u128, BackendSession>,
    /// Tag, session, opening, bytes.
    calls: Vec<(u32, u128, u32, usize)>,
    openings: u32,
}

#[derive(Default)]
struct BackendSession {
    opening: u32,
    under_way: Vec<usize>,
    posted: Vec<usize>,
    push_credit_used: (u32, u32),
}

impl Backend {
    fn take(&mut self, out: &mut Vec<u8>) {
        for (prefix, body) in sent_messages(out) {
            let session = prefix.session.0;
            match prefix.kind {
                Kind::Open => {
                    self.openings += 1;
                    let fresh = BackendSession { opening: self.openings, ..Default::default() };
                    assert!(self.open.insert(session, fresh).is_none(), "opened twice");
                }
                Kind::Close => assert!(self.open.remove(&session).is_some(), "closed twice"),
                Kind::Credit => {
                    let (messages, bytes) = body::parse_credit(&body).expect("well-formed");
                    let used = &mut self.open.get_mut(&session).expect("open").push_credit_used;
                    used.0 = used.0.checked_sub(messages).expect("given back once");
                    used.1 = used.1.checked_sub(bytes).expect("given back once");
                }
                Kind::Data => {
                    let open = self.open.get_mut(&session).expect("data only for open sessions");
                    open.under_way.push(body.len());
                    let bytes: usize = open.under_way.iter().sum();
                    let within = open.under_way.len() <= 2 && bytes <= 100;
                    assert!(within || open.under_way.len() == 1, "window exceeded");
                    if prefix.tag == 0 {
                        open.posted.push(body.len());
                    } else {
                        assert!(self.calls.iter().all(|c| c.0 != prefix.tag), "tag in use");
                        self.calls.push((prefix.tag, session, open.opening, body.len()));
                    }
                }
                Kind::Hello | Kind::GoAway => panic!("not sent here"),
            }
        }
    }

    fn return_credit(&mut self, session: u128, opening: u32, bytes: usize) {
        if let Some(open) = self.open.get_mut(&session).filter(|open| open.opening == opening) {
            let at = open.under_way.iter().position(|&b| b == bytes).expect("was under way");
            open.under_way.swap_remove(at);
        }
    }
}

proptest! {
    #[test]
    fn a_backend_that_counts_finds_windows_tags_and_openings_kept(
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut link = open_link();
        let mut backend = Backend::default();
        let mut out = buffer();
        let mut pushed: Vec<(u128, u32, usize)> = Vec::new();
        for op in ops {
            match op {
                Op::Call { session, bytes } => {
                    let who = identity(session);
                    let expected = link.has_credit(who.session, client(&who).owner, bytes);
                    let frame = vec![1; bytes];
                    let result = link.call(&client(&who), data(&frame), 0, START, &mut out);
                    prop_assert_eq!(result.is_ok(), expected);
                }
                Op::Post { session, bytes } => {
                    let frame = vec![1; bytes];
                    let _refused = link.post(&client(&identity(session)), data(&frame), &mut out);
                }
                Op::Answer { pick } if !backend.calls.is_empty() => {
                    let at = pick % backend.calls.len();
                    let (tag, session, opening, bytes) = backend.calls.swap_remove(at);
                    backend.return_credit(session, opening, bytes);
                    let reply = message(Kind::Data, tag, session, &answer(0, b""));
                    let answered = matches!(link.receive(&reply), Ok(Inbound::Answer { .. }));
                    prop_assert!(answered);
                }
                Op::Answer { .. } => {}
                Op::Grant { session } => {
                    let Some(open) = backend.open.get_mut(&session) else { continue };
                    let Some(bytes) = open.posted.pop() else { continue };
                    let opening = open.opening;
                    backend.return_credit(session, opening, bytes);
                    let grant = format!("{{\"messages\":1,\"bytes\":{bytes}}}");
                    let grant = message(Kind::Credit, 0, session, grant.as_bytes());
                    let granted = matches!(link.receive(&grant), Ok(Inbound::Credit { .. }));
                    prop_assert!(granted);
                }
                Op::Forget { session } => {
                    if backend.open.remove(&session).is_some() {
                        let forget = message(Kind::Close, 0, session, b"{}");
                        let gone = matches!(link.receive(&forget), Ok(Inbound::Forgotten { .. }));
                        prop_assert!(gone);
                    }
                }
                Op::End { session } => {
                    let owner = client(&identity(session)).owner;
                    link.end_session(SessionId(session), owner, "end", &mut out).expect("room");
                }
                Op::Push { session, bytes } => {
                    let Some(open) = backend.open.get_mut(&session) else { continue };
                    let used = &mut open.push_credit_used;
                    let fits = used.0 < 4 && used.1 + bytes as u32 <= 1000;
                    if !fits { continue }
                    *used = (used.0 + 1, used.1 + bytes as u32);
                    pushed.push((session, open.opening, bytes));
                    let frame = [&[0x10][..], &vec![0; bytes - 1]].concat();
                    let push = message(Kind::Data, 0, session, &frame);
                    let taken = matches!(link.receive(&push), Ok(Inbound::Push { .. }));
                    prop_assert!(taken, "a push within the window was refused");
                }
                Op::Handle { session } => {
                    let Some(open) = backend.open.get(&session) else { continue };
                    let own = |p: &(u128, u32, usize)| (p.0, p.1) == (session, open.opening);
                    let Some(at) = pushed.iter().position(own) else { continue };
                    let (_, _, bytes) = pushed.remove(at);
                    link.handled(SessionId(session), bytes, &mut out);
                }
            }
            backend.take(&mut out);
        }
    }
}
