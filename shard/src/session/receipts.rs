//! Which events the client has. What was sent is remembered until the client's WebSocket stack
//! confirms it with the Pong of a later Ping, or the application with `connect.ack`; then the place
//! of the last one moves the session's cursor.
//!
//! Most sessions are sent no events: they have none of this.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::id::Place;

/// Of one session, while something is unconfirmed; for good once the application confirms itself.
#[derive(Debug, Default)]
pub struct Receipts {
    /// By rising message id.
    sent: VecDeque<Sent>,
    by: Confirms,
    /// How many of `sent`, from the back, no Ping has followed yet.
    unfollowed: usize,
    /// When the first of those was sent.
    since: Instant,
    /// Not yet told to the control core.
    confirmed: Confirmed,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    message_id: u64,
    what: Item,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// An event of the session's buffer.
    Event(Place),
    /// The reconnect token.
    Token,
}

/// Who says that something has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Confirms {
    /// The client's WebSocket stack, by its Pongs.
    #[default]
    Stack,
    /// The client's application, by `connect.ack`. Pongs mean nothing then.
    Application,
}

/// What the client has, as far as nobody was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confirmed {
    pub place: Option<Place>,
    pub token: bool,
}

impl Confirmed {
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl Receipts {
    /// `message_id` is greater than any before.
    pub fn sent(&mut self, message_id: u64, what: Item, now: Instant) {
        if self.unfollowed == 0 {
            self.since = now;
        }
        self.unfollowed += 1;
        self.sent.push_back(Sent { message_id, what });
    }

    /// Something of the buffer had its effect without a message of its own: the client has it when
    /// it has what was sent before.
    pub fn applied(&mut self, place: Place) {
        match self.sent.back_mut() {
            Some(Sent { what: Item::Event(last), .. }) => *last = place,
            Some(&mut Sent { message_id, what: Item::Token }) => {
                self.sent.push_back(Sent { message_id, what: Item::Event(place) });
            }
            None => self.confirmed.place = Some(place),
        }
    }

    /// When a Ping is to follow what was sent, if none is under way.
    #[must_use]
    pub fn ping_due(&self) -> Instant {
        match (self.by, self.unfollowed) {
            (Confirms::Application, _) | (Confirms::Stack, 0) => Instant::NEVER,
            (Confirms::Stack, EVENTS_PER_PING..) => self.since,
            (Confirms::Stack, _) => self.since + PING_WAIT,
        }
    }

    /// A Ping was queued behind everything sent so far.
    pub fn on_ping(&mut self) {
        self.unfollowed = 0;
    }

    /// The Pong of a Ping whose payload is greater than the id of whatever it followed.
    pub fn on_pong(&mut self, payload: u64) {
        if self.by == Confirms::Stack {
            self.confirm(payload);
        }
    }

    /// `connect.ack`. `newest` is the last id of all messages to the client, manifests too, which
    /// need no confirmation; a sequence beyond it says nothing.
    pub fn on_ack(&mut self, sequence: u64, newest: u64) {
        self.by = Confirms::Application;
        if sequence <= newest {
            self.confirm(sequence);
        }
    }

    /// What has been confirmed since the last call.
    pub fn take_confirmed(&mut self) -> Confirmed {
        std::mem::take(&mut self.confirmed)
    }

    /// Nothing of it is needed any more.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.sent.is_empty() && self.by == Confirms::Stack && self.confirmed.is_nothing()
    }

    fn confirm(&mut self, up_to: u64) {
        while let Some(&Sent { message_id, what }) = self.sent.front()
            && message_id <= up_to
        {
            match what {
                Item::Event(place) => self.confirmed.place = Some(place),
                Item::Token => self.confirmed.token = true,
            }
            self.sent.pop_front();
        }
        self.unfollowed = self.unfollowed.min(self.sent.len());
    }
}

/// So many events at most before a Ping follows them.
const EVENTS_PER_PING: usize = 64;

