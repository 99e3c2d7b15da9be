//! The end at the door: a whole answer, a line for the operators, and the connection ends.

use super::connection::{Connection, Fin};
use super::sending::NotQueued;
use super::upgrade::Stage;
use super::{Engine, Role};
use crate::id::ConnectionKey;
use crate::identity::AuthRefusal;
use crate::lane::{ToControl, UpgradeRefused};
use crate::probe::TlsOutcome;
use crate::sockets::Sockets;
use crate::wire::handshake::{REFUSAL_BYTES_MAX, Refusal};

impl<S: Sockets> Engine<S> {
    pub(super) fn refused_token(&self, why: AuthRefusal) -> Refusal {
        self.probe.door.refused(why);
        match why {
            AuthRefusal::Unavailable => Refusal::Unavailable,
            AuthRefusal::Malformed
            | AuthRefusal::AlgorithmMismatch
            | AuthRefusal::UnknownKey
            | AuthRefusal::BadSignature
            | AuthRefusal::Expired
            | AuthRefusal::NotYetValid
            | AuthRefusal::WrongParty
            | AuthRefusal::NoSession
            | AuthRefusal::Revoked
            | AuthRefusal::NotAccepted => Refusal::BadCredential,
        }
    }

    /// Answers a refusal whole, then ends the connection.
    pub(super) fn refuse(&mut self, key: ConnectionKey, refusal: Refusal) {
        if self.is_handshaking(key) {
            if !self.awaits_proxy_header(key) {
                return self.refuse_unheard(key, refusal);
            }
            // Proxies are spoken to in plain.
            self.unseal(key);
        }
        let mut answer = [0; REFUSAL_BYTES_MAX];
        let len = refusal.write(self.retry_after_s(), &mut answer);
        self.probe.upgrade(refusal.outcome());
        self.report_refusal(key, refusal);
        let _said = self.say(key, &answer[..len]);
        self.end_head(key);
    }

    /// Before hands are shaken nothing can be said.
    fn refuse_unheard(&mut self, key: ConnectionKey, refusal: Refusal) {
        self.probe.door.tls(match refusal {
            Refusal::HeadTimeout => TlsOutcome::TimedOut,
            _ => TlsOutcome::Refused,
        });
        self.probe.upgrade(refusal.outcome());
        self.report_refusal(key, refusal);
        self.cut(key, "refused before the TLS handshake was over");
    }

    fn awaits_proxy_header(&self, key: ConnectionKey) -> bool {
        matches!(self.table.get(key).map(|connection| &connection.role), Some(Role::Proxied(_)))
    }

    pub(super) fn head_timed_out(&mut self, key: ConnectionKey) {
        let ours = self.table.get(key).is_some_and(|connection| {
            matches!(
                &connection.role,
                Role::Head(head) if matches!(head.stage, Stage::Validating(_) | Stage::Claiming(_))
            )
        });
        self.refuse(key, if ours { Refusal::Unavailable } else { Refusal::HeadTimeout });
    }

    /// One line for the operators; lost when the lane is full, the counter is not.
    fn report_refusal(&mut self, key: ConnectionKey, refusal: Refusal) {
        let line = UpgradeRefused {
            shard: self.options.shard,
            peer: self.table.get(key).and_then(Connection::peer_address),
            status: refusal.status(),
            reason: refusal.label(),
        };
        if self.log_lines.take() {
            drop(self.lanes.tell_control(ToControl::UpgradeRefused(Box::new(line)), self.now.mono));
        }
    }

    pub(super) fn end_head(&mut self, key: ConnectionKey) {
        self.end_role(key, 0, "refused at the door");
        self.start_leaving(key, Fin::Flushed);
    }

    /// Without room for the answer the client is let go.
    pub(super) fn say(&mut self, key: ConnectionKey, bytes: &[u8]) -> Result<(), NotQueued> {
        let said = self.queue_raw(key, bytes);
        if said.is_err() {
            self.cut(key, "no room for the answer at the door");
        }
        said
    }

    /// Seconds to come back after, spread so that those refused together do not return together.
    fn retry_after_s(&mut self) -> u32 {
        self.random.u32(1..=5)
    }
}
