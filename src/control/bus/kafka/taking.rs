//! Records that were read: whose they are, and whether they are taken.

use std::sync::Arc;

use corelane_shard::id::SessionId;
use tracing::warn;

use super::counts::Fault;
use super::fetched::{Fetched, FetchedRecord};
use super::partitioner::SessionKey;
use super::scans::Told;
use super::settings::KafkaSettings;
use super::surveyor::Question;
use super::topics::Inbound;
use super::{KafkaBus, headers};
use crate::control::bus::{Arrival, Position, Record};
use crate::control::probe::ControlProbe;

impl KafkaBus {
    pub(super) fn read_live(
        &mut self,
        wanted: &mut dyn FnMut(SessionId) -> bool,
    ) -> Option<Arrival> {
        let Self { live, topics, positions, probe, budget, settings, ahead, survey, .. } = self;
        let counts = &probe.kafka;
        while *budget > 0 {
            let fetched = match live.next()? {
                Fetched::Record(fetched) => fetched,
                Fetched::OutOfRange { topic, partition } => {
                    if let Some(topic) = topics.find(&topic) {
                        positions[topic as usize].out_of_range(partition);
                        survey.incomplete = true;
                    }
                    continue;
                }
                Fetched::End(_) | Fetched::Error(_) => continue,
            };
            *budget -= 1;
            counts.read.add(1);
            let (partition, offset) = (fetched.partition(), fetched.offset());
            let Some(topic) = topics.find(fetched.topic()) else { continue };
            if !positions[topic as usize].take(partition, offset) {
                counts.fault(Fault::Duplicate);
                continue;
            }
            if topic != Inbound::ClientEvents {
                let record = taken(&fetched, topics.shared(topic), settings, probe);
                let Some(record) = record else { continue };
                return Some(Arrival::Record(record));
            }
            let key = fetched.key().unwrap_or_default();
            let Some(session) = SessionKey::session(key) else {
                counts.fault(Fault::Key);
                continue;
            };
            if !wanted(session) {
                continue;
            }
            let has = |at: &Position| at.partition == partition && offset < at.offset;
            if !ahead.is_empty() && ahead.get(&session).is_some_and(has) {
                counts.fault(Fault::Ahead);
                continue;
            }
            let of = positions[topic as usize].partitions().unwrap_or(0);
            if settings.partitioner.partition(key, of) != Some(partition) {
                counts.fault(Fault::Misplaced);
                if !std::mem::replace(&mut self.misplaced_said, true) {
                    warn!(
                        partition,
                        offset,
                        "an event is in another partition than kafka.partitioner says: what is \
                         published before a session changes nodes may not be found again; set it to \
                         what publishers use"
                    );
                }
            }
            let record = taken(&fetched, topics.shared(topic), settings, probe);
            if let Some(record) = record {
                return Some(Arrival::ForSession { session, record });
            }
        }
        None
    }

    pub(super) fn read_replay(
        &mut self,
        wanted: &mut dyn FnMut(SessionId) -> bool,
    ) -> Option<Arrival> {
        while self.budget > 0 {
            let Self { replay, topics, scans, probe, settings, surveyor, budget, .. } = &mut *self;
            let arrival = match replay.next()? {
                Fetched::Error(_) => None,
                Fetched::End(partition) => {
                    if scans.reached_end(partition) {
                        surveyor.ask(Question::Ends(partition));
                    }
                    None
                }
                Fetched::OutOfRange { partition, .. } => {
                    if scans.out_of_range(partition) {
                        surveyor.ask(Question::Ends(partition));
                    }
                    None
                }
                Fetched::Record(fetched) => {
                    *budget -= 1;
                    probe.kafka.scan_records.add(1);
                    let (partition, offset) = (fetched.partition(), fetched.offset());
                    let session = fetched.key().and_then(SessionKey::session);
                    let epoch = scans.offer(partition, offset, session);
                    session.zip(epoch).filter(|(session, _)| wanted(*session)).and_then(
                        |(session, epoch)| {
                            let topic = topics.shared(Inbound::ClientEvents);
                            let record = taken(&fetched, topic, settings, probe)?;
                            Some(Arrival::Replayed { session, epoch, record })
                        },
                    )
                }
            };
            self.finish_scans();
            if arrival.is_some() {
                return arrival;
            }
            // Whoever has everything is told before others have more.
            if self.scans.has_told() {
                return self.told();
            }
        }
        None
    }

    pub(super) fn told(&mut self) -> Option<Arrival> {
        Some(match self.scans.next_told()? {
            Told::Missing { session, epoch, missing } => {
                Arrival::ReplayMissing { session, epoch, missing }
            }
            Told::Ended { session, epoch } => Arrival::ReplayEnded { session, epoch },
        })
    }
}

/// The record as the bus gives it on; odd ones are counted.
fn taken(
    fetched: &FetchedRecord<'_>,
    topic: Arc<str>,
    settings: &KafkaSettings,
    probe: &ControlProbe,
) -> Option<Record> {
    let Some(value) = fetched.value().filter(|value| !value.is_empty()) else {
        probe.kafka.fault(Fault::Empty);
        return None;
    };
    if value.len() > settings.record_bytes_max {
        probe.kafka.fault(Fault::TooLong);
        return None;
    }
    let Ok(expires_at_ms) = headers::expiry(fetched) else {
        probe.kafka.fault(Fault::Headers);
        return None;
    };
    let (partition, offset) = (fetched.partition(), fetched.offset());
    Some(Record {
        topic,
        key: Box::default(),
        value: value.into(),
        expires_at_ms,
        position: Some(Position { partition, offset }),
        trail: None,
    })
}
