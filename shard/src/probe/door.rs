//! What is counted at the door.

use super::{Counter, Kind, Sample};
use crate::identity::AuthRefusal;

closed_list! {
    /// By which way a credential came.
    CredentialRoute {
        Header => "header",
        Subprotocol => "subprotocol",
        Query => "query",
        Cookie => "cookie",
        Reconnect => "reconnect",
        ServiceToken => "service_token",
        /// None was asked for.
        Network => "network",
    }
}

closed_list! {
    /// How a TLS handshake ended.
    TlsOutcome {
        Full => "full",
        /// Cut short by a ticket.
        Resumed => "resumed",
        Failed => "failed",
        NotTls => "not_tls",
        TimedOut => "timed_out",
        ClientGone => "client_gone",
        /// Ended by us for what is known of the client without it.
        Refused => "refused",
        /// Not begun: as many were under way as may be.
        Crowded => "crowded",
    }
}

#[derive(Debug)]
pub struct DoorProbe {
    /// Clients that are not let in yet.
    pub waiting: Counter,
    /// Tokens that the control core is asked about.
    pub validating: Counter,
    /// TLS handshakes under way.
    pub handshaking: Counter,
    handshakes: [Counter; TlsOutcome::ALL.len()],
    routes: [Counter; CredentialRoute::ALL.len()],
    refusals: [Counter; AuthRefusal::ALL.len()],
}

impl Default for DoorProbe {
    fn default() -> Self {
        Self {
            waiting: Counter::default(),
            validating: Counter::default(),
            handshaking: Counter::default(),
            handshakes: std::array::from_fn(|_| Counter::default()),
            routes: std::array::from_fn(|_| Counter::default()),
            refusals: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl DoorProbe {
    pub fn tls(&self, outcome: TlsOutcome) {
        self.handshakes[outcome as usize].increment();
    }

    pub fn credential(&self, route: CredentialRoute) {
        self.routes[route as usize].increment();
    }

    pub fn refused(&self, why: AuthRefusal) {
        self.refusals[why as usize].increment();
    }

    pub(super) fn visit(&self, each: &mut dyn FnMut(Sample)) {
        let help = "Clients at the door, their requests being read or judged";
        let value = self.waiting.read();
        each(Sample { name: "unauthenticated", help, kind: Kind::Gauge, label: None, value });
        let help = "Tokens that wait for the auth service's judgement";
        let value = self.validating.read();
        each(Sample { name: "tokens_validating", help, kind: Kind::Gauge, label: None, value });
        let help = "TLS handshakes under way";
        let value = self.handshaking.read();
        each(Sample { name: "tls_handshaking", help, kind: Kind::Gauge, label: None, value });
        let handshakes =
            TlsOutcome::ALL.iter().map(|outcome| outcome.label()).zip(&self.handshakes);
        for (outcome, counter) in handshakes {
            let (name, help) = ("tls_handshakes", "TLS handshakes by outcome");
            let (label, value) = (Some(("outcome", outcome)), counter.read());
            each(Sample { name, help, kind: Kind::Counter, label, value });
        }
        let routes = CredentialRoute::ALL.iter().map(|route| route.label()).zip(&self.routes);
        for (route, counter) in routes {
            let (name, help) = ("credentials", "Credentials presented, by route");
            let (label, value) = (Some(("route", route)), counter.read());
            each(Sample { name, help, kind: Kind::Counter, label, value });
        }
        let refusals = AuthRefusal::ALL.iter().map(|why| why.label()).zip(&self.refusals);
        for (reason, counter) in refusals {
            let (name, help) = ("tokens_refused", "Tokens refused, by reason");
            let (label, value) = (Some(("reason", reason)), counter.read());
            each(Sample { name, help, kind: Kind::Counter, label, value });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_counter_of_its_own() {
        for (place, why) in AuthRefusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place);
        }
    }
}
