//! Records of the bus: events for sessions, sessions that are over, errors of services, and where
//! services are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use corelane_shard::clock::Now;
use corelane_shard::id::{EndpointId, Epoch, ServiceId, SessionId};
use corelane_shard::lane::{Content, Delivery, ToShard};
use corelane_shard::session::shortcuts::Shortcut;
use tracing::{info, warn};

use super::ask::Unpublished;
use super::bus::{Arrival, EventBus, Record, SESSION_KEY, Trail, topic};
use super::mailboxes::{Item, Origin};
use super::port::ShardPort;
use super::replays::Parking;
use super::resolve::{Host, ServiceTargets, Target};
use super::store::{Owner, SessionStore};
use super::turn::Core;
use crate::events::notices::{AdminNotices, FullServiceMappings, SessionInvalidated};
use crate::events::order::{Capabilities, PublishedShortcut, Revocation};
use crate::events::outbound::{ServiceError, Severity, to_json};
use crate::events::{SessionOrder, Timestamp, Unusable, event_id, read};

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    /// Takes what the bus has, at most [`ARRIVALS_PER_TURN`]. Says whether there may be more.
    pub(super) fn take_arrivals(&mut self, now: Now) -> bool {
        for _ in 0..ARRIVALS_PER_TURN {
            let Self { bus, store, .. } = self;
            let Some(arrival) = bus.next(&mut |session| store.known(session).is_some()) else {
                return false;
            };
            // What cannot be used has been counted.
            let _taken = match arrival {
                Arrival::Record(record) => self.take_record(record, now),
                Arrival::ForSession { session, record } => {
                    self.probe.records_in.increment();
                    self.take_live_event(session, record, now)
                }
                Arrival::Replayed { session, epoch, record } => {
                    self.take_replayed(session, epoch, record, now)
                }
                Arrival::ReplayMissing { session, epoch, missing } => {
                    self.replay_lacks(session, epoch, missing, now);
                    Ok(())
                }
                Arrival::ReplayEnded { session, epoch } => {
                    self.replay_ended(session, epoch, now);
                    Ok(())
                }
                Arrival::Missed(missed) => {
                    self.live_lacks(&missed, now);
                    Ok(())
                }
            };
        }
        true
    }

    /// Takes one record, from whatever bus. What nobody here needs is passed over.
    pub(super) fn take_record(&mut self, record: Record, now: Now) -> Result<(), Unpublished> {
        self.probe.records_in.increment();
        let is_event = &*record.topic == topic::CLIENT_EVENTS;
        if !is_event && record.expires_at_ms.is_some_and(|at| at <= now.unix_ms) {
            self.probe.records_expired.increment();
            return Ok(());
        }
        match &*record.topic {
            topic::CLIENT_EVENTS => {
                let session = record.key.strip_prefix(SESSION_KEY);
                let session = session.and_then(|id| id.parse().ok()).ok_or(Unpublished::BadKey)?;
                self.take_live_event(session, record, now)
            }
            topic::SESSION_INVALIDATED => self.take_invalidation(&record.value, now),
            topic::SERVICE_ERROR => self.notify_admins(&record.value, now),
            topic::SERVICE_MAPPINGS => self.take_mappings(&record.value),
            _ => Ok(()),
        }
    }

    /// An event waits for its session's replay, if there is one.
    fn take_live_event(
        &mut self,
        session: SessionId,
        record: Record,
        now: Now,
    ) -> Result<(), Unpublished> {
        match self.replays.park(session, record) {
            Parking::Parked => Ok(()),
            Parking::NotReplaying(record) => self.take_client_event(session, &record, now),
            Parking::Full(record) => {
                self.give_up_handover(session, now);
                self.take_client_event(session, &record, now)
            }
        }
    }

    fn take_replayed(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        record: Record,
        now: Now,
    ) -> Result<(), Unpublished> {
        if !self.replays.is_of(session, epoch) {
            return Ok(());
        }
        self.probe.records_replayed.increment();
        self.take_client_event(session, &record, now)
    }

    pub(super) fn take_client_event(
        &mut self,
        session: SessionId,
        record: &Record,
        now: Now,
    ) -> Result<(), Unpublished> {
        let Some(known) = self.store.known(session) else {
            self.probe.records_without_session.increment();
            return Err(Unpublished::NoSession);
        };
        let attached = known.open && !self.replays.has(session);
        let names = Arc::clone(&self.rules.names);
        let item = match read(&record.value, &names) {
            Ok(order) => self.item(order, record),
            Err(unusable) => {
                self.probe.unusable(&unusable);
                if let Unusable::NoShortcutTarget(_) = unusable {
                    let message = unusable.to_string();
                    self.report_error("PublishShortcut", "bad_shortcut", &message, None, now);
                }
                return Err(Unpublished::Unusable {
                    text: unusable.to_string().into(),
                    label: unusable.label(),
                });
            }
        };
        if let Item::Capabilities { endpoints, .. } = &item {
            self.granted.insert(session, Arc::clone(endpoints));
        }
        let Record { expires_at_ms: expires_unix_ms, position, .. } = *record;
        let origin = Origin { expires_unix_ms, position };
        let put = self.mailboxes.put(session, item, origin, attached);
        self.probe.events_lost.add(put.lost + u64::from(put.refused));
        if put.refused { Err(Unpublished::TooLong) } else { Ok(()) }
    }

    /// What an order is to its session's shard, with names turned into indices.
    fn item(&mut self, order: SessionOrder<'_>, record: &Record) -> Item {
        match order {
            // A respelled name may be as long as the one before.
            SessionOrder::Forward { body: Cow::Borrowed(body) }
                if body.len() == record.value.len() =>
            {
                Item::Event(Arc::clone(&record.value))
            }
            SessionOrder::Forward { body } => Item::Event(body.into_owned().into()),
            SessionOrder::Capabilities(capabilities) => self.capabilities(&capabilities),
            SessionOrder::PublishShortcut(published) => {
                Item::Publish(Box::new(self.shortcut(*published)))
            }
            SessionOrder::RevokeShortcut(Revocation::ByRoute(route)) => Item::RevokeRoute(route),
            SessionOrder::RevokeShortcut(Revocation::ByService(service)) => {
                Item::RevokeService(service)
            }
        }
    }

    fn capabilities(&mut self, capabilities: &Capabilities) -> Item {
        let mut endpoints: Vec<EndpointId> = Vec::new();
        for (service, grants) in &capabilities.permissions {
            for grant in grants {
                let (method, path) = grant.route();
                match self.endpoints.find_or_learn(service, method, path) {
                    Some(endpoint) => endpoints.push(endpoint),
                    None => self.probe.grants_without_service.increment(),
                }
            }
        }
        self.announce_learned();
        endpoints.sort_unstable();
        endpoints.dedup();
        let reason = capabilities.reason.as_deref().unwrap_or(Capabilities::REASON_DEFAULT);
        Item::Capabilities { endpoints: endpoints.into(), reason: reason.into() }
    }

    fn shortcut(&mut self, published: PublishedShortcut) -> Shortcut {
        let target = &published.target;
        let target = self.endpoints.find_or_learn(&target.service, target.method, &target.path);
        self.announce_learned();
        Shortcut {
            route: published.route,
            target_guid: published.target_guid,
            target,
            payload: published.payload,
            expires_unix_ms: published.expires.map(|Timestamp(at)| at),
            name: published.name,
            description: published.description,
            source_service: published.source_service,
        }
    }

    fn announce_learned(&mut self) {
        if let Some(snapshot) = self.endpoints.take_learned() {
            self.tell_all(|| ToShard::MoreEndpoints(Arc::clone(&snapshot)));
        }
    }

    fn take_invalidation(&mut self, value: &[u8], now: Now) -> Result<(), Unpublished> {
        let notice =
            SessionInvalidated::read(value).map_err(|fault| unusable(&fault, fault.label()))?;
        let reason = notice.disconnect_clients.then_some(notice.reason.as_str());
        for &session in &notice.sessions {
            self.end_session(session, reason, now);
        }
        Ok(())
    }

    /// Every error goes to the administrators who are here.
    fn notify_admins(&mut self, value: &[u8], now: Now) -> Result<(), Unpublished> {
        let body = AdminNotices::body(value).map_err(|fault| unusable(&fault, fault.label()))?;
        let header = self.admins.header(now.unix_ms).to_bytes();
        let message = [&header[..], &body].concat();
        let mut admins: Vec<Owner> = Vec::new();
        self.store.each(&mut |known| {
            if let Some(owner) = known.owner
                && AdminNotices::reach(&known.identity.standing.roles)
            {
                admins.push(owner);
            }
        });
        for Owner { shard, key, epoch } in admins {
            let content = Content::Message(message.clone().into());
            let delivery = Delivery { key, epoch, place: None, content };
            let Some(outlet) = self.outlets.get_mut(usize::from(shard.0)) else { continue };
            if outlet.try_send(ToShard::Deliver(delivery)).is_err() {
                self.probe.notices_dropped.increment();
            }
        }
        Ok(())
    }

    /// Publishes an error of the gateway, and tells the administrators who are here.
    pub(super) fn report_error(
        &mut self,
        operation: &str,
        error_type: &str,
        message: &str,
        dependency: Option<&str>,
        now: Now,
    ) {
        let id = event_id(&mut self.random);
        let json = to_json(&ServiceError {
            event_id: id,
            timestamp: Timestamp(now.unix_ms),
            service_id: self.instance,
            service_name: "connect",
            app_id: "corelane",
            operation,
            error_type,
            message,
            severity: Severity::Error,
            dependency,
            endpoint: None,
            details: None,
            stack: None,
            correlation_id: None,
            cpu_usage: 0,
            memory_usage: 0,
        });
        if !self.bus.gives_back() {
            let told = self.notify_admins(&json, now);
            debug_assert!(told.is_ok(), "what was just written can be read");
        }
        if self.bus.wants(topic::SERVICE_ERROR) {
            self.probe.records_out.increment();
            self.bus.publish(Record {
                topic: topic::SERVICE_ERROR.into(),
                key: "connect".into(),
                value: json.into(),
                expires_at_ms: None,
                position: None,
                trail: Some(Trail::of(&id)),
            });
        }
    }

    fn take_mappings(&mut self, value: &[u8]) -> Result<(), Unpublished> {
        let mappings =
            FullServiceMappings::read(value).map_err(|fault| unusable(&fault, fault.label()))?;
        if self.service_addresses.learn(mappings) {
            self.remap_services();
        }
        Ok(())
    }

    /// Moves services to where the mappings say they are.
    pub(super) fn remap_services(&mut self) {
        let Some(pattern) = self.rules.mapped_address.clone() else { return };
        let services = &self.snapshot().services;
        let names: Vec<Box<str>> = services.iter().map(|service| service.name.clone()).collect();
        for (id, name) in (0..).map(ServiceId).zip(names) {
            let targets = self.service_addresses.targets(id, &name, &pattern);
            if self.book.remap(id, targets) {
                info!(service = %name, "service moved by the mappings");
                self.hosts_changed = true;
            }
        }
    }
}

