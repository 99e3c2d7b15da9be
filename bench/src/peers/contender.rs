//! How each server of a comparison is started: its configuration, its backend, its processor. What
//! load it gets is in `workload`.

use std::fs;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::certificate;
use super::place::{self, ADMIN_PORT, BACKEND_PORT, NATS_PORT, PORT, Place, authority};
use super::template::Value;
use crate::server_process::{Launch, ServerProcess};

mod gateway;

pub(super) use gateway::{Gateway, GatewayBackend};

/// A server that can be measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Server {
    Corelane(Gateway),
    /// WebSocket proxies in front of an echo backend.
    Nginx,
    Haproxy,
    Envoy,
    /// nginx with nchan: calls of an HTTP backend.
    NchanCalls,
    /// nginx with nchan: rooms.
    NchanRooms,
    Nats,
    Centrifugo,
    /// The yardsticks.
    BareRelay {
        send_each: bool,
    },
    NullEcho,
}

/// Why a server is not measured.
#[derive(Debug, Error)]
pub(super) enum StartError {
    #[error("absent: {program} is not installed")]
    Absent { program: &'static str },
    #[error("did not start: {source}{}", .said.as_ref().map(|s| format!(" ({s})")).unwrap_or_default())]
    Failed { source: io::Error, said: Option<String> },
}

/// A server, its backend, and what a client needs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) server: ServerProcess,
    pub(super) backend: Option<ServerProcess>,
    pub(super) url: String,
    /// A file with a token a line.
    pub(super) tokens: Option<PathBuf>,
}

impl Running {
    /// Whether nothing of it has ended by itself.
    pub(super) fn lives(&mut self) -> bool {
        self.server.lives() && self.backend.as_mut().is_none_or(ServerProcess::lives)
    }
}

