//! What `corelane dev` says when it serves: sentences for people, one line of JSON for programs.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process;

use serde_json::json;

use super::{Player, demo_bus, demo_http, demo_link};

#[derive(Debug)]
pub(super) struct Announcement<'a> {
    pub(super) public: SocketAddr,
    pub(super) tls: Option<OverTls<'a>>,
    pub(super) admin: SocketAddr,
    /// Where services reach the gateway; the environment may have switched it off.
    pub(super) internal: Option<SocketAddr>,
    /// What they present there.
    pub(super) service_token: &'a str,
    pub(super) shards: usize,
    pub(super) players: &'a [Player],
    pub(super) config: &'a Path,
}

/// Where clients connect over TLS, and what they are to trust for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct OverTls<'a> {
    pub(super) address: SocketAddr,
    pub(super) authority: &'a Path,
}

impl OverTls<'_> {
    fn url(&self) -> String {
        format!("wss://{}/connect", self.address)
    }

    /// How each kind of client comes to trust it.
    fn text(&self) -> String {
        let (url, address) = (self.url(), self.address);
        let authority = shell_word(&self.authority.display().to_string());
        format!(
            "over TLS: {url}; trust its authority, whose key is gone so that it signs nothing else:\n\
             curl --cacert {authority} https://{address}/health\n\
             NODE_EXTRA_CA_CERTS={authority} node client.mjs\n\
             Chromium: chrome://certificate-manager, Custom, Installed by you, Trusted Certificates, \
             Import\n\
             Firefox: Settings, Privacy & Security, View Certificates, Authorities, Import\n\
             A folder of your own (--dir) keeps it for a year.\n\
             \n"
        )
    }
}

impl Announcement<'_> {
    pub(super) fn json(&self) -> String {
        let tokens: Vec<&str> = self.players.iter().map(|player| &*player.token).collect();
        let accounts: Vec<&str> = self.players.iter().map(|player| &*player.account).collect();
        json!({
            "url": self.url(),
            "wss_url": self.tls.map(|tls| tls.url()),
            "authority": self.tls.map(|tls| tls.authority.display().to_string()),
            "admin_url": format!("http://{}", self.admin),
            "internal_url": self.internal_url(),
            "service_token": self.service_token,
            "tokens": tokens,
            "accounts": accounts,
            "shards": self.shards,
            "pid": process::id(),
            "config": self.config.display().to_string(),
        })
        .to_string()
    }

    pub(super) fn text(&self) -> String {
        let (url, admin, shards) = (self.url(), self.admin, self.shards);
        let program = program();
        let config = shell_word(&self.config.display().to_string());
        let token = self.players.first().map_or("", |player| &player.token);
        let (echo, link_echo) = (demo_http::ECHO, demo_link::ECHO);
        let tls = self.tls.map(|tls| tls.text()).unwrap_or_default();
        let services = self.services(&program).unwrap_or_default();
        let plural = if shards == 1 { "" } else { "s" };
        format!(
            "corelane serves on {url} with {shards} shard{plural}; metrics: http://{admin}/metrics\n\
             \n\
             token:\n\
             {token}\n\
             \n\
             call a backend over HTTP; for one behind a link say {link_echo}:\n\
             CORELANE_TOKEN={token} {program} call {url} {echo} '{{\"hello\":\"world\"}}'\n\
             \n\
             {tls}{services}make tokens of more players:\n\
             {program} token mint -c {config} --count 4\n\
             \n\
             Ctrl-C ends it."
        )
    }

    /// What services do beside answering calls. Not to the player who calls: a session has one
    /// connection.
    fn services(&self, program: &str) -> Option<String> {
        let (url, internal, tick) = (self.url(), self.internal_url()?, demo_bus::TICK);
        let (Player { account, token }, service) = (self.players.get(1)?, self.service_token);
        Some(format!(
            "stay connected as another player, and see what the demo service pushes:\n\
             CORELANE_TOKEN={token} {program} listen {url}\n\
             \n\
             as a service, push that player an event, and follow the bus (docs/BACKENDS.md):\n\
             curl -H 'X-Service-Token: {service}' -d '{{\"eventName\":\"{tick}\"}}' \
             '{internal}/bus/bannou-client-events?account={account}'\n\
             curl -N -H 'X-Service-Token: {service}' {internal}/bus\n\
             \n"
        ))
    }

    fn internal_url(&self) -> Option<String> {
        self.internal.map(|address| format!("http://{address}"))
    }

    fn url(&self) -> String {
        format!("ws://{}/connect", self.public)
    }
}