fn unusable(fault: &impl ToString, label: &'static str) -> Unpublished {
    Unpublished::Unusable { text: fault.to_string().into(), label }
}

/// Where services are: as configured, unless the newest mappings say otherwise.
#[derive(Debug)]
pub(super) struct ServiceAddresses {
    configured: AHashMap<ServiceId, Vec<Target>>,
    version: Option<u64>,
    mappings: BTreeMap<Box<str>, Box<str>>,
}

impl ServiceAddresses {
    pub(super) fn new(configured: Vec<ServiceTargets>) -> Self {
        let mut this =
            Self { configured: AHashMap::new(), version: None, mappings: BTreeMap::new() };
        this.configured(configured);
        this
    }

    pub(super) fn configured(&mut self, configured: Vec<ServiceTargets>) {
        self.configured = configured.into_iter().map(|s| (s.service, s.targets)).collect();
    }

    /// Says whether these are newer.
    fn learn(&mut self, mappings: FullServiceMappings) -> bool {
        if self.version.is_some_and(|known| mappings.version <= known) {
            return false;
        }
        self.version = Some(mappings.version);
        self.mappings = mappings.mappings;
        true
    }

    /// A service that the mappings do not name stays where it is configured: the application that
    /// serves all others is known to the configuration by address, not by name.
    fn targets(&self, service: ServiceId, name: &str, pattern: &str) -> Vec<Target> {
        let configured = self.configured.get(&service).cloned().unwrap_or_default();
        let Some(app) = self.mappings.get(name) else { return configured };
        let address = pattern.replace(APP, app);
        match target(&address) {
            Some(target) => vec![target],
            None => {
                warn!(service = name, address, "the mappings lead to no address");
                configured
            }
        }
    }
}

