//! New sockets: let in after those inside were served, and counted against the shard's bound.

use super::connection::{Connection, Receiving};
use super::upgrade::Head;
use super::{ACCEPTS_PER_TURN, Engine, Role};
use crate::sockets::{AcceptEnd, ListenerId, Sockets};

impl<S: Sockets> Engine<S> {
    pub(super) fn let_in(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some((listener, socket)) = self.accepted.pop_front() else {
                return;
            };
            self.probe.accepted.increment();
            let until = self.now.mono + self.options.head_timeout;
            let crowded = self.downstream >= self.options.connections_max;
            let head = Box::new(Head::new(until, crowded));
            let mut connection = Connection::new(Some(socket), Role::Head(head), self.now.mono);
            connection.receiving = Receiving::Armed;
            match self.table.insert(connection, self.now.mono) {
                Ok(key) => {
                    self.downstream += 1;
                    self.sockets.peer_name(listener, socket, key);
                    self.sockets.receive(socket, key);
                    self.set_deadline(key);
                }
                // Even the spare slots are taken: nobody is left to answer.
                Err(_) => self.sockets.close(socket, super::NOBODY),
            }
        }
    }

    pub(super) fn accept_ended(&mut self, listener: ListenerId, cause: AcceptEnd) {
        match cause {
            // What was queued has been accepted and is answered; nobody else can connect.
            AcceptEnd::Cancelled => self.sockets.close_listener(listener),
            // Armed again when a socket has been closed.
            AcceptEnd::TableFull => self.accept_again.push(listener),
            AcceptEnd::Failed(_) => self.sockets.accept(listener),
        }
    }
}
