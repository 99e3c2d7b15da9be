//! One node's session store, driven as the control core drives it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock, SystemTime, UNIX_EPOCH};

use corelane::control::bus::Position;
use corelane::control::redis::{self, Password, RedisProbe, RedisRules};
use corelane::control::store::{
    Before, Begin, Claimed, Decision, Lost, Opened, Owner, Post, RedisStore, SessionStore,
    SharedRules, StoreRules,
};
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{ConnectionKey, Epoch, Generation, SessionId, ShardId, Slot};
use corelane_shard::identity::{Identity, Standing, UnixSeconds};
use corelane_shard::lane::{Claim, ClaimRefusal, Credential, End, Resumed, ToShard};
use corelane_shard::wire::reconnect_token::ReconnectKeys;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::services::Redis;

pub(crate) const SALT: &str = "salt";
pub(crate) const ALICE: SessionId = SessionId(0x3f2504e0_4f89_41d3_9a0c_0305e82c3301);
pub(crate) const BOB: SessionId = SessionId(7);
pub(crate) const SID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
pub(crate) const ACCOUNT: &str = "7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f";

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) store: RedisStore<Post>,
    pub(crate) lost: VecDeque<Lost>,
    /// Where the bus has nothing that the clients of this node lack.
    pub(crate) cursor: Option<Position>,
    began: Clock,
    slots: u32,
    runtime: Runtime,
}

/// How a node is to be.
pub(crate) struct Setup {
    pub(crate) shared: SharedRules,
    pub(crate) redis: RedisRules,
    pub(crate) rules: StoreRules,
}

pub(crate) struct Granted {
    pub(crate) owner: Owner,
    pub(crate) resumed: Resumed,
    pub(crate) begin: Begin,
    pub(crate) before: Option<Before>,
}

