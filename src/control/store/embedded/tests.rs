//! Claims, takeovers, resumes and ends; `model` tries the interleavings of claims.

use std::net::IpAddr;
use std::time::Duration;

use corelane_shard::id::{ConnectionKey, Generation, ShardId, Slot};
use corelane_shard::identity::{Standing, UnixSeconds};

use super::*;

mod model;

const ALICE: SessionId = SessionId(1);
const BOB: SessionId = SessionId(2);

/// For the model, between whose steps nothing waits to be told.
impl Clone for EmbeddedStore {
    fn clone(&self) -> Self {
        assert!(self.decided.is_empty(), "a decision was not taken");
        Self {
            rules: self.rules,
            admission: self.admission,
            keys: self.keys.clone(),
            records: self.records.clone(),
            live: self.live,
            waiting: self.waiting,
            ends: self.ends.clone(),
            previous: self.previous.clone(),
            addresses: self.addresses.clone(),
            revocations: self.revocations.clone(),
            decided: VecDeque::new(),
            retired: self.retired,
        }
    }
}

fn rules(sessions_max: usize) -> StoreRules {
    StoreRules {
        sessions_max,
        window: Duration::from_secs(300),
        extension: Duration::from_secs(60),
        revocation_life: Duration::from_secs(86_400),
        per_address_max: None,
        per_account_max: None,
    }
}

fn store(sessions_max: usize) -> EmbeddedStore {
    EmbeddedStore::new("salt", rules(sessions_max))
}

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { slot: Slot(slot), generation: Generation(7) }
}

/// Seconds after the start, which was at 1 000 000 s of Unix time.
fn at(seconds: u64) -> Now {
    Now { mono: Instant(seconds * 1_000_000_000), unix_ms: (1_000_000 + seconds) * 1000 }
}

fn identity(session: SessionId, account: &str, issued_at: u64) -> Identity {
    let standing = Standing {
        tenant: "default".into(),
        roles: [Box::from("user")].into(),
        authorizations: Box::default(),
    };
    Identity {
        session,
        account: Some(account.into()),
        standing: Arc::new(standing),
        expires_at: None,
        issued_at: UnixSeconds::new(issued_at),
    }
}

fn token(session: SessionId, account: &str, issued_at: u64) -> Credential {
    Credential::Token(Arc::new(identity(session, account, issued_at)))
}

fn ask(
    store: &mut EmbeddedStore,
    key: ConnectionKey,
    credential: Credential,
    now: Now,
) -> Decision {
    let claim = Box::new(Claim { credential, peer: Some(IpAddr::from([192, 0, 2, 1])) });
    store.claim(Claimed { shard: ShardId(0), key, claim }, None, now);
    store.decided().expect("a claim is decided at once")
}

fn claim(
    store: &mut EmbeddedStore,
    shard: ShardId,
    key: ConnectionKey,
    session: SessionId,
    unix_ms: u64,
) -> Decision {
    let claim = Box::new(Claim { credential: token(session, "anna", 0), peer: None });
    store.claim(Claimed { shard, key, claim }, None, Now { mono: Instant(0), unix_ms });
    store.decided().expect("a claim is decided at once")
}

fn granted(decision: &Decision) -> Epoch {
    match decision.answer {
        ToShard::Granted { epoch, .. } => epoch,
        ref other => panic!("not granted: {other:?}"),
    }
}

fn refusal(decision: &Decision) -> Option<ClaimRefusal> {
    match decision.answer {
        ToShard::Refused { why, .. } => Some(why),
        _ => None,
    }
}

fn owner(store: &EmbeddedStore, session: SessionId) -> Option<Owner> {
    store.known(session).and_then(|known| known.owner)
}

/// Opens a session with a token and says who owns it.
fn open(store: &mut EmbeddedStore, slot: u32, session: SessionId, now: Now) -> Owner {
    let decision = ask(store, key(slot), token(session, "anna", now.unix_ms / 1000), now);
    let owner = Owner { shard: ShardId(0), key: key(slot), epoch: granted(&decision) };
    assert_eq!(store.opened(session, owner), Opened::ByToken);
    owner
}

