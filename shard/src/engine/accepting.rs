//! New sockets: let in after those inside were served, and counted against the shard's bound.

use std::time::Duration;

use super::connection::{Connection, Receiving};
use super::crowd::Arrival;
use super::sealing::Greeting;
use super::upgrade::Head;
use super::{ACCEPTS_PER_TURN, Engine, Role};
use crate::probe::{Shed, TlsOutcome};
use crate::sockets::{AcceptEnd, ListenerId, Pending, Socket, Sockets};
use crate::wire::handshake::Refusal;

/// How long the head of somebody who came at the wrong moment is read before the 503.
pub(super) const CROWDED_PATIENCE: Duration = Duration::from_secs(1);

/// Pause before a listener that has failed is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<S: Sockets> Engine<S> {
    /// Arms listeners whose pause is over.
    pub(super) fn accept_after_pause(&mut self) {
        if self.accept_again_at.is_some_and(|at| at <= self.now.mono) {
            self.accept_again_now();
        }
    }

    pub(super) fn accept_again_now(&mut self) {
        self.accept_again_at = None;
        for listener in self.accept_again.drain(..) {
            // One that was not armed when accepting was stopped has not heard of it.
            if self.drain.refuses_sessions() {
                self.sockets.close_listener(listener);
            } else {
                self.sockets.accept(listener);
            }
        }
    }

    pub(super) fn let_in(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some((listener, socket)) = self.accepted.pop_front() else {
                return;
            };
            self.probe.accepted.increment();
            let turned_away = match self.judge_arrival() {
                Arrival::Welcome => None,
                Arrival::TurnedAway(refusal) => Some(refusal),
                Arrival::Unheard => {
                    self.close_unheard(socket);
                    continue;
                }
            };
            let tls = match self.greeting(listener) {
                Greeting::Plain => None,
                Greeting::Sealed(tls) => Some(tls),
                Greeting::Crowded => {
                    self.probe.door.tls(TlsOutcome::Crowded);
                    self.close_unheard(socket);
                    continue;
                }
            };
            let patience = match (&self.options.tls, turned_away) {
                (Some(options), _) if tls.is_some() => options.handshake_timeout,
                (_, Some(_)) => CROWDED_PATIENCE,
                (_, None) => self.options.head_timeout,
            };
            let until = self.now.mono + patience;
            let head = Box::new(Head::new(until, turned_away));
            let named_first = self.asks_for_names_first();
            let mut connection = Connection::new(Some(socket), Role::Head(head), self.now.mono);
            let handshaking = usize::from(tls.is_some());
            connection.tls = tls;
            connection.receiving = if named_first { Receiving::Off } else { Receiving::Armed };
            match self.table.insert(connection, self.now.mono) {
                Ok(key) => {
                    self.downstream += 1;
                    self.handshaking += handshaking;
                    self.crowd.enters();
                    self.sockets.peer_name(listener, socket, key);
                    if !named_first {
                        self.sockets.receive(socket, key);
                    }
                    self.set_deadline(key);
                }
                // Even the spare slots are taken: nobody is left to answer.
                Err(_) => self.close_unheard(socket),
            }
        }
    }

    fn judge_arrival(&mut self) -> Arrival {
        match self.crowd.judge_arrival(&self.snapshot.door, self.now.mono) {
            Arrival::Unheard => Arrival::Unheard,
            _ if self.downstream >= self.options.connections_max => {
                Arrival::TurnedAway(Refusal::Full)
            }
            _ if self.pressure.sheds_connections() => Arrival::TurnedAway(Refusal::ShortOfMemory),
            arrival => arrival,
        }
    }

    fn close_unheard(&mut self, socket: Socket) {
        self.probe.shed(Shed::Unheard);
        self.sockets.close(socket, super::NOBODY, Pending::Nothing);
    }

    pub(super) fn accept_ended(&mut self, listener: ListenerId, cause: AcceptEnd) {
        match cause {
            // What was queued has been accepted and is answered; nobody else can connect.
            AcceptEnd::Cancelled => self.sockets.close_listener(listener),
            // Armed again when a socket has been closed, or after a while: whatever the kernel
            // lacks, asking in every turn would not bring it back.
            AcceptEnd::TableFull | AcceptEnd::Failed(_) => {
                self.accept_again.push(listener);
                self.accept_again_at = Some(self.now.mono + ACCEPT_PAUSE);
            }
        }
    }
}