/// `host:port` or `address:port`.
fn target(address: &str) -> Option<Target> {
    if let Ok(socket) = address.parse() {
        return Some(Target::Socket(socket));
    }
    let (host, port) = address.rsplit_once(':')?;
    let named =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let port = port.parse().ok()?;
    named.then(|| Target::Host(Host { name: host.into(), port }))
}

/// Arrivals of the bus taken before the shards' next turn.
const ARRIVALS_PER_TURN: usize = 1024;

/// Stands for the app id in the pattern of mapped addresses.
pub const APP: &str = "{app}";

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(version: u64, app: &str) -> FullServiceMappings {
        let mappings = [(Box::from("account"), Box::from(app))].into();
        FullServiceMappings { version, mappings, default_app_id: None }
    }

    #[test]
    fn the_newest_mappings_say_where_a_service_is() {
        let configured = vec![Target::Socket(([127, 0, 0, 1], 80).into())];
        let service = ServiceId(3);
        let listed = ServiceTargets { service, targets: configured.clone() };
        let mut addresses = ServiceAddresses::new(vec![listed]);
        let of = |addresses: &ServiceAddresses, name| addresses.targets(service, name, "{app}:81");
        assert_eq!(of(&addresses, "account"), configured);
        assert!(addresses.learn(mappings(7, "app-a")));
        assert!(!addresses.learn(mappings(7, "app-b")));
        assert!(!addresses.learn(mappings(6, "app-b")));
        let host = Target::Host(Host { name: "app-a".into(), port: 81 });
        assert_eq!(of(&addresses, "account"), [host]);
        assert_eq!(of(&addresses, "other"), configured);
        assert!(addresses.learn(mappings(8, "no host!")));
        assert_eq!(of(&addresses, "account"), configured);
        assert!(addresses.learn(mappings(9, "9000")));
        let socket = Target::Socket(([127, 0, 0, 1], 9000).into());
        assert_eq!(addresses.targets(service, "account", "127.0.0.1:{app}"), [socket]);
    }
}