pub(crate) fn at(offset: u64) -> Position {
    Position { partition: 3, offset }
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// As a client has it, of the claim with this epoch.
pub(crate) fn token(epoch: Epoch) -> String {
    let token = ReconnectKeys::from_salt(SALT).token(ALICE, epoch);
    String::from_utf8(token.to_vec()).expect("ASCII")
}

pub(crate) fn jwt(account: &str, issued: u64) -> Credential {
    jwt_of(ALICE, account, issued)
}

pub(crate) fn jwt_of(session: SessionId, account: &str, issued: u64) -> Credential {
    let standing = Standing {
        tenant: "default".into(),
        roles: [Box::from("admin"), Box::from("user")].into(),
        authorizations: [].into(),
    };
    Credential::Token(Arc::new(Identity {
        session,
        account: Some(account.into()),
        standing: Arc::new(standing),
        expires_at: UnixSeconds::new(4_000_000_000),
        issued_at: UnixSeconds::new(issued),
    }))
}

/// As the configuration has it.
pub(crate) fn named(server: SocketAddr) -> (Box<str>, u16) {
    (server.ip().to_string().into(), server.port())
}

impl Setup {
    pub(crate) fn new(server: &Redis) -> Self {
        Self {
            shared: SharedRules {
                instance: Uuid::new_v4(),
                run: Uuid::new_v4(),
                session_ttl: Duration::from_secs(86_400),
                heartbeat_ttl: Duration::from_secs(300),
                heartbeat_interval: Duration::from_secs(30),
                poll_interval: Duration::from_millis(50),
                admit_when_unreachable: false,
            },
            redis: RedisRules {
                servers: vec![named(server.address())],
                tls: false,
                database: 0,
                sentinel: None,
                user: None,
                password: Password::Unneeded,
                prefix: "".into(),
                timeout: Duration::from_millis(300),
                connect_timeout: Duration::from_secs(1),
            },
            rules: StoreRules {
                sessions_max: 1000,
                window: Duration::from_secs(300),
                extension: Duration::from_secs(60),
                revocation_life: Duration::from_secs(7200),
                per_address_max: None,
                per_account_max: None,
            },
        }
    }

    /// As [`Self::start`], without waiting for Redis.
    pub(crate) fn start_alone(self) -> Node {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let probe = Arc::<RedisProbe>::default();
        let Self { shared, redis, rules } = self;
        let post = {
            let _within = runtime.enter();
            let patience = redis.connect_timeout;
            let redis = redis::Redis::start(redis, Arc::clone(&probe));
            Post::start(redis, SALT, shared.clone(), patience)
        };
        let store = RedisStore::new(post, SALT, rules, shared, probe);
        let (lost, cursor, began) = (VecDeque::new(), None, Clock::now());
        Node { store, lost, cursor, began, slots: 0, runtime }
    }

    pub(crate) fn start(self) -> Node {
        let mut node = self.start_alone();
        node.until("the lease is held", |node| node.store.may_deliver(node.now()));
        node
    }
}

impl Node {
    pub(crate) fn of(server: &Redis) -> Self {
        Setup::new(server).start()
    }

    pub(crate) fn now(&self) -> Now {
        let mono = Instant(1_000_000_000) + self.began.elapsed();
        Now { mono, unix_ms: unix_ms() }
    }

    /// One turn of the control core.
    pub(crate) fn turn(&mut self) {
        let news = poll_fn(|context| self.store.poll_news(context));
        let wait = Duration::from_millis(5);
        let _news_or_time = self.runtime.block_on(async { tokio::time::timeout(wait, news).await });
        let (now, cursor) = (self.now(), self.cursor);
        self.store.renew(&mut |_| cursor, now);
        while let Some(lost) = self.store.lost() {
            self.lost.push_back(lost);
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Clock::now() + PATIENCE;
        while !done(self) {
            assert!(Clock::now() < end, "not in time: {what}");
            self.turn();
        }
    }

    /// Until all that was said to Redis was answered.
    pub(crate) fn settle(&mut self) {
        self.turn();
        self.until("everything is written", |node| !node.store.is_unsettled());
    }

    pub(crate) fn begin_claim(&mut self, credential: Credential) -> ConnectionKey {
        self.slots += 1;
        let key = ConnectionKey { slot: Slot(self.slots), generation: Generation(7) };
        let claim = Box::new(Claim { credential, peer: None });
        let (start, now) = (self.cursor, self.now());
        self.store.claim(Claimed { shard: ShardId(0), key, claim }, start, now);
        key
    }

    pub(crate) fn decision(&mut self) -> Decision {
        let mut decision = None;
        self.until("the claim is decided", |node| {
            decision = node.store.decided();
            decision.is_some()
        });
        decision.expect("decided")
    }

    pub(crate) fn claim(&mut self, credential: Credential) -> Result<Granted, ClaimRefusal> {
        self.begin_claim(credential);
        let Decision { shard, answer, begin, before, .. } = self.decision();
        match answer {
            ToShard::Granted { key, epoch, resumed, .. } => {
                Ok(Granted { owner: Owner { shard, key, epoch }, resumed, begin, before })
            }
            ToShard::Refused { why, .. } => Err(why),
            other => panic!("{other:?}"),
        }
    }

    /// Opens a session with a token of its own.
    pub(crate) fn open(&mut self, credential: Credential) -> Owner {
        let granted = self.claim(credential).unwrap_or_else(|why| panic!("{why:?}"));
        assert_ne!(self.store.opened(ALICE, granted.owner), Opened::Ignored);
        granted.owner
    }

    pub(crate) fn login(&mut self) -> Owner {
        self.open(jwt(ACCOUNT, unix_ms() / 1000))
    }

    pub(crate) fn reconnect(&mut self, token: &str) -> Result<Granted, ClaimRefusal> {
        let (session, seal) = ReconnectKeys::from_salt(SALT).read(token).expect("a token");
        let granted = self.claim(Credential::Reconnect { session, seal })?;
        self.store.opened(ALICE, granted.owner);
        Ok(granted)
    }

    /// The connection ends; what is to be known of it is written.
    pub(crate) fn leave(&mut self, owner: Owner) {
        let (cursor, now) = (self.cursor, self.now());
        self.store.release(ALICE, owner, End::Resumable, cursor, now);
        self.settle();
    }
}
