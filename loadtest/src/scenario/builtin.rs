//! The scenarios that come with the program: the files of `scenarios/`.

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    pub name: &'static str,
    /// The TOML file.
    pub text: &'static str,
}

/// All, by name.
pub(super) const ALL: &[Builtin] = &[
    Builtin { name: "broadcast-200", text: include_str!("../../scenarios/broadcast-200.toml") },
    Builtin { name: "broadcast-8", text: include_str!("../../scenarios/broadcast-8.toml") },
    Builtin { name: "call-http", text: include_str!("../../scenarios/call-http.toml") },
    Builtin { name: "call-link-16", text: include_str!("../../scenarios/call-link-16.toml") },
    Builtin { name: "call-link", text: include_str!("../../scenarios/call-link.toml") },
    Builtin {
        name: "call-many-endpoints",
        text: include_str!("../../scenarios/call-many-endpoints.toml"),
    },
    Builtin {
        name: "centrifugo-calls",
        text: include_str!("../../scenarios/centrifugo-calls.toml"),
    },
    Builtin {
        name: "connect-manifest",
        text: include_str!("../../scenarios/connect-manifest.toml"),
    },
    Builtin { name: "connect-storm", text: include_str!("../../scenarios/connect-storm.toml") },
    Builtin { name: "echo", text: include_str!("../../scenarios/echo.toml") },
    Builtin { name: "handshake-storm", text: include_str!("../../scenarios/handshake-storm.toml") },
    Builtin { name: "idle-hold", text: include_str!("../../scenarios/idle-hold.toml") },
    Builtin { name: "latency", text: include_str!("../../scenarios/latency.toml") },
    Builtin { name: "nats-rooms", text: include_str!("../../scenarios/nats-rooms.toml") },
    Builtin { name: "nchan-calls", text: include_str!("../../scenarios/nchan-calls.toml") },
    Builtin { name: "nchan-rooms", text: include_str!("../../scenarios/nchan-rooms.toml") },
    Builtin {
        name: "peers-cross-shard",
        text: include_str!("../../scenarios/peers-cross-shard.toml"),
    },
    Builtin {
        name: "peers-same-shard",
        text: include_str!("../../scenarios/peers-same-shard.toml"),
    },
    Builtin { name: "peers", text: include_str!("../../scenarios/peers.toml") },
    Builtin { name: "push-backlog", text: include_str!("../../scenarios/push-backlog.toml") },
    Builtin { name: "push", text: include_str!("../../scenarios/push.toml") },
    Builtin { name: "quick", text: include_str!("../../scenarios/quick.toml") },
    Builtin { name: "reconnect-storm", text: include_str!("../../scenarios/reconnect-storm.toml") },
];

impl Builtin {
    pub fn all() -> &'static [Self] {
        ALL
    }

    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|builtin| builtin.name == name)
    }

    /// The file's own `description`.
    pub fn description(&self) -> &'static str {
        let line = self.text.lines().find_map(|line| line.strip_prefix("description = \""));
        line.map_or("", |rest| rest.trim_end_matches('"'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn every_one_is_valid_and_says_what_it_is() {
        for builtin in ALL {
            let scenario = scenario::load(builtin.name, &[]).unwrap_or_else(|refused| {
                panic!("{}: {refused:?}", builtin.name);
            });
            assert_eq!(scenario.name, builtin.name);
            assert_eq!(scenario.description, builtin.description());
            assert!(!scenario.description.is_empty(), "{}", builtin.name);
        }
    }
}
