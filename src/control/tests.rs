//! The whole loop on its own thread, with lanes made of channels.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use corelane_shard::id::{ConnectionKey, Generation, ServiceId, SessionId, Slot};
use corelane_shard::identity::AuthRefusal;
use corelane_shard::lane::{DrainPhase, ToControl, ToShard};
use corelane_shard::snapshot::{ConnectionMode, DoorLimits, SessionLimits, Tracing};

use super::*;
use crate::control::internal::{Checking, Holder, InternalParts, TokenCheck};
use crate::lifecycle::Phase;

struct Lane {
    upward: Receiver<ToControl>,
    downward: SyncSender<ToShard>,
}

impl ShardPort for Lane {
    fn receive(&mut self) -> Option<ToControl> {
        self.upward.try_recv().ok()
    }

    fn send(&mut self, message: ToShard) -> Result<(), ToShard> {
        use std::sync::mpsc::TrySendError::{Disconnected, Full};
        self.downward.try_send(message).map_err(|error| match error {
            Full(message) | Disconnected(message) => message,
        })
    }

    fn has_room(&self) -> bool {
        true
    }
}

/// The shard's ends of the lanes, and the control core's thread.
struct Shard {
    upward: SyncSender<ToControl>,
    downward: Receiver<ToShard>,
    wake: OwnedFd,
    phase: Arc<PhaseCell>,
    thread: thread::JoinHandle<Result<Exit, ControlError>>,
}

const PATIENCE: Duration = Duration::from_secs(10);

fn snapshot(version: u64) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        version,
        mode: ConnectionMode::External,
        salt: "salt".into(),
        node: 0,
        services: Box::default(),
        endpoints: Box::default(),
        roles: Box::default(),
        session: SessionLimits::default(),
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    })
}

fn targets(port: u16) -> Vec<ServiceTargets> {
    let socket = SocketAddr::from(([127, 0, 0, 1], port));
    vec![ServiceTargets { service: ServiceId(0), targets: vec![Target::Socket(socket)] }]
}

fn rules() -> KeyRules {
    KeyRules {
        keys: Vec::new(),
        jwks: Vec::new(),
        session_claims: KeyRules::default_session_claims(),
    }
}

fn settings() -> Settings {
    let moment = Duration::from_millis(1);
    let drain = DrainPlan {
        grace: moment,
        spread: moment,
        calls: moment,
        deadline: Duration::from_secs(60),
    };
    Settings {
        rules: fixtures::rules(10),
        drain,
        resolve_refresh: Duration::from_secs(60),
        unknown_key_interval: Duration::from_secs(30),
    }
}

impl Shard {
    /// `lane` messages fit towards the shard.
    fn start(lane: usize) -> Self {
        let (upward, from_shard) = sync_channel(64);
        let (to_shard, downward) = sync_channel(lane);
        let wake = doorbell().unwrap();
        let phase = Arc::<PhaseCell>::default();
        let (rung, shown) = (wake.try_clone().unwrap(), Arc::clone(&phase));
        let thread = thread::spawn(move || {
            run(ControlSpec {
                core: None,
                ports: vec![Lane { upward: from_shard, downward: to_shard }],
                bell: AlwaysRung,
                wake: rung,
                phase: shown,
                probe: Arc::default(),
                admin: None,
                internal: Vec::new(),
                shown: ShownConfig::default(),
                keys: KeyRing::open(&rules()).unwrap(),
                certificates: None,
                validation: None,
                settings: settings(),
                nodes: None,
                instance: Uuid::nil(),
                redis: None,
                holder: holder(),
                spans: None,
                kafka: None,
                snapshot: snapshot(1),
                targets: targets(1),
                asks: mpsc::channel(1).1,
                seed: 1,
                reload: Box::new(|_| {
                    let (snapshot, keys, tls) = (snapshot(2), rules(), None);
                    let settings = settings();
                    let shown = Shown::default();
                    Ok(Reloaded { snapshot, targets: targets(2), keys, tls, settings, shown })
                }),
            })
        });
        Self { upward, downward, wake, phase, thread }
    }

