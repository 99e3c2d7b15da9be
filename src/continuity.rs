//! Keeps indices stable across configurations, so that what is under way during a reload still
//! means what it meant: services and endpoints keep their place for the life of the process, new
//! ones are appended, and those that are gone stay behind without roles and without addresses.

use corelane_shard::id::{EndpointId, ServiceId};
use corelane_shard::snapshot::{Endpoint, Role, Service, Snapshot};
use thiserror::Error;

use crate::control::ServiceTargets;

/// A configuration whose indices continue those of an earlier one.
#[derive(Debug)]
pub struct Continued {
    pub snapshot: Snapshot,
    pub targets: Vec<ServiceTargets>,
}

/// More services or endpoints than indices, counting all since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too many services or endpoints have come and gone since the start; restart to reload")]
pub struct IndicesExhausted;

/// Renumbers `next` and its `targets` so that everything `previous` knew keeps its index.
pub fn continue_from(
    previous: &Snapshot,
    next: Snapshot,
    targets: Vec<ServiceTargets>,
) -> Result<Continued, IndicesExhausted> {
    let mut services: Vec<Service> = previous.services.to_vec();
    let mut service_ids = Vec::with_capacity(next.services.len());
    for service in next.services {
        let same = |known: &Service| {
            known.name == service.name
                && std::mem::discriminant(&known.kind) == std::mem::discriminant(&service.kind)
        };
        let at = place(&mut services, same, service.clone());
        service_ids.push(ServiceId(index(at)?));
    }
    let mut endpoints: Vec<Endpoint> = previous.endpoints.to_vec();
    let mut endpoint_ids = Vec::with_capacity(next.endpoints.len());
    for endpoint in next.endpoints {
        let endpoint =
            Endpoint { service: service_ids[usize::from(endpoint.service.0)], ..endpoint };
        let same = |known: &Endpoint| {
            known.service == endpoint.service
                && known.path == endpoint.path
                && known.method == endpoint.method
        };
        let at = place(&mut endpoints, same, endpoint.clone());
        endpoint_ids.push(EndpointId(index(at)?));
    }
    let roles = next.roles.into_iter().map(|role| Role {
        endpoints: role.endpoints.iter().map(|id| endpoint_ids[usize::from(id.0)]).collect(),
        ..role
    });
    let mut placed: Vec<ServiceTargets> = (0..services.len())
        .map(|at| Ok(ServiceTargets { service: ServiceId(index(at)?), targets: Vec::new() }))
        .collect::<Result<_, _>>()?;
    for ServiceTargets { service, targets } in targets {
        let id = service_ids[usize::from(service.0)];
        placed[usize::from(id.0)].targets = targets;
    }
    let snapshot = Snapshot {
        roles: roles.collect(),
        services: services.into(),
        endpoints: endpoints.into(),
        version: next.version,
        mode: next.mode,
        salt: next.salt,
        node: next.node,
        session: next.session,
        door: next.door,
        tracing: next.tracing,
    };
    Ok(Continued { snapshot, targets: placed })
}

/// Puts `item` where its like stands already, or at the end.
fn place<T>(items: &mut Vec<T>, same: impl Fn(&T) -> bool, item: T) -> usize {
    match items.iter().position(same) {
        Some(at) => {
            items[at] = item;
            at
        }
        None => {
            items.push(item);
            items.len() - 1
        }
    }
}

/// The last index means "none" on links.
fn index(at: usize) -> Result<u16, IndicesExhausted> {
    u16::try_from(at).ok().filter(|at| *at < u16::MAX).ok_or(IndicesExhausted)
}