/// Comes back with the reconnect token of `epoch`.
fn reconnect(
    store: &mut EmbeddedStore,
    slot: u32,
    session: SessionId,
    epoch: Epoch,
    now: Now,
) -> Decision {
    let keys = ReconnectKeys::from_salt("salt");
    let token = keys.token(session, epoch);
    let (session, seal) = keys.read(str::from_utf8(&token).unwrap()).unwrap();
    ask(store, key(slot), Credential::Reconnect { session, seal }, now)
}

#[test]
fn the_newest_claim_wins_and_the_old_owner_is_told() {
    let mut store = store(10);
    let first = granted(&claim(&mut store, ShardId(0), key(1), ALICE, 1000));
    let second = claim(&mut store, ShardId(1), key(2), ALICE, 2000);
    let Some((ShardId(0), ToShard::Evict { key: evicted, epoch })) = second.evict else {
        panic!("no eviction: {:?}", second.evict);
    };
    assert_eq!((evicted, epoch), (key(1), first));
    let expected = Owner { shard: ShardId(1), key: key(2), epoch: granted(&second) };
    assert_eq!(owner(&store, ALICE), Some(expected));
}

#[test]
fn epochs_grow_when_the_clock_stands_still_or_goes_back() {
    let mut store = store(10);
    let first = granted(&claim(&mut store, ShardId(0), key(1), ALICE, 1000));
    let second = granted(&claim(&mut store, ShardId(0), key(2), ALICE, 1000));
    let third = granted(&claim(&mut store, ShardId(0), key(3), ALICE, 10));
    assert_eq!((first, second, third), (Epoch(1000), Epoch(1001), Epoch(1002)));
    store.end(ALICE, None, at(0));
    let owner = Owner { shard: ShardId(0), key: key(3), epoch: third };
    assert_eq!(store.release(ALICE, owner, End::Final, None, at(0)), Released::Over);
    let stopped = Now { mono: Instant(0), unix_ms: 10 };
    let fourth = ask(&mut store, key(4), token(BOB, "b", 0), stopped);
    assert_eq!(granted(&fourth), Epoch(1003));
}

#[test]
fn a_release_of_an_older_epoch_changes_nothing() {
    let mut store = store(10);
    let first = granted(&claim(&mut store, ShardId(0), key(1), ALICE, 1000));
    let second = granted(&claim(&mut store, ShardId(1), key(2), ALICE, 1000));
    let old = Owner { shard: ShardId(0), key: key(1), epoch: first };
    assert_eq!(store.release(ALICE, old, End::Resumable, None, at(0)), Released::Ignored);
    assert_eq!(store.opened(ALICE, old), Opened::Ignored);
    let newest = Owner { shard: ShardId(1), key: key(2), epoch: second };
    assert_eq!(owner(&store, ALICE), Some(newest));
    assert_eq!(store.opened(ALICE, newest), Opened::ByToken);
    assert_eq!(store.release(ALICE, newest, End::Resumable, None, at(0)), Released::Waits);
    assert_eq!((store.live(), store.waiting()), (0, 1));
    assert_eq!(store.release(ALICE, newest, End::Resumable, None, at(0)), Released::Ignored);
}

#[test]
fn a_full_store_refuses_newcomers_and_lets_takeovers_pass() {
    let mut store = store(1);
    granted(&claim(&mut store, ShardId(0), key(1), ALICE, 1000));
    let bob = claim(&mut store, ShardId(0), key(2), BOB, 1000);
    assert_eq!(refusal(&bob), Some(ClaimRefusal::Full));
    assert!(bob.evict.is_none());
    granted(&claim(&mut store, ShardId(1), key(3), ALICE, 1000));
    assert_eq!(store.live(), 1);
}

#[test]
fn a_draining_store_refuses_everyone_and_evicts_nobody() {
    let mut store = store(10);
    granted(&claim(&mut store, ShardId(0), key(1), ALICE, 1000));
    store.admit(Admission::Draining);
    for session in [ALICE, BOB] {
        let outcome = claim(&mut store, ShardId(1), key(2), session, 1000);
        assert_eq!(refusal(&outcome), Some(ClaimRefusal::Draining));
        assert!(outcome.evict.is_none());
    }
    assert_eq!(owner(&store, ALICE).map(|owner| owner.key), Some(key(1)));
}