impl Server {
    pub(super) fn program(&self) -> &'static str {
        match self {
            Self::Corelane(_) => "corelane",
            Self::Nginx | Self::NchanCalls | Self::NchanRooms => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Nats => "nats-server",
            Self::Centrifugo => "centrifugo",
            Self::BareRelay { .. } => "bare_relay",
            Self::NullEcho => "null_echo",
        }
    }

    /// The part of the thread names that carry messages, where others are of interest too.
    pub(super) fn message_threads(&self) -> Option<&'static str> {
        matches!(self, Self::Corelane(_)).then_some("shard-")
    }

    fn is_ours(&self) -> bool {
        matches!(self, Self::Corelane(_) | Self::BareRelay { .. } | Self::NullEcho)
    }

    fn path(&self, place: &Place) -> Result<PathBuf, StartError> {
        let program = self.program();
        let found = if self.is_ours() {
            Some(place.programs.join(program)).filter(|path| path.is_file())
        } else {
            place::find(program)
        };
        found.ok_or(StartError::Absent { program })
    }

    /// What the server and the programs behind it say they are; nothing of those that are absent.
    pub(super) fn versions(&self, place: &Place) -> Vec<String> {
        let behind = match self {
            Self::Corelane(Gateway { backend: GatewayBackend::Http, .. })
            | Self::NchanCalls
            | Self::NchanRooms
            | Self::Centrifugo => Self::Nginx.version(place),
            _ => None,
        };
        self.version(place).into_iter().chain(behind).collect()
    }

    fn version(&self, place: &Place) -> Option<String> {
        if matches!(self, Self::NchanCalls | Self::NchanRooms) {
            // A module has no voice of its own; its package's number is the best there is.
            let query = place::find("dpkg-query")?;
            return place::said(&query, &["--show", "libnginx-mod-nchan"]);
        }
        let argument = match self {
            Self::Envoy | Self::Nats => "--version",
            Self::Nginx | Self::Haproxy => "-v",
            Self::Corelane(_) | Self::Centrifugo => "version",
            _ => return None,
        };
        place::said(&self.path(place).ok()?, &[argument])
    }

    /// Starts the server and its backend, and mints tokens for `connections`.
    pub(super) fn start(
        &self,
        place: &Place,
        connections: usize,
        tls: bool,
    ) -> Result<Running, StartError> {
        let path = self.path(place)?;
        let failed =
            |source| StartError::Failed { source, said: place.last_message(self.program()) };
        self.prepare(place, path, connections, tls).map_err(failed)
    }

    fn prepare(
        &self,
        place: &Place,
        path: PathBuf,
        connections: usize,
        tls: bool,
    ) -> io::Result<Running> {
        let backend = self.backend(place)?;
        let tokens = match self {
            Self::Corelane(gateway) => {
                gateway.write_config(place, tls)?;
                Some(gateway::mint(place, &path, connections)?)
            }
            _ => None,
        };
        let cpus = match self {
            Self::Corelane(gateway) if gateway.shards > 1 => {
                vec![place.server_cpu, place.load_cpu]
            }
            _ => vec![place.server_cpu],
        };
        let mut words = vec![path.display().to_string()];
        words.extend(self.arguments(place, tls)?);
        let launch = Launch {
            words,
            environment: self.environment(),
            cpus,
            messages: Some(place.messages(self.program())?),
        };
        let server = ServerProcess::launch(launch, &authority(PORT))?;
        let scheme = if tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{}{}", authority(PORT), self.url_path());
        Ok(Running { server, backend, url, tokens })
    }

    fn arguments(&self, place: &Place, tls: bool) -> io::Result<Vec<String>> {
        let folder = place.scratch.display().to_string();
        let (tls_on, tls) = self.tls(place, tls)?;
        let values: Vec<Value> = vec![
            ("tls_on", tls_on.to_owned()),
            ("tls", tls),
            ("port", PORT.to_string()),
            ("backend_port", BACKEND_PORT.to_string()),
            ("nats_port", NATS_PORT.to_string()),
            ("folder", folder.clone()),
            ("nginx_modules", nginx_modules()),
        ];
        let config = |name: &str| place.fill(name, &values).map(|path| path.display().to_string());
        let words = |words: &[&str], config: String| {
            words.iter().map(|w| (*w).to_owned()).chain([config]).collect()
        };
        Ok(match self {
            Self::Corelane(_) => words(&["serve", "-c"], place.own_config()),
            Self::Nginx => words(&["-p", &folder, "-c"], config("nginx.conf")?),
            Self::NchanCalls | Self::NchanRooms => {
                words(&["-p", &folder, "-c"], config("nchan.conf")?)
            }
            Self::Haproxy => words(&["-db", "-f"], config("haproxy.cfg")?),
            Self::Envoy => words(
                &["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"],
                config("envoy.yaml")?,
            ),
            Self::Nats => words(&["-c"], config("nats.conf")?),
            Self::Centrifugo => words(&["-c"], config("centrifugo.json")?),
            Self::BareRelay { send_each } => {
                let sends = if *send_each { "per-message" } else { "per-turn" };
                words(&["--sends", sends, "--port"], PORT.to_string())
            }
            Self::NullEcho => words(&["--port"], PORT.to_string()),
        })
    }

    /// What a template says of TLS where it listens, and below that.
    fn tls(&self, place: &Place, tls: bool) -> io::Result<(&'static str, String)> {
        let folder = place.scratch.display();
        Ok(match (self, tls) {
            (_, false) | (Self::Corelane(_), true) => ("", String::new()),
            (Self::Nginx, true) => {
                (" ssl", place.filled("nginx_tls.conf", &[("folder", folder.to_string())])?)
            }
            (Self::Haproxy, true) => ("", format!(" ssl crt {folder}/{}", certificate::BOTH)),
            (_, true) => {
                let program = self.program();
                return Err(io::Error::other(format!("{program} has no template for TLS")));
            }
        })
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Nats | Self::Centrifugo => vec![("GOMAXPROCS", "1".to_owned())],
            _ => Vec::new(),
        }
    }

    fn url_path(&self) -> &'static str {
        match self {
            Self::Corelane(_) => "/connect",
            Self::Nginx | Self::Haproxy | Self::Envoy => "/ws",
            // The harness puts the number of the room or of the caller behind it.
            Self::NchanCalls => "/rpc/",
            Self::NchanRooms | Self::BareRelay { .. } => "/room/",
            Self::Nats | Self::NullEcho => "/",
            Self::Centrifugo => "/connection/websocket",
        }
    }

    /// The backend that stands behind the server, on the other processor.
    fn backend(&self, place: &Place) -> io::Result<Option<ServerProcess>> {
        let program = match self {
            Self::Nginx | Self::Haproxy | Self::Envoy => "null_echo",
            Self::Corelane(Gateway { backend: GatewayBackend::Link, .. }) => "link_echo",
            Self::Corelane(Gateway { backend: GatewayBackend::Http, .. })
            | Self::NchanCalls
            | Self::Centrifugo => return http_backend(place).map(Some),
            _ => return Ok(None),
        };
        let launch = Launch {
            words: vec![place.own(program), "--port".to_owned(), BACKEND_PORT.to_string()],
            cpus: vec![place.load_cpu],
            messages: Some(place.messages(program)?),
            ..Launch::default()
        };
        ServerProcess::launch(launch, &authority(BACKEND_PORT)).map(Some)
    }
}

