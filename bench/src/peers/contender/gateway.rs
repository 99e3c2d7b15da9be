//! The gateway's own configuration and tokens.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::place::{ADMIN_PORT, BACKEND_PORT, PLAIN_PORT, PORT, Place};

pub(super) const CONFIG: &str = "corelane.toml";
const KEY: &str = "token.key";
const TOKENS: &str = "tokens";

/// What of the gateway's configuration differs between the cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Gateway {
    pub(in super::super) shards: usize,
    pub(in super::super) backend: GatewayBackend,
    /// Players may address each other.
    pub(in super::super) relayed: bool,
    /// Of the one service, if there is a backend.
    pub(in super::super) endpoints: usize,
    /// Pause between the 101 and the manifest.
    pub(in super::super) first_frame_delay: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum GatewayBackend {
    None,
    Link,
    Http,
}

impl Gateway {
    pub(in super::super) fn routing(backend: GatewayBackend) -> Self {
        Self { shards: 1, backend, relayed: false, endpoints: 1, first_frame_delay: "20ms" }
    }

    pub(in super::super) fn relaying(shards: usize) -> Self {
        Self { shards, relayed: true, ..Self::routing(GatewayBackend::None) }
    }

    /// The paths that can be called.
    pub(in super::super) fn paths(&self) -> Vec<String> {
        (0..self.endpoints).map(|number| format!("/bench/echo-{number}")).collect()
    }

    /// Writes the configuration and the key that it names.
    pub(super) fn write_config(&self, place: &Place, tls: bool) -> io::Result<()> {
        let listening = [
            ("port", PORT.to_string()),
            ("plain_port", PLAIN_PORT.to_string()),
            ("folder", place.scratch.display().to_string()),
        ];
        let template = if tls { "corelane_tls.toml" } else { "corelane_plain.toml" };
        let values = [
            ("listen", place.filled(template, &listening)?),
            ("admin_port", ADMIN_PORT.to_string()),
            ("shards", self.shards.to_string()),
            ("mode", if self.relayed { "Relayed" } else { "External" }.to_owned()),
            ("first_frame_delay", self.first_frame_delay.to_owned()),
            ("service", self.service(place)?),
        ];
        place.fill(CONFIG, &values)?;
        // A gateway that strangers can reach has a secret one.
        fs::write(place.scratch.join(KEY), "0123456789abcdef0123456789abcdef")
    }

    fn service(&self, place: &Place) -> io::Result<String> {
        let scheme = match self.backend {
            GatewayBackend::Link => "link",
            GatewayBackend::Http => "http",
            GatewayBackend::None => return Ok(String::new()),
        };
        let paths = self.paths();
        let endpoints: Vec<_> =
            paths.iter().map(|path| format!("{{ path = \"{path}\" }}")).collect();
        let values = [
            ("backend", format!("{scheme}://127.0.0.1:{BACKEND_PORT}")),
            ("endpoints", endpoints.join(", ")),
        ];
        place.filled("corelane_service.toml", &values)
    }
}

/// A file with `count` tokens of sessions that differ.
pub(super) fn mint(place: &Place, program: &Path, count: usize) -> io::Result<PathBuf> {
    let made = Command::new(program)
        .args(["token", "mint", "-c"])
        .arg(place.scratch.join(CONFIG))
        .args(["--role", "user", "--ttl", "12h", "--count", &count.to_string()])
        .output()?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr).trim().replace('\n', " ");
        return Err(io::Error::other(format!("no tokens: {said}")));
    }
    let path = place.scratch.join(TOKENS);
    fs::write(&path, made.stdout)?;
    Ok(path)
}
