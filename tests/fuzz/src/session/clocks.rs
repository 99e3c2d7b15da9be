//! When a connection is pinged and given up, and which events its client has.

use std::time::Duration;

use arbitrary::Arbitrary;
use corelane_shard::clock::Instant;
use corelane_shard::id::Place;
use corelane_shard::session::liveness::{DropCause, Liveness, LivenessAction, Pong};
use corelane_shard::session::receipts::{Item, Receipts};
use corelane_shard::snapshot::SessionLimits;

#[derive(Debug, Arbitrary)]
pub(super) enum Step {
    Later {
        ms: u16,
    },
    Bytes,
    Data,
    BeginsMessage,
    EndsMessage,
    PingLeaves,
    Pong {
        right: bool,
    },
    Closing,
    Event,
    Applied,
    Token,
    /// `connect.ack`, so far behind or beyond what was sent.
    Ack {
        back: i8,
    },
    Due,
}

pub(super) struct Run {
    limits: SessionLimits,
    now: Instant,
    liveness: Liveness,
    closing: bool,
    /// Payload of the Ping that is under way.
    pinged: Option<u64>,
    ping_left: bool,
    receipts: Receipts,
    /// The id and place that were given out last.
    message_id: u64,
    place: u64,
    confirmed: u64,
}

impl Run {
    pub(super) fn new() -> Self {
        let limits = SessionLimits::default();
        let now = Instant(1_000_000_000);
        Self {
            liveness: Liveness::new(&limits, now),
            limits,
            now,
            closing: false,
            pinged: None,
            ping_left: false,
            receipts: Receipts::default(),
            message_id: 1000,
            place: 0,
            confirmed: 0,
        }
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Later { ms } => self.now = self.now + Duration::from_millis(ms.into()) * 4,
            Step::Bytes => self.liveness.on_bytes(self.now),
            Step::Data => self.liveness.on_data(self.now),
            Step::BeginsMessage => self.liveness.on_message_incomplete(self.now),
            Step::EndsMessage => self.liveness.on_message_complete(),
            Step::PingLeaves => {
                self.liveness.on_ping_sent(self.now);
                self.ping_left = self.pinged.is_some();
            }
            Step::Pong { right } => self.pong(right),
            Step::Closing => {
                self.liveness.on_closing(&self.limits, self.now);
                self.closing = true;
                (self.pinged, self.ping_left) = (None, false);
            }
            Step::Event => {
                self.message_id += 3;
                self.place += 1;
                let item = Item::Event(Place(self.place));
                self.receipts.sent(self.message_id, item, self.now);
            }
            Step::Applied => {
                self.place += 1;
                self.receipts.applied(Place(self.place));
            }
            Step::Token => {
                self.message_id += 3;
                self.receipts.sent(self.message_id, Item::Token, self.now);
            }
            Step::Ack { back } => {
                let sequence = self.message_id.saturating_add_signed(back.into());
                self.receipts.on_ack(sequence, self.message_id);
            }
            Step::Due => self.due(),
        }
        self.check();
    }

    fn pong(&mut self, right: bool) {
        let payload = self.pinged.unwrap_or(7) ^ u64::from(!right);
        let expected = right && self.ping_left;
        match self.liveness.on_pong(&payload.to_be_bytes()) {
            Pong::Expected { payload: answered } => {
                assert!(expected && answered == payload);
                (self.pinged, self.ping_left) = (None, false);
                self.receipts.on_pong(answered);
            }
            Pong::Unsolicited => assert!(!expected),
        }
    }

    /// What is due is done, and then nothing is due any more at this moment.
    fn due(&mut self) {
        let nothing_due = self.liveness.next_deadline(&self.limits) > self.now;
        for round in 0.. {
            assert!(round < 5, "what was done is not due again");
            let action = self.liveness.on_deadline(&self.limits, self.now);
            assert!(!nothing_due || action == LivenessAction::None, "{action:?} before its time");
            match action {
                LivenessAction::None => break,
                LivenessAction::ReleaseFirstFrame => assert!(!self.liveness.holds_first_frame()),
                LivenessAction::Ping => {
                    assert!(self.pinged.is_none(), "one Ping at a time");
                    self.message_id += 3;
                    self.pinged = Some(self.message_id);
                    assert!(self.liveness.may_ping());
                    assert!(self.liveness.begin_ping(self.message_id).is_ok());
                    self.receipts.on_ping();
                }
                LivenessAction::CloseIdle | LivenessAction::CloseStalledMessage => {
                    assert!(!self.closing, "it is closed once");
                    self.step(&Step::Closing);
                }
                LivenessAction::Drop(cause) => {
                    assert!(self.closing == (cause == DropCause::CloseTimeout));
                    assert!(self.closing || self.ping_left, "only a Ping that left is late");
                    *self = Self { now: self.now, ..Self::new() };
                    self.liveness = Liveness::new(&self.limits, self.now);
                    return;
                }
            }
        }
        assert!(self.liveness.next_deadline(&self.limits) > self.now, "the timer goes on");
    }

    fn check(&mut self) {
        let confirmed = self.receipts.take_confirmed();
        if let Some(Place(place)) = confirmed.place {
            assert!(place > self.confirmed && place <= self.place, "{place}");
            self.confirmed = place;
        }
        if self.receipts.is_spent() {
            assert_eq!(self.receipts.ping_due(), Instant::NEVER, "nothing waits for a Ping");
        }
    }
}
