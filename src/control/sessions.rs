//! Sessions that come and go: claims, openings, releases, ends for good, and what is published of
//! them. And what waits for a session is handed to its shard here. What one that comes from elsewhere
//! may lack is in `resumes.rs`.

use std::sync::Arc;

use corelane_shard::clock::Now;
use corelane_shard::id::{ConnectionKey, Epoch, Place, SessionId, ShardId};
use corelane_shard::identity::Identity;
use corelane_shard::lane::{ClaimRefusal, Content, Delivery, End, Granting, Resumed, ToShard};
use corelane_shard::wire::guid::{Guid, PeerRoute};
use tracing::debug;
use uuid::Uuid;

use super::bus::{EventBus, Position, Record, Trail, topic};
use super::mailboxes::{Item, Mailboxes, Next, Reached};
use super::port::ShardPort;
use super::replays::Replays;
use super::store::{Begin, Decision, Ended, Loss, Lost, Opened, Owner, Released, SessionStore};
use super::turn::Core;
use crate::events::gap::{EventGap, GapReason, Stamp};
use crate::events::outbound::{
    DisconnectReason, ReconnectionContext, SessionConnected, SessionDisconnected,
    SessionReconnected, to_json,
};
use crate::events::{Timestamp, event_id};

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    /// Sends what the store has decided.
    pub(super) fn announce_decisions(&mut self, now: Now) {
        while let Some(Decision { evict, shard, answer, begin, before }) = self.store.decided() {
            if let Some((target, evict)) = evict {
                self.probe.evictions.increment();
                self.post(target, evict);
            }
            match &answer {
                ToShard::Refused { why, .. } => self.probe.refused(*why),
                ToShard::Granted { session, epoch, resumed, .. } => {
                    // Whoever had it before gets nothing any more.
                    self.mailboxes.detach(*session);
                    self.probe.granted.increment();
                    debug!(%session, epoch = epoch.0, ?begin, ?before, "session granted");
                    let fresh = matches!(resumed, Resumed::Nothing);
                    if begin != Begin::Here {
                        self.begin_elsewhere(*session, *epoch, begin, before, now);
                    } else if !fresh {
                        self.begin_here(*session, *epoch, now);
                    }
                }
                _ => {}
            }
            self.post(shard, answer);
        }
    }

    pub(super) fn stamp(&mut self, now: Now) -> Stamp {
        Stamp { event_id: event_id(&mut self.random), timestamp: Timestamp(now.unix_ms) }
    }

    /// Up to where the bus has nothing that the session's client lacks; `None` if nobody can tell.
    pub(super) fn reached(&self, session: SessionId) -> Option<Position> {
        reached(&self.replays, &self.mailboxes, &self.bus, session)
    }

    /// When it is known where the bus is, the events of those who came before count from there on.
    pub(super) fn look_for_bus(&mut self) {
        if self.bus_found || self.bus.live(SessionId(0)).is_none() {
            return;
        }
        self.bus_found = true;
        let mut here = Vec::new();
        self.store.each(&mut |known| {
            here.extend(known.owner.map(|owner| (known.identity.session, owner.epoch)));
        });
        for (session, epoch) in here {
            if let Some(position) = self.reached(session) {
                self.store.reached(session, epoch, position);
            }
        }
    }

    /// Lets the store keep its records of this node's sessions fresh, and gives up those that other
    /// nodes have.
    pub(super) fn keep_sessions(&mut self, now: Now) {
        let Self { store, mailboxes, replays, bus, .. } = self;
        store.renew(&mut |session| reached(replays, mailboxes, bus, session), now);
        while let Some(Lost { session, owner, why }) = self.store.lost() {
            self.probe.sessions_lost.increment();
            debug!(%session, ?owner, ?why, "session lost");
            // It may have come back since: then nothing here is of the stay that was lost.
            if self.store.known(session).is_none() {
                self.rpcs.abandon(session);
                self.forget(session);
            }
            let Some(Owner { shard, key, epoch }) = owner else { continue };
            match why {
                Loss::Replaced => self.post(shard, ToShard::Evict { key, epoch }),
                Loss::Ended { reason: Some(reason) } => {
                    let reason = format!("Session invalidated: {reason}").into();
                    self.post(shard, ToShard::EndSession { key, epoch, reason });
                }
                Loss::Ended { reason: None } => {}
                Loss::Identity => self.post(shard, ToShard::Disown { key, epoch }),
            }
        }
    }

    /// The session can receive: services are told, and what waits may come.
    pub(super) fn opened(
        &mut self,
        shard: ShardId,
        key: ConnectionKey,
        session: SessionId,
        epoch: Epoch,
        now: Now,
    ) {
        let owner = Owner { shard, key, epoch };
        let opened = self.store.opened(session, owner);
        if opened == Opened::Ignored {
            return;
        }
        if opened == Opened::ByReconnect {
            self.probe.resumed.increment();
        }
        if let Some(known) = self.store.known(session) {
            let identity = Arc::clone(known.identity);
            self.publish_opened(&identity, owner, opened, now);
        }
        // Those of a new session count from here on, if it was not known at its claim where that is.
        if let Some(position) = self.reached(session) {
            self.store.reached(session, epoch, position);
        }
        if let Some(endpoints) = self.granted.get(&session).cloned() {
            let reason = "session_reconnected".into();
            let granting = Box::new(Granting { endpoints, reason });
            self.deliver(owner, None, Content::Capabilities(granting));
        }
        if !self.replays.has(session) {
            self.mailboxes.attach(session);
        }
    }

    /// Nothing of the session is needed any more.
    fn forget(&mut self, session: SessionId) {
        self.mailboxes.forget(session);
        self.replays.forget(session);
        self.granted.remove(&session);
    }

    pub(super) fn released(
        &mut self,
        shard: ShardId,
        key: ConnectionKey,
        session: SessionId,
        epoch: Epoch,
        end: End,
        now: Now,
    ) {
        let owner = Owner { shard, key, epoch };
        // Written before the record goes.
        let fact = self.disconnected(session, now);
        let reached = self.reached(session);
        let released = self.store.release(session, owner, end, reached, now);
        debug!(%session, epoch = epoch.0, ?reached, ?released, "session released");
        if released == Released::Ignored {
            self.probe.releases_outdated.increment();
            return;
        }
        self.probe.releases.increment();
        self.mailboxes.detach(session);
        self.rpcs.abandon(session);
        let reconnectable = match released {
            Released::Waits => true,
            Released::Over => false,
            Released::Unopened | Released::Ignored => {
                if self.store.known(session).is_none() {
                    self.forget(session);
                }
                return;
            }
        };
        if !reconnectable {
            self.forget(session);
        }
        if let Some(fact) = fact {
            let (id, json) = fact(reconnectable);
            self.publish_fact(topic::SESSION_DISCONNECTED, session, id, json);
        }
    }

    /// Ends a session for good; says whether there was one. Its connection is closed if there is a
    /// `reason`; without, it is the last one.
    pub(super) fn end_session(
        &mut self,
        session: SessionId,
        reason: Option<&str>,
        now: Now,
    ) -> bool {
        match self.store.end(session, reason, now) {
            Ended::Live(Owner { shard, key, epoch }) => {
                self.probe.sessions_ended.increment();
                if let Some(reason) = reason {
                    let reason = format!("Session invalidated: {reason}").into();
                    self.post(shard, ToShard::EndSession { key, epoch, reason });
                }
                true
            }
            Ended::Waiting => {
                self.probe.sessions_ended.increment();
                self.forget(session);
                true
            }
            Ended::Unknown => false,
        }
    }

    pub(super) fn forget_expired(&mut self, now: Now) {
        let Self { mailboxes, replays, granted, probe, store, .. } = self;
        store.expire(now, &mut |session| {
            probe.sessions_expired.increment();
            mailboxes.forget(session);
            replays.forget(session);
            granted.remove(&session);
        });
    }

    /// Hands what waits to the shards of its sessions, as far as there is room.
    pub(super) fn hand_out(&mut self, now: Now) {
        if !self.store.may_deliver(now) {
            return;
        }
        for _ in 0..SESSIONS_PER_TURN {
            let Some(session) = self.mailboxes.next_ready() else { return };
            let known = self.store.known(session).filter(|known| known.open);
            let Some(owner) = known.and_then(|known| known.owner) else { continue };
            if !self.hand_to(session, owner, now) {
                self.mailboxes.put_off(session);
                return;
            }
        }
    }

    /// Says whether there was room for all of it.
    fn hand_to(&mut self, session: SessionId, owner: Owner, now: Now) -> bool {
        let index = usize::from(owner.shard.0);
        while self.outlets.get(index).is_some_and(super::port::Outlet::takes_orders) {
            let next = self.mailboxes.next_of(session, now.unix_ms);
            self.probe.events_expired.add(self.mailboxes.take_expired());
            let Some(next) = next else { return true };
            match next {
                Next::Item(place, item) => self.deliver(owner, Some(place), content(item)),
                Next::Gap { place, missed } => self.deliver_gap(owner, place, missed, now),
            }
        }
        false
    }

    fn deliver_gap(&mut self, owner: Owner, place: Place, missed: u64, now: Now) {
        self.probe.gaps.increment();
        let gap = EventGap {
            reason: GapReason::Overflow,
            missed_at_least: Some(missed),
            from: None,
            to: None,
        };
        for json in gap.events(self.rules.dialect, self.stamp(now)) {
            self.deliver(owner, Some(place), Content::Event(json.into()));
        }
    }

    fn deliver(&mut self, owner: Owner, place: Option<Place>, content: Content) {
        let Owner { shard, key, epoch } = owner;
        let Some(outlet) = self.outlets.get_mut(usize::from(shard.0)) else { return };
        let delivery = ToShard::Deliver(Delivery { key, epoch, place, content });
        if let Err(delivery) = outlet.try_send(delivery) {
            outlet.post(delivery);
        }
    }

    pub(super) fn peer_guid(&self, owner: Owner) -> Guid {
        self.peer_keys.encode(PeerRoute {
            node: self.snapshot().node,
            shard: owner.shard,
            slot: owner.key.slot,
            generation: owner.key.generation,
        })
    }

    /// Tells services of a session that can receive; first that it is connected, then how.
    fn publish_opened(&mut self, identity: &Identity, owner: Owner, opened: Opened, now: Now) {
        let Identity { session, account, standing, .. } = identity;
        let (session_id, account_id) = (*session, account.as_ref());
        let (roles, authorizations) = (&*standing.roles, &*standing.authorizations);
        let (timestamp, connect_instance_id) = (Timestamp(now.unix_ms), self.instance);
        if self.bus.wants(topic::SESSION_CONNECTED) {
            let id = event_id(&mut self.random);
            let json = to_json(&SessionConnected {
                event_id: id,
                timestamp,
                session_id,
                account_id,
                roles,
                authorizations,
                connect_instance_id,
                peer_guid: self.peer_guid(owner),
            });
            self.publish_fact(topic::SESSION_CONNECTED, session_id, id, json);
        }
        if opened == Opened::ByReconnect && self.bus.wants(topic::SESSION_RECONNECTED) {
            let id = event_id(&mut self.random);
            let json = to_json(&SessionReconnected {
                event_id: id,
                timestamp,
                session_id,
                account_id,
                roles,
                authorizations,
                peer_guid: self.peer_guid(owner),
                reconnection_context: ReconnectionContext { connect_instance_id },
            });
            self.publish_fact(topic::SESSION_RECONNECTED, session_id, id, json);
        }
    }

    /// What is to be published of a session's end, once it is known whether it can come back.
    fn disconnected(
        &mut self,
        session: SessionId,
        now: Now,
    ) -> Option<impl FnOnce(bool) -> (Uuid, Vec<u8>) + use<P, S, B>> {
        if !self.bus.wants(topic::SESSION_DISCONNECTED) {
            return None;
        }
        let id = event_id(&mut self.random);
        let identity = Arc::clone(self.store.known(session)?.identity);
        Some(move |reconnectable| {
            let json = to_json(&SessionDisconnected {
                event_id: id,
                timestamp: Timestamp(now.unix_ms),
                session_id: session,
                account_id: identity.account.as_ref(),
                reason: if reconnectable {
                    DisconnectReason::GracefulDisconnect
                } else {
                    DisconnectReason::ForcedDisconnect
                },
                reconnectable,
            });
            (id, json)
        })
    }

    fn publish_fact(&mut self, topic: &str, session: SessionId, id: Uuid, json: Vec<u8>) {
        self.probe.records_out.increment();
        self.bus.publish(Record {
            topic: topic.into(),
            key: session.to_string().into(),
            value: json.into(),
            expires_at_ms: None,
            position: None,
            trail: Some(Trail::of(&id)),
        });
    }
}

