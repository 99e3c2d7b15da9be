//! Configurations and identities for tests of this crate.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{EndpointId, ServiceId, SessionId};
use crate::identity::{Identity, Standing};
use crate::session::capability::{Capabilities, CapabilitySet};
use crate::snapshot::{
    BreakerLimits, ConnectionMode, DoorLimits, Endpoint, Method, Role, Service, SessionLimits,
    Snapshot, Tracing, UpstreamKind,
};

/// A snapshot with the given (service, path) endpoints, all of them open to the role `user`.
pub(crate) fn snapshot_of(endpoints: &[(&str, &str)], salt: &str) -> Snapshot {
    let mut names: Vec<&str> = endpoints.iter().map(|(service, _)| *service).collect();
    names.dedup();
    let index = |name: &str| names.iter().position(|known| *known == name).unwrap() as u16;
    Snapshot {
        version: 1,
        mode: ConnectionMode::External,
        salt: salt.into(),
        node: 1,
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
        roles: Box::new([Role {
            name: "user".into(),
            endpoints: (0..endpoints.len() as u16).map(EndpointId).collect(),
        }]),
        session: SessionLimits::default(),
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    }
}

pub(crate) fn identity(session: SessionId) -> Arc<Identity> {
    Arc::new(Identity {
        session,
        account: None,
        standing: Arc::new(Standing {
            tenant: "default".into(),
            roles: ["user".into()].into(),
            authorizations: Box::default(),
        }),
        expires_at: None,
        issued_at: None,
    })
}

/// A set of `count` endpoints of one service.
pub(crate) fn set_of(count: usize) -> Rc<CapabilitySet> {
    let paths: Vec<String> = (0..count).map(|i| format!("/demo/{i}")).collect();
    let endpoints: Vec<_> = paths.iter().map(|path| ("demo", path.as_str())).collect();
    let snapshot = snapshot_of(&endpoints, "salt");
    Capabilities::new(&snapshot).of_roles(&snapshot, &["user".into()])
}

fn service(name: &str) -> Service {
    Service {
        name: name.into(),
        kind: UpstreamKind::Http,
        host: "backend".into(),
        call_timeout: Duration::from_secs(25),
        connect_timeout: Duration::from_secs(2),
        running_max: 16,
        connections_max: 16,
        pool_idle: Duration::from_secs(4),
        response_head_bytes_max: 16 << 10,
        response_body_bytes_max: 1 << 20,
        breaker: BreakerLimits { failures: 0, open_for: Duration::from_secs(1) },
    }
}
