//! Endpoints by name. What events name and the configuration does not is learned: it gets an index
//! of its own, which keeps its meaning as configured ones do.

use std::sync::Arc;

use ahash::AHashMap;
use corelane_shard::id::{EndpointId, ServiceId};
use corelane_shard::snapshot::{Endpoint, Method, Snapshot};

/// The endpoints of one snapshot by service, method and path.
#[derive(Debug)]
pub(super) struct EndpointIndex {
    snapshot: Arc<Snapshot>,
    /// A service with backends of both kinds is two under one name.
    services: AHashMap<Box<str>, Vec<ServiceId>>,
    endpoints: AHashMap<(ServiceId, Method, Box<str>), EndpointId>,
    /// Not yet in `snapshot`.
    learned: Vec<Endpoint>,
}

impl EndpointIndex {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        let mut services: AHashMap<_, Vec<_>> = AHashMap::new();
        for (id, service) in (0..).map(ServiceId).zip(&snapshot.services) {
            services.entry(service.name.clone()).or_default().push(id);
        }
        let endpoints = (0..).map(EndpointId).zip(&snapshot.endpoints);
        Self {
            services,
            endpoints: endpoints
                .map(|(id, endpoint)| {
                    ((endpoint.service, endpoint.method, endpoint.path.clone()), id)
                })
                .collect(),
            snapshot,
            learned: Vec::new(),
        }
    }

    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The endpoint of this name, learned for the first service of the name if it is new. `None` if
    /// there is no such service, or no room for another endpoint.
    pub(super) fn find_or_learn(
        &mut self,
        service: &str,
        method: Method,
        path: &str,
    ) -> Option<EndpointId> {
        let services = self.services.get(service)?;
        let mut key = (*services.first()?, method, Box::from(path));
        for &service in services {
            key.0 = service;
            if let Some(id) = self.endpoints.get(&key) {
                return Some(*id);
            }
        }
        let service = *services.first()?;
        key.0 = service;
        let index = self.snapshot.endpoints.len() + self.learned.len();
        if index >= ENDPOINTS_MAX {
            return None;
        }
        let id = EndpointId(index as u16);
        self.learned.push(Endpoint { service, method, path: path.into(), idempotent: false });
        self.endpoints.insert(key, id);
        Some(id)
    }

    /// The snapshot with what was learned since the last call, if anything was.
    pub(super) fn take_learned(&mut self) -> Option<Arc<Snapshot>> {
        if self.learned.is_empty() {
            return None;
        }
        let mut snapshot = Snapshot::clone(&self.snapshot);
        let known = std::mem::take(&mut snapshot.endpoints).into_vec();
        snapshot.endpoints = known.into_iter().chain(self.learned.drain(..)).collect();
        self.snapshot = Arc::new(snapshot);
        Some(Arc::clone(&self.snapshot))
    }
}

/// Endpoints of a node, configured and learned ones.
const ENDPOINTS_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::snapshot_of;

    #[test]
    fn what_is_new_is_learned_once_and_keeps_its_index() {
        let mut index = EndpointIndex::new(snapshot_of(&[("demo", "/demo/echo")]));
        assert_eq!(index.find_or_learn("demo", Method::Post, "/demo/echo"), Some(EndpointId(0)));
        assert!(index.take_learned().is_none());
        let learned = index.find_or_learn("demo", Method::Get, "/demo/echo");
        assert_eq!(learned, Some(EndpointId(1)));
        assert_eq!(index.find_or_learn("demo", Method::Get, "/demo/echo"), learned);
        let snapshot = index.take_learned().unwrap();
        assert_eq!(snapshot.endpoints[1].method, Method::Get);
        assert_eq!(&*snapshot.endpoints[1].path, "/demo/echo");
        assert!(index.take_learned().is_none());
        assert_eq!(index.find_or_learn("other", Method::Post, "/x"), None);
    }

    #[test]
    fn a_service_with_two_kinds_of_backends_is_found_by_what_each_serves() {
        let mut snapshot = Snapshot::clone(&snapshot_of(&[("demo", "/demo/http")]));
        let service = snapshot.services[0].clone();
        snapshot.services = [service.clone(), service].into();
        let first = snapshot.endpoints[0].clone();
        let second = Endpoint { service: ServiceId(1), path: "/demo/link".into(), ..first.clone() };
        snapshot.endpoints = [first, second].into();
        let mut index = EndpointIndex::new(Arc::new(snapshot));
        let mut find = |path| index.find_or_learn("demo", Method::Post, path);
        assert_eq!(find("/demo/http"), Some(EndpointId(0)));
        assert_eq!(find("/demo/link"), Some(EndpointId(1)));
        assert_eq!(find("/demo/new"), Some(EndpointId(2)));
        assert_eq!(index.take_learned().unwrap().endpoints[2].service, ServiceId(0));
    }

    #[test]
    fn there_is_a_bound() {
        let mut index = EndpointIndex::new(snapshot_of(&[("demo", "/demo/echo")]));
        let learned = (0..20_000)
            .filter(|n| index.find_or_learn("demo", Method::Post, &format!("/{n}")).is_some())
            .count();
        assert_eq!(learned + 1, ENDPOINTS_MAX);
        assert_eq!(index.take_learned().unwrap().endpoints.len(), ENDPOINTS_MAX);
    }
}
