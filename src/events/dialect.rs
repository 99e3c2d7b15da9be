//! The two spellings of event names. Client libraries of each generation know only their own.

pub use corelane_shard::snapshot::NameDialect;

/// An event that the gateway itself writes to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnEvent {
    CapabilityManifest,
    DisconnectNotification,
    SessionToken,
    EventGap,
}

impl OwnEvent {
    pub const ALL: [Self; 4] = [
        Self::CapabilityManifest,
        Self::DisconnectNotification,
        Self::SessionToken,
        Self::EventGap,
    ];

    /// The one or two names to write the event under, in the order of writing.
    #[must_use]
    pub const fn names(self, dialect: NameDialect) -> &'static [&'static str] {
        let both: &'static [&'static str; 2] = match self {
            Self::CapabilityManifest => {
                &["connect.capability-manifest", "connect.capability_manifest"]
            }
            Self::DisconnectNotification => {
                &["connect.disconnect-notification", "connect.disconnect_notification"]
            }
            Self::SessionToken => &["connect.session-token", "connect.session_token"],
            Self::EventGap => &["connect.event-gap", "connect.event_gap"],
        };
        let [hyphen, underscore] = both;
        match dialect {
            NameDialect::Hyphen => std::slice::from_ref(hyphen),
            NameDialect::Underscore => std::slice::from_ref(underscore),
            NameDialect::Both => both,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_writes_its_own_spelling_and_both_write_two() {
        for event in OwnEvent::ALL {
            let [hyphen] = event.names(NameDialect::Hyphen) else { panic!("{event:?}") };
            let [underscore] = event.names(NameDialect::Underscore) else { panic!("{event:?}") };
            assert!(hyphen.starts_with("connect.") && hyphen.contains('-'), "{hyphen}");
            assert_eq!(*underscore, hyphen.replace('-', "_"));
            assert_eq!(event.names(NameDialect::Both), [*hyphen, *underscore]);
        }
    }

    #[test]
    fn the_manifest_has_the_protocols_name() {
        let names = OwnEvent::CapabilityManifest.names(NameDialect::Hyphen);
        assert_eq!(names, ["connect.capability-manifest"]);
    }
}
