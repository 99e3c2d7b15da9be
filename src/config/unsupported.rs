//! Keys of the protocol that nothing here reads yet. They are accepted at their default, so that a
//! deployment can keep its settings, and refused by name at any other value.

/// One such key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unsupported {
    /// In `[session]`; its variable is `CONNECT_` and the name in capitals.
    pub(super) name: &'static str,
    /// Empty: unset.
    pub(super) default: &'static str,
    pub(super) reason: &'static str,
}

pub(super) const UNSUPPORTED: [Unsupported; 5] = [
    key("message_queue_size", "1000", "the bounds of a queue are limits.outbox_*"),
    key("rpc_cleanup_interval_seconds", "30", "every RPC has its own deadline"),
    key("connection_cleanup_interval_seconds", "30", "every session has its own timers"),
    key("pending_message_timeout_seconds", "30", "every call has its own deadline"),
    key("companion_room_mode", "Disabled", "companion rooms are not built"),
];

const fn key(name: &'static str, default: &'static str, reason: &'static str) -> Unsupported {
    Unsupported { name, default, reason }
}

impl Unsupported {
    pub(super) fn by_name(name: &str) -> Option<&'static Self> {
        UNSUPPORTED.iter().find(|key| key.name == name)
    }

    pub(super) fn by_variable(variable: &str) -> Option<&'static Self> {
        let name = variable.strip_prefix("CONNECT_")?.to_ascii_lowercase();
        Self::by_name(&name)
    }

    pub(super) fn is_default(&self, written: &str) -> bool {
        written.trim().trim_matches('"').eq_ignore_ascii_case(self.default)
    }

    pub(super) fn message(&self) -> String {
        let default = if self.default.is_empty() { "unset" } else { self.default };
        format!(
            "`{}` cannot be set: {}; leave it at its default ({default})",
            self.name, self.reason
        )
    }
}
