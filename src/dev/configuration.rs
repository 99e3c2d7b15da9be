//! The `corelane.toml` of `corelane dev`: complete, so that `serve`, `check` and `token mint` take
//! it too.

use std::net::SocketAddr;

use uuid::Uuid;

use super::authority;
use super::folder::{KEY, LINK_TOKEN, MARK};
use super::{demo_bus, demo_http, demo_link};

/// Name of both demo services, and issuer and audience of the tokens.
pub(super) const SERVICE: &str = "demo";

/// What differs from one start to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) public: SocketAddr,
    /// Where clients connect over TLS, if they do.
    pub(super) tls: Option<SocketAddr>,
    pub(super) shards: Option<usize>,
    pub(super) http: SocketAddr,
    pub(super) link: SocketAddr,
}

impl Setup {
    /// The text of the file, with a salt of its own.
    pub(super) fn render(&self) -> String {
        let Self { public, http, link, .. } = self;
        let tls = self.tls.map(listen_tls).unwrap_or_default();
        let shards =
            self.shards.map(|count| format!("\n[shards]\ncount = {count}\n")).unwrap_or_default();
        let salt = Uuid::new_v4().simple();
        let service_token = Uuid::new_v4().simple();
        let [echo, time, link_echo] = [demo_http::ECHO, demo_http::TIME, demo_link::ECHO];
        let tick = demo_bus::TICK;
        format!(
            r#"{MARK}
# `corelane config defaults` prints every key. Start from a copy of this for a gateway of your own.

[listen.public]
address = ["{public}"]
{tls}
[listen.internal]
# Any free port; whoever starts this is told which.
address = "127.0.0.1:0"
service_token = "{service_token}"

[listen.admin]
# Any free port; the log and the line of `--json` name it.
address = "127.0.0.1:0"
{shards}
[session]
# Players may address each other.
connection_mode = "Relayed"
server_salt = "{salt}"

[limits]
# No rate limit.
messages_per_window = 0

[events]
# Besides the events of the protocol.
client_event_names = ["{tick}"]

[echo]
enabled = true
path = "/echo"

[drain]
# Ctrl-C ends it soon.
grace = "0s"
spread = "0s"
calls = "2s"
deadline = "5s"

[[auth.key]]
id = "dev"
algorithm = "HS256"
file = "{KEY}"
issuer = "corelane-dev"
audience = "corelane-dev"
native = true

# One service, two ways to reach it.
[[service]]
name = "{SERVICE}"
addresses = ["http://{http}"]
endpoints = [
    {{ path = "{echo}" }},
    {{ path = "{time}", idempotent = true }},
]

[[service]]
name = "{SERVICE}"
addresses = ["link://{link}"]
token_file = "{LINK_TOKEN}"
endpoints = [{{ path = "{link_echo}" }}]

[[role]]
name = "user"
endpoints = ["{SERVICE}:*"]
"#
        )
    }
}

fn listen_tls(address: SocketAddr) -> String {
    let (certificate, key) = (authority::CERTIFICATE, authority::KEY);
    format!(
        r#"
[listen.tls]
address = ["{address}"]

[[listen.tls.certificate]]
certificate = "{certificate}"
key = "{key}"
"#
    )
}