impl Place {
    fn own_config(&self) -> String {
        self.scratch.join(gateway::CONFIG).display().to_string()
    }
}

/// 200 bytes. Centrifugo wants an answer of its own shape; to the others it is one like any.
fn http_body() -> String {
    let [begin, end] = [r#"{"result":{"data":""#, r#""}}"#];
    let filler = "x".repeat(200 - begin.len() - end.len());
    format!("{begin}{filler}{end}")
}

/// nginx that answers every request.
fn http_backend(place: &Place) -> io::Result<ServerProcess> {
    let nginx = place::find("nginx")
        .ok_or_else(|| io::Error::other("the HTTP backend, nginx, is not installed"))?;
    let folder = place.scratch.display().to_string();
    let values = [
        ("folder", folder.clone()),
        ("backend_port", BACKEND_PORT.to_string()),
        ("body", http_body()),
    ];
    let config = place.fill("http_backend.conf", &values)?.display().to_string();
    let launch = Launch {
        words: vec![nginx.display().to_string(), "-p".to_owned(), folder, "-c".to_owned(), config],
        cpus: vec![place.load_cpu],
        messages: Some(place.messages("http_backend")?),
        ..Launch::default()
    };
    ServerProcess::launch(launch, &authority(BACKEND_PORT))
}

/// The folder of nginx's modules, as it was built.
fn nginx_modules() -> String {
    let said = place::find("nginx").and_then(|nginx| {
        let said = std::process::Command::new(nginx).arg("-V").output().ok()?;
        Some(String::from_utf8_lossy(&said.stderr).into_owned())
    });
    let said = said.unwrap_or_default();
    let folder = said.split_whitespace().find_map(|word| word.strip_prefix("--modules-path="));
    folder.unwrap_or("modules").to_owned()
}

/// The address of the gateway's admin listener.
pub(super) fn admin_url() -> String {
    format!("http://{}", authority(ADMIN_PORT))
}

/// Makes the folder that the servers' files go to, and the certificate in it.
pub(super) fn make_scratch(place: &Place) -> io::Result<()> {
    fs::create_dir_all(&place.scratch)?;
    certificate::write(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_backend_answers_200_bytes_of_json() {
        let body = http_body();
        assert_eq!(body.len(), 200);
        assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok(), "{body}");
    }

    #[test]
    fn every_template_can_be_filled() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            templates: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/peers")),
            scratch: folder.path().to_owned(),
            programs: PathBuf::new(),
            server_cpu: 0,
            load_cpu: 1,
        };
        let servers =
            [Server::Nginx, Server::NchanCalls, Server::Haproxy, Server::Envoy, Server::Nats];
        for server in servers.into_iter().chain([Server::Centrifugo]) {
            let words = server.arguments(&place, false).unwrap();
            let text = fs::read_to_string(words.last().unwrap()).unwrap();
            assert!(text.contains(&PORT.to_string()), "{text}");
        }
        Gateway { endpoints: 3, ..Gateway::routing(GatewayBackend::Link) }
            .write_config(&place, false)
            .unwrap();
        let text = fs::read_to_string(place.own_config()).unwrap();
        assert!(
            text.contains("link://127.0.0.1:17210") && text.contains("/bench/echo-2"),
            "{text}"
        );
        assert!(!text.contains("tls"), "{text}");
        make_scratch(&place).unwrap();
        for server in [Server::Nginx, Server::Haproxy] {
            let words = server.arguments(&place, true).unwrap();
            let text = fs::read_to_string(words.last().unwrap()).unwrap();
            let files: Vec<_> =
                text.split_whitespace().filter(|word| word.contains("certificate")).collect();
            let named = files
                .iter()
                .map(|file| file.trim_end_matches(';'))
                .filter(|file| file.starts_with('/'));
            assert!(named.clone().count() > 0, "{text}");
            for file in named {
                assert!(fs::read_to_string(file).unwrap().contains("BEGIN"), "{file}");
            }
        }
        Gateway::relaying(1).write_config(&place, true).unwrap();
        let text = fs::read_to_string(place.own_config()).unwrap();
        assert!(text.contains("[[listen.tls.certificate]]"), "{text}");
        assert!(Server::Nats.arguments(&place, true).is_err());
    }
}
