//! What several tests of the control core begin with.

pub(crate) mod elsewhere;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_shard::id::{ServiceId, SessionId};
use corelane_shard::identity::{Identity, Standing};
use corelane_shard::lane::{Claim, Credential, ToControl, ToShard};
use corelane_shard::snapshot::{
    BreakerLimits, ConnectionMode, DoorLimits, Endpoint, Method, Service, SessionLimits, Snapshot,
    Tracing, UpstreamKind,
};

use super::CoreRules;
use super::mailboxes::MailboxRules;
use super::port::ShardPort;
use super::store::StoreRules;
use crate::events::{ClientEventNames, NameDialect};

/// A snapshot with these (service, path) endpoints.
pub(crate) fn snapshot_of(endpoints: &[(&str, &str)]) -> Arc<Snapshot> {
    let mut names: Vec<&str> = endpoints.iter().map(|(service, _)| *service).collect();
    names.dedup();
    let index = |name: &str| names.iter().position(|known| *known == name).unwrap_or(0) as u16;
    Arc::new(Snapshot {
        version: 1,
        mode: ConnectionMode::External,
        salt: "salt".into(),
        node: 0,
        services: names.iter().map(|name| service(name)).collect(),
        endpoints: endpoints
            .iter()
            .map(|(service, path)| Endpoint {
                service: ServiceId(index(service)),
                method: Method::Post,
                path: (*path).into(),
                idempotent: false,
            })
            .collect(),
        roles: Box::default(),
        session: SessionLimits::default(),
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    })
}

fn service(name: &str) -> Service {
    Service {
        name: name.into(),
        kind: UpstreamKind::Http,
        host: "backend.test".into(),
        call_timeout: Duration::from_secs(25),
        connect_timeout: Duration::from_secs(2),
        running_max: 10,
        connections_max: 10,
        pool_idle: Duration::from_secs(4),
        response_head_bytes_max: 8192,
        response_body_bytes_max: 65_536,
        breaker: BreakerLimits { failures: 5, open_for: Duration::from_secs(1) },
    }
}

/// The claim of somebody with a verified token for `session`.
pub(crate) fn token_claim(session: SessionId) -> Box<Claim> {
    let standing = Standing {
        tenant: "default".into(),
        roles: [Box::from("user")].into(),
        authorizations: Box::default(),
    };
    let identity = Identity {
        session,
        account: Some("anna".into()),
        standing: Arc::new(standing),
        expires_at: None,
        issued_at: None,
    };
    Box::new(Claim { credential: Credential::Token(Arc::new(identity)), peer: None })
}

pub(crate) fn rules(sessions_max: usize) -> CoreRules {
    let dialect = NameDialect::Hyphen;
    CoreRules {
        store: StoreRules {
            sessions_max,
            window: Duration::from_secs(300),
            extension: Duration::from_secs(60),
            revocation_life: Duration::from_secs(86_400),
            per_address_max: None,
            per_account_max: None,
        },
        mailboxes: MailboxRules { items_max: 100, bytes_max: 1 << 20, total_bytes_max: 1 << 24 },
        names: Arc::new(
            ClientEventNames::new(dialect, &[] as &[&str]).expect("the protocol's names are good"),
        ),
        dialect,
        rpc_timeout: Duration::from_secs(30),
        mapped_address: Some("127.0.0.1:{app}".into()),
    }
}

/// The lanes of one shard, made of queues. The test holds a clone and is the shard.
#[derive(Clone, Default)]
pub(crate) struct Lane(Rc<RefCell<Ends>>);

#[derive(Default)]
struct Ends {
    upward: VecDeque<ToControl>,
    downward: Vec<ToShard>,
    stuck: bool,
}

impl Lane {
    pub(crate) fn says(&self, message: ToControl) {
        self.0.borrow_mut().upward.push_back(message);
    }

    /// Since it was last asked.
    pub(crate) fn heard(&self) -> Vec<ToShard> {
        self.0.borrow_mut().downward.drain(..).collect()
    }

    /// Whether the shard does not read.
    pub(crate) fn is_stuck(&self, stuck: bool) {
        self.0.borrow_mut().stuck = stuck;
    }

    /// Said and not taken.
    pub(crate) fn unheard(&self) -> usize {
        self.0.borrow().upward.len()
    }
}

impl ShardPort for Lane {
    fn receive(&mut self) -> Option<ToControl> {
        self.0.borrow_mut().upward.pop_front()
    }

    fn send(&mut self, message: ToShard) -> Result<(), ToShard> {
        let mut ends = self.0.borrow_mut();
        if ends.stuck {
            return Err(message);
        }
        ends.downward.push(message);
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.0.borrow().stuck
    }
}