    fn say(&self, message: ToControl) {
        self.upward.send(message).unwrap();
        rustix::io::write(self.wake.as_fd(), &1u64.to_ne_bytes()).unwrap();
    }

    fn hear(&self) -> ToShard {
        self.downward.recv_timeout(PATIENCE).unwrap()
    }

    /// Long enough for the control core to fall asleep.
    fn hears_nothing(&self) {
        let heard = self.downward.recv_timeout(Duration::from_millis(50));
        assert!(heard.is_err(), "{heard:?}");
    }
}

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { slot: Slot(slot), generation: Generation(0) }
}

fn raise(signal: libc::c_int) {
    let own = rustix::process::getpid();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    rustix::process::kill_process(own, signal).unwrap();
}

/// Signals are the process's: one test tells the whole story, so that no other hears them.
/// Nobody asks it anything.
fn holder() -> Holder {
    #[derive(Debug)]
    struct NoTokens;

    impl TokenCheck for NoTokens {
        fn check<'a>(&'a self, _token: &'a str) -> Checking<'a> {
            Box::pin(async { Err(AuthRefusal::Unavailable) })
        }
    }

    Holder::new(InternalParts {
        asking: mpsc::channel(1).0,
        tokens: Arc::new(NoTokens),
        probe: Arc::default(),
        phase: Arc::default(),
        relays: false,
    })
}

#[test]
fn the_control_core_serves_claims_reloads_drains_and_ends() {
    let shard = Shard::start(1);
    let first = shard.hear();
    assert!(matches!(first, ToShard::Addresses { version: 1, .. }), "{first:?}");

    let begun = Instant::now();
    // The lane holds one message; the others wait for room and none is lost.
    for slot in 0..20 {
        shard.say(ToControl::Claim { key: key(slot), claim: fixtures::token_claim(SessionId(7)) });
    }
    let (mut granted, mut evicted) = (0, 0);
    while granted < 20 || evicted < 19 {
        match shard.hear() {
            ToShard::Granted { .. } => granted += 1,
            ToShard::Evict { .. } => evicted += 1,
            other => panic!("{other:?}"),
        }
    }

    // Without the retry each message would wait for the next unrelated wake-up, a second away.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    // A core that has gone to sleep is woken by the doorbell: all else comes once a second.
    let begun = Instant::now();
    for slot in 20..25 {
        shard.hears_nothing();
        let claim = fixtures::token_claim(SessionId(u128::from(slot)));
        shard.say(ToControl::Claim { key: key(slot), claim });
        let answer = shard.hear();
        assert!(matches!(answer, ToShard::Granted { .. }), "{answer:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    raise(libc::SIGHUP);
    let new = shard.hear();
    assert!(matches!(&new, ToShard::Snapshot(snapshot) if snapshot.version == 2), "{new:?}");
    let moved = shard.hear();
    assert!(matches!(moved, ToShard::Addresses { version: 2, .. }), "{moved:?}");

    raise(libc::SIGTERM);
    loop {
        match shard.hear() {
            ToShard::Drain(DrainPhase::Closing) => break,
            ToShard::Drain(DrainPhase::Grace) => {}
            other => panic!("{other:?}"),
        }
    }
    shard.say(ToControl::DrainReached { phase: DrainPhase::Done, connections: 0 });
    assert_eq!(shard.thread.join().unwrap().unwrap(), Exit::Drained);
    assert_eq!(shard.phase.load(), Phase::Draining(DrainPhase::Done));

    let shard = Shard::start(16);
    assert!(matches!(shard.hear(), ToShard::Addresses { .. }));
    raise(libc::SIGTERM);
    assert!(matches!(shard.hear(), ToShard::Drain(DrainPhase::Grace)));
    raise(libc::SIGINT);
    let exit = shard.thread.join().unwrap().unwrap();
    assert_eq!((exit, exit.code()), (Exit::AtOnce, 1));
}

#[test]
fn a_core_that_is_not_there_is_named() {
    let refused = ControlError::Pin { core: 999 }.to_string();
    assert!(refused.contains("999"), "{refused}");
}