/// An event waits so long at most until a Ping follows it.
const PING_WAIT: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant(1_000_000_000);

    fn sent(places: std::ops::Range<u64>) -> Receipts {
        let mut receipts = Receipts::default();
        for place in places {
            receipts.sent(place * 10, Item::Event(Place(place)), NOW);
        }
        receipts
    }

    fn place(receipts: &mut Receipts) -> Option<u64> {
        receipts.take_confirmed().place.map(|Place(place)| place)
    }

    #[test]
    fn a_ping_is_due_after_a_while_or_after_many_events() {
        assert_eq!(Receipts::default().ping_due(), Instant::NEVER);
        assert_eq!(sent(0..1).ping_due(), NOW + Duration::from_millis(200));
        assert_eq!(sent(0..63).ping_due(), NOW + Duration::from_millis(200));
        assert_eq!(sent(0..64).ping_due(), NOW);
        let mut pinged = sent(0..64);
        pinged.on_ping();
        assert_eq!(pinged.ping_due(), Instant::NEVER);
    }

    #[test]
    fn a_pong_confirms_what_its_ping_followed_and_nothing_later() {
        let mut receipts = sent(0..3);
        receipts.on_ping();
        receipts.sent(40, Item::Event(Place(3)), NOW);
        receipts.on_pong(25);
        assert_eq!(place(&mut receipts), Some(2));
        assert_eq!(receipts.ping_due(), NOW + PING_WAIT, "the last one still waits for its Ping");
        assert!(!receipts.is_spent());
        receipts.on_ping();
        receipts.on_pong(41);
        assert_eq!(place(&mut receipts), Some(3));
        assert!(receipts.is_spent());
    }

    #[test]
    fn once_the_application_confirms_pongs_do_not() {
        let mut receipts = sent(0..3);
        receipts.on_ack(10, 30);
        assert_eq!(place(&mut receipts), Some(1));
        receipts.on_pong(100);
        assert_eq!(place(&mut receipts), None);
        assert_eq!(receipts.ping_due(), Instant::NEVER);
        receipts.on_ack(31, 30);
        assert_eq!(place(&mut receipts), None, "beyond what was sent");
        receipts.on_ack(20, 30);
        assert_eq!(place(&mut receipts), Some(2));
        receipts.sent(40, Item::Event(Place(3)), NOW);
        receipts.on_ack(50, 50);
        assert_eq!(place(&mut receipts), Some(3), "of a manifest that followed");
        assert!(!receipts.is_spent(), "it remembers who confirms");
    }

    #[test]
    fn what_needs_no_message_is_confirmed_with_what_was_sent_before() {
        let mut receipts = Receipts::default();
        receipts.applied(Place(1));
        assert_eq!(place(&mut receipts), Some(1));
        receipts.sent(10, Item::Token, NOW);
        receipts.applied(Place(2));
        assert!(receipts.take_confirmed().is_nothing());
        receipts.on_pong(11);
        assert_eq!(receipts.take_confirmed(), Confirmed { place: Some(Place(2)), token: true });
    }

    proptest! {
        /// Whatever is confirmed was sent, and places only rise.
        #[test]
        fn confirmed_places_rise_and_were_sent(steps in prop::collection::vec((0..4_u8, 0..60_u64), 1..80)) {
            let (mut receipts, mut next, mut last) = (Receipts::default(), 1, 0);
            for (step, value) in steps {
                match step {
                    0 => {
                        receipts.sent(next * 2, Item::Event(Place(next)), NOW);
                        next += 1;
                    }
                    1 => receipts.on_ping(),
                    2 => receipts.on_pong(value),
                    _ => receipts.on_ack(value, u64::MAX),
                }
                if let Some(Place(place)) = receipts.take_confirmed().place {
                    prop_assert!(place > last && place < next, "{} after {}", place, last);
                    last = place;
                }
            }
        }
    }
}
