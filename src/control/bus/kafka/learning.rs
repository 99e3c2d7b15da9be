//! What the surveyor tells: which partitions there are, from where they are read, and which are to be
//! read again.

use std::time::Instant;

use tracing::{info, warn};

use super::KafkaBus;
use super::positions::{Assign, Positions, Watermarks, Why};
use super::scans::{Finished, Live};
use super::surveyor::{Answer, Found, Question};
use super::topics::Inbound;
use crate::control::bus::{Missing, Replay};

/// The looks for topics.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) asked: Option<Instant>,
    pub(super) under_way: bool,
    /// Something was not there at the last one, or was gone where it was to be read since.
    pub(super) incomplete: bool,
}

impl KafkaBus {
    pub(super) fn look_for_topics(&mut self) {
        self.positions.iter_mut().for_each(Positions::ask);
        self.survey.asked = Some(Instant::now());
        self.survey.under_way = true;
        self.surveyor.ask(Question::Topics);
    }

    pub(super) fn take_answers(&mut self) {
        while let Some(answer) = self.surveyor.next() {
            match answer {
                Answer::Topic(topic, found) => self.learn(topic, &found),
                Answer::Ends(partition, Some(marks)) => {
                    if let Some(from) = self.scans.surveyed(partition, marks) {
                        self.end_reading(partition);
                        self.reading.push(partition);
                        let topic = self.topics.on_brokers(Inbound::ClientEvents);
                        self.replay.assign(topic, &[(partition, from)]);
                    }
                }
                // Asked again at the next tick.
                Answer::Ends(_, None) => {}
                Answer::Done(up) => {
                    self.contact.reached(up);
                    self.survey.under_way = false;
                    let known = |positions: &Positions| {
                        positions.is_ready()
                            && positions.partitions().is_some()
                            && !positions.has_stopped()
                    };
                    self.survey.incomplete = !up || !self.positions.iter().all(known);
                }
            }
            self.due.scans = true;
        }
    }

    fn learn(&mut self, topic: Inbound, found: &Found) {
        let positions = &mut self.positions[topic as usize];
        let before = positions.partitions();
        let marks = match found {
            Found::Missing => {
                positions.missing();
                &[][..]
            }
            Found::Partitions(marks) => marks,
        };
        let assigned = if marks.is_empty() { Vec::new() } else { positions.surveyed(marks) };
        self.probe.kafka.lags(topic, positions.behind(marks));
        if positions.partitions() != before {
            let partitions = positions.partitions().unwrap_or(0);
            info!(topic = topic.name(), partitions, "topic found");
        }
        for assign in &assigned {
            let marks = marks.get(assign.partition as usize).copied().flatten();
            self.end_live_reading(topic, *assign, marks);
        }
        if !assigned.is_empty() {
            let begun: Vec<_> = assigned.iter().map(|it| (it.partition, it.from)).collect();
            self.live.assign(self.topics.on_brokers(topic), &begun);
        }
        if topic == Inbound::ClientEvents {
            let events = &self.positions[topic as usize];
            self.probe.kafka.partitions.set(u64::from(events.partitions().unwrap_or(0)));
            if events.is_ready() {
                self.publisher.release();
            }
        }
        self.finish_scans();
    }

    /// Of a partition whose reading goes on elsewhere than where it was.
    fn end_live_reading(&mut self, topic: Inbound, assign: Assign, marks: Option<Watermarks>) {
        let Assign { partition, from, why } = assign;
        let events = topic == Inbound::ClientEvents;
        if why != Why::New {
            self.live.unassign(self.topics.on_brokers(topic), partition);
        }
        let topic = topic.name();
        match why {
            Why::LostItsEnd => {
                warn!(topic, partition, from, "a partition has lost its end; read anew");
                if let Some(Watermarks { high, .. }) = marks.filter(|_| events) {
                    self.scans.shortened(partition, high);
                }
            }
            Why::OutOfRange { next } if next < from => {
                let missed = from - next;
                self.probe.kafka.missed.add(missed);
                warn!(topic, partition, missed, "records were gone before they were read");
                if events {
                    self.missed.insert(partition, Missing { from: next, to: from });
                }
            }
            Why::New | Why::OutOfRange { .. } => {}
        }
    }

    pub(super) fn begin_scans(&mut self) {
        let events = &self.positions[Inbound::ClientEvents as usize];
        let asked = self.scans.begin(|partition| match events.next(partition) {
            Some(next) => Live::At(next),
            None if events.lacks(partition) => Live::Gone,
            None => Live::Unknown,
        });
        for partition in asked {
            self.surveyor.ask(Question::Ends(partition));
        }
        for Replay { session, from, .. } in self.scans.take_ahead() {
            self.ahead.insert(session, from);
        }
        self.probe.kafka.scans.set(self.scans.running() as u64);
    }

    pub(super) fn finish_scans(&mut self) {
        for Finished { partition, length } in self.scans.take_finished() {
            self.probe.kafka.scan_length.observe(length as f64);
            self.end_reading(partition);
            self.due.scans = true;
        }
    }

    fn end_reading(&mut self, partition: u32) {
        if let Some(at) = self.reading.iter().position(|reading| *reading == partition) {
            self.reading.swap_remove(at);
            self.replay.unassign(self.topics.on_brokers(Inbound::ClientEvents), partition);
        }
    }
}