#[test]
fn a_connection_that_claims_twice_does_not_evict_itself() {
    let mut store = store(10);
    granted(&claim(&mut store, ShardId(0), key(1), ALICE, 1000));
    assert!(claim(&mut store, ShardId(0), key(1), ALICE, 1000).evict.is_none());
}

#[test]
fn a_session_is_taken_up_within_its_window_and_its_token_is_good_once() {
    let mut store = store(10);
    let first = open(&mut store, 1, ALICE, at(0));
    store.release(ALICE, first, End::Resumable, None, at(10));
    let late = reconnect(&mut store, 2, ALICE, first.epoch, at(310));
    assert_eq!(refusal(&late), Some(ClaimRefusal::Unknown), "the window is 300 s");
    let decision = reconnect(&mut store, 2, ALICE, first.epoch, at(309));
    let epoch = granted(&decision);
    let ToShard::Granted { resumed: Resumed::Session(Some(who)), .. } = decision.answer else {
        panic!("{:?}", decision.answer);
    };
    assert_eq!(who.account, Some("anna".into()));
    let second = Owner { shard: ShardId(0), key: key(2), epoch };
    assert_eq!(store.opened(ALICE, second), Opened::ByReconnect);
    // Good again until the client is known to have the new one.
    store.token_received(ALICE, epoch);
    let again = reconnect(&mut store, 3, ALICE, first.epoch, at(311));
    assert_eq!(refusal(&again), Some(ClaimRefusal::Unknown));
    granted(&reconnect(&mut store, 3, ALICE, epoch, at(312)));
}

#[test]
fn the_token_that_a_client_has_stays_good_until_it_has_the_next() {
    let mut store = store(10);
    let first = open(&mut store, 1, ALICE, at(0)).epoch;
    // Twice taken over; the client never heard of the tokens in between.
    let second = granted(&reconnect(&mut store, 2, ALICE, first, at(1)));
    let third = granted(&reconnect(&mut store, 3, ALICE, first, at(2)));
    let unused = reconnect(&mut store, 4, ALICE, second, at(3));
    assert_eq!(refusal(&unused), Some(ClaimRefusal::Unknown), "neither current nor previous");
    let fourth = granted(&reconnect(&mut store, 4, ALICE, third, at(4)));
    let older = reconnect(&mut store, 5, ALICE, first, at(5));
    assert_eq!(refusal(&older), Some(ClaimRefusal::Unknown), "using the third made it void");
    assert!(fourth > third);
}

#[test]
fn a_failed_reconnect_evicts_nobody() {
    let mut store = store(10);
    let live = open(&mut store, 1, ALICE, at(0));
    let forged = reconnect(&mut store, 2, ALICE, Epoch(7), at(1));
    assert_eq!(refusal(&forged), Some(ClaimRefusal::Unknown));
    assert!(forged.evict.is_none());
    assert_eq!(owner(&store, ALICE), Some(live));
    let stranger = reconnect(&mut store, 2, BOB, live.epoch, at(1));
    assert_eq!(refusal(&stranger), Some(ClaimRefusal::Unknown));
}

#[test]
fn a_token_of_another_account_or_tenant_does_not_get_the_session() {
    let mut store = store(10);
    let live = open(&mut store, 1, ALICE, at(0));
    let other_account = token(ALICE, "bert", 2_000_000);
    let mut foreign = identity(ALICE, "anna", 2_000_000);
    foreign.standing =
        Arc::new(Standing { tenant: "other".into(), ..Standing::clone(&foreign.standing) });
    for credential in [other_account, Credential::Token(Arc::new(foreign))] {
        let decision = ask(&mut store, key(2), credential, at(1));
        assert_eq!(refusal(&decision), Some(ClaimRefusal::Mismatch));
    }
    assert_eq!(owner(&store, ALICE), Some(live));
}