/// How a shell in this folder starts this program again.
fn program() -> String {
    let Ok(path) = env::current_exe() else {
        return "corelane".to_owned();
    };
    let folders = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&folders).any(|folder| Some(folder.as_path()) == path.parent()) {
        return "corelane".to_owned();
    }
    let here = env::current_dir().unwrap_or_default();
    let shown = match path.strip_prefix(here) {
        // Without a slash the shell would look in PATH.
        Ok(below) => Path::new(".").join(below),
        Err(_) => path,
    };
    shell_word(&shown.display().to_string())
}

/// `text` as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const TOKENS: [&str; 4] = ["t1", "t2", "t3", "t4"];

    fn players() -> [Player; 4] {
        TOKENS.map(|token| Player { account: token.replace('t', "a"), token: token.to_owned() })
    }

    fn announcement(players: &[Player]) -> Announcement<'_> {
        Announcement {
            public: ([127, 0, 0, 1], 8081).into(),
            tls: None,
            admin: ([127, 0, 0, 1], 9101).into(),
            internal: Some(([127, 0, 0, 1], 9201).into()),
            service_token: "s1",
            shards: 2,
            players,
            config: Path::new("/state/it's/corelane.toml"),
        }
    }

    #[test]
    fn json_is_one_line_with_all_that_a_program_needs() {
        let line = announcement(&players()).json();
        assert!(!line.contains('\n'), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "url": "ws://127.0.0.1:8081/connect",
            "wss_url": null,
            "authority": null,
            "admin_url": "http://127.0.0.1:9101",
            "internal_url": "http://127.0.0.1:9201",
            "service_token": "s1",
            "tokens": TOKENS,
            "accounts": ["a1", "a2", "a3", "a4"],
            "shards": 2,
            "pid": process::id(),
            "config": "/state/it's/corelane.toml",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn the_printed_commands_can_be_pasted() {
        let text = announcement(&players()).text();
        let call = text.lines().find(|line| line.starts_with("CORELANE_TOKEN=t1 ")).unwrap();
        let end = " call ws://127.0.0.1:8081/connect /demo/echo '{\"hello\":\"world\"}'";
        assert!(call.ends_with(end), "{call}");
        let follow = "curl -N -H 'X-Service-Token: s1' http://127.0.0.1:9201/bus";
        assert!(text.lines().any(|line| line == follow), "{text}");
        assert!(text.contains(r"token mint -c '/state/it'\''s/corelane.toml' --count 4"), "{text}");
        let push = "curl -H 'X-Service-Token: s1' -d '{\"eventName\":\"demo.tick\"}' \
                    'http://127.0.0.1:9201/bus/bannou-client-events?account=a2'";
        assert!(text.lines().any(|line| line == push), "{text}");
        let listen = text.lines().find(|line| line.starts_with("CORELANE_TOKEN=t2 ")).unwrap();
        assert!(listen.ends_with(" listen ws://127.0.0.1:8081/connect"), "{listen}");
    }

    #[test]
    fn over_tls_it_is_said_how_to_trust_it() {
        let players = players();
        let tls = OverTls {
            address: ([127, 0, 0, 1], 8082).into(),
            authority: Path::new("/state/it's/authority.pem"),
        };
        let announcement = Announcement { tls: Some(tls), ..announcement(&players) };
        let text = announcement.text();
        let authority = r"'/state/it'\''s/authority.pem'";
        let curl = format!("curl --cacert {authority} https://127.0.0.1:8082/health");
        assert!(text.lines().any(|line| line == curl), "{text}");
        let node = format!("NODE_EXTRA_CA_CERTS={authority} node client.mjs");
        assert!(text.lines().any(|line| line == node), "{text}");
        assert!(text.contains("over TLS: wss://127.0.0.1:8082/connect;"), "{text}");
        let value: Value = serde_json::from_str(&announcement.json()).unwrap();
        assert_eq!(value["wss_url"], "wss://127.0.0.1:8082/connect");
        assert_eq!(value["authority"], "/state/it's/authority.pem");
    }

    #[test]
    fn without_an_internal_listener_nothing_is_said_of_services() {
        let players = players();
        let announcement = Announcement { internal: None, ..announcement(&players) };
        assert!(!announcement.text().contains("curl"), "{}", announcement.text());
        let value: Value = serde_json::from_str(&announcement.json()).unwrap();
        assert_eq!(value["internal_url"], Value::Null);
    }
}