fn reached(
    replays: &Replays,
    mailboxes: &Mailboxes,
    bus: &impl EventBus,
    session: SessionId,
) -> Option<Position> {
    match replays.reached(session).unwrap_or_else(|| mailboxes.reached(session)) {
        Reached::All => bus.live(session),
        Reached::At(position) => Some(position),
        Reached::Unknown => None,
    }
}

fn content(item: Item) -> Content {
    match item {
        Item::Event(json) => Content::Event(json),
        Item::Capabilities { endpoints, reason } => {
            Content::Capabilities(Box::new(Granting { endpoints, reason }))
        }
        Item::Publish(shortcut) => Content::Publish(shortcut),
        Item::RevokeRoute(route) => Content::RevokeRoute(route),
        Item::RevokeService(service) => Content::RevokeService(service),
    }
}

/// Why a claim was refused, as a metric label.
pub(super) fn refusal_label(why: ClaimRefusal) -> &'static str {
    match why {
        ClaimRefusal::Full => "full",
        ClaimRefusal::Draining => "draining",
        ClaimRefusal::Unavailable => "unavailable",
        ClaimRefusal::TooMany => "too_many",
        ClaimRefusal::Unknown => "unknown_token",
        ClaimRefusal::Revoked => "revoked",
        ClaimRefusal::Mismatch => "mismatch",
    }
}

/// Sessions that are handed something in one turn.
const SESSIONS_PER_TURN: usize = 1024;

#[cfg(test)]
mod tests;