#[test]
fn an_ended_session_stays_ended_for_every_token_made_before() {
    let mut store = store(10);
    let live = open(&mut store, 1, ALICE, at(0));
    assert_eq!(store.end(ALICE, None, at(5)), Ended::Live(live));
    assert_eq!(store.end(ALICE, None, at(5)), Ended::Unknown, "it is ending already");
    let early = reconnect(&mut store, 2, ALICE, live.epoch, at(6));
    assert_eq!(refusal(&early), Some(ClaimRefusal::Unknown));
    assert_eq!(store.release(ALICE, live, End::Resumable, None, at(6)), Released::Over);
    let ask_with = |store: &mut EmbeddedStore, issued_at| {
        ask(store, key(3), token(ALICE, "anna", issued_at), at(7))
    };
    assert_eq!(refusal(&ask_with(&mut store, 1_000_005)), Some(ClaimRefusal::Revoked));
    granted(&ask_with(&mut store, 1_000_006));

    let mut store = self::store(10);
    let live = open(&mut store, 1, BOB, at(0));
    store.release(BOB, live, End::Resumable, None, at(1));
    assert_eq!(store.end(BOB, None, at(2)), Ended::Waiting);
    assert!(store.known(BOB).is_none());
    assert_eq!(store.end(BOB, None, at(2)), Ended::Unknown);
}

#[test]
fn a_token_that_finds_the_gateway_full_is_not_used_up() {
    let mut store = store(1);
    let alice = open(&mut store, 1, ALICE, at(0));
    store.release(ALICE, alice, End::Resumable, None, at(1));
    let bob = open(&mut store, 2, BOB, at(2));
    let full = reconnect(&mut store, 3, ALICE, alice.epoch, at(3));
    assert_eq!(refusal(&full), Some(ClaimRefusal::Full));
    store.release(BOB, bob, End::Final, None, at(4));
    granted(&reconnect(&mut store, 3, ALICE, alice.epoch, at(5)));
}

#[test]
fn a_revocation_is_forgotten_when_no_token_from_before_it_can_be_alive() {
    let mut store = store(10);
    let live = open(&mut store, 1, ALICE, at(0));
    store.end(ALICE, None, at(5));
    store.release(ALICE, live, End::Final, None, at(5));
    let ask_at = |store: &mut EmbeddedStore, seconds| {
        store.expire(at(seconds), &mut |_| {});
        ask(store, key(2), token(ALICE, "anna", 1_000_001), at(seconds))
    };
    assert_eq!(refusal(&ask_at(&mut store, 86_404)), Some(ClaimRefusal::Revoked));
    granted(&ask_at(&mut store, 86_406));
    assert!(store.revocations.is_empty());
}

#[test]
fn what_waits_is_forgotten_after_window_and_extension() {
    let mut store = store(10);
    let live = open(&mut store, 1, ALICE, at(0));
    store.release(ALICE, live, End::Resumable, None, at(10));
    let mut forgotten = Vec::new();
    store.expire(at(369), &mut |session| forgotten.push(session));
    assert_eq!(forgotten, []);
    // A session that came back does not wait any more.
    let back = open(&mut store, 2, ALICE, at(369));
    store.expire(at(370), &mut |session| forgotten.push(session));
    assert_eq!((forgotten.len(), owner(&store, ALICE)), (0, Some(back)));
    store.release(ALICE, back, End::Resumable, None, at(400));
    store.expire(at(760), &mut |session| forgotten.push(session));
    assert_eq!(forgotten, [ALICE]);
    assert!(store.known(ALICE).is_none());
}

#[test]
fn more_than_may_be_open_may_not_wait() {
    let mut store = store(2);
    for n in 0..5_u32 {
        let session = SessionId(n.into());
        let live = open(&mut store, n, session, at(n.into()));
        store.release(session, live, End::Resumable, None, at(n.into()));
    }
    let mut forgotten = Vec::new();
    store.expire(at(5), &mut |session| forgotten.push(session));
    assert_eq!(forgotten, [0, 1, 2].map(SessionId));
    assert_eq!(store.waiting(), 2);
}

#[test]
fn a_session_that_was_never_opened_leaves_as_it_came() {
    let mut store = store(10);
    let epoch = granted(&claim(&mut store, ShardId(0), key(1), ALICE, 1000));
    let gone = Owner { shard: ShardId(0), key: key(1), epoch };
    assert_eq!(store.release(ALICE, gone, End::Resumable, None, at(0)), Released::Unopened);
    assert!(store.known(ALICE).is_none());

    let first = open(&mut store, 1, ALICE, at(0));
    store.release(ALICE, first, End::Resumable, None, at(1));
    let epoch = granted(&reconnect(&mut store, 2, ALICE, first.epoch, at(2)));
    let gone = Owner { shard: ShardId(0), key: key(2), epoch };
    assert_eq!(store.release(ALICE, gone, End::Resumable, None, at(3)), Released::Unopened);
    granted(&reconnect(&mut store, 3, ALICE, first.epoch, at(4)));
}

#[test]
fn addresses_and_accounts_have_their_bounds_and_takeovers_pass() {
    let mut store = EmbeddedStore::new(
        "salt",
        StoreRules { per_address_max: Some(2), per_account_max: Some(1), ..rules(10) },
    );
    let token = |session, account: &str| token(SessionId(session), account, 0);
    let first = ask(&mut store, key(1), token(1, "a"), at(0));
    let second = ask(&mut store, key(2), token(2, "a"), at(0));
    assert_eq!(refusal(&second), Some(ClaimRefusal::TooMany), "one of an account");
    granted(&ask(&mut store, key(3), token(3, "b"), at(0)));
    let third = ask(&mut store, key(4), token(4, "c"), at(0));
    assert_eq!(refusal(&third), Some(ClaimRefusal::TooMany), "two of an address");
    let again = granted(&ask(&mut store, key(5), token(1, "a"), at(0)));
    assert!(again > granted(&first));
    let owner = Owner { shard: ShardId(0), key: key(5), epoch: again };
    store.opened(SessionId(1), owner);
    store.release(SessionId(1), owner, End::Resumable, None, at(1));
    granted(&ask(&mut store, key(6), token(4, "c"), at(1)));
}

#[test]
fn the_sessions_of_an_account_are_found() {
    let mut store = store(100);
    let account = |n: u32| format!("account-{}", n % 7);
    for n in 0..50 {
        ask(&mut store, key(n), token(SessionId(n.into()), &account(n), 0), at(0));
    }
    for n in (0..50).step_by(3) {
        store.end(SessionId(n), None, at(0));
        let owner = owner(&store, SessionId(n)).unwrap();
        store.release(SessionId(n), owner, End::Final, None, at(0));
    }
    for wanted in 0..7 {
        let mut found = Vec::new();
        store.of_account(&account(wanted), &mut |known| found.push(known.identity.session.0));
        found.sort_unstable();
        let expected: Vec<u128> =
            (0..50).filter(|n| n % 3 != 0 && *n as u32 % 7 == wanted).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn ipv6_addresses_are_counted_by_network() {
    let counted = |text: &str| counted_as(text.parse().unwrap());
    assert_eq!(counted("2001:db8::1"), counted("2001:db8::ffff:1"));
    assert_ne!(counted("2001:db8::1"), counted("2001:db8:0:1::1"));
    assert_eq!(counted("::ffff:192.0.2.1"), counted("192.0.2.1"));
    assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
}

#[test]
fn a_round_comes_to_every_live_session_and_to_none_twice() {
    let mut store = store(10);
    for session in 1..=7 {
        let owner = open(&mut store, session, SessionId(session.into()), at(1));
        if session % 3 == 0 {
            store.release(SessionId(session.into()), owner, End::Resumable, None, at(2));
        }
    }
    let mut next = 0;
    for _ in 0..3 {
        let mut seen = Vec::new();
        while seen.len() < store.live() {
            let found;
            (found, next) = store.live_from(next, 2.min(store.live() - seen.len()));
            assert!(!found.is_empty());
            seen.extend(found.into_iter().map(|(SessionId(session), _)| session));
        }
        assert_eq!(seen, [1, 2, 4, 5, 7]);
    }
    // Not even if more are wanted than there are.
    assert_eq!(store.live_from(next, 100).0.len(), 5);
}
