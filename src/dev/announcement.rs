//! What `corelane dev` says when it serves: sentences for people, one line of JSON for programs.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process;

use serde_json::json;

use super::{demo_http, demo_link};

#[derive(Debug)]
pub(super) struct Announcement<'a> {
    pub(super) public: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Where services reach the gateway.
    pub(super) internal: Option<SocketAddr>,
    /// What they present there.
    pub(super) service_token: &'a str,
    pub(super) shards: usize,
    pub(super) tokens: &'a [String],
    pub(super) config: &'a Path,
}

impl Announcement<'_> {
    pub(super) fn json(&self) -> String {
        json!({
            "url": self.url(),
            "admin_url": format!("http://{}", self.admin),
            "internal_url": self.internal.map(|address| format!("http://{address}")),
            "service_token": self.service_token,
            "tokens": self.tokens,
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
        let token = self.tokens.first().map_or("", String::as_str);
        let (echo, link_echo) = (demo_http::ECHO, demo_link::ECHO);
        let internal = self.internal.map(|address| self.follow(address)).unwrap_or_default();
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
             {internal}make tokens of more players:\n\
             {program} token mint -c {config} --count 4\n\
             \n\
             Ctrl-C ends it."
        )
    }

    fn follow(&self, internal: SocketAddr) -> String {
        let token = self.service_token;
        format!(
            "follow what services are told; GET /openapi.json there says what they can do:\n\
             curl -N -H 'X-Service-Token: {token}' http://{internal}/bus\n\
             \n"
        )
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

    fn announcement(tokens: &[String]) -> Announcement<'_> {
        Announcement {
            public: ([127, 0, 0, 1], 8081).into(),
            admin: ([127, 0, 0, 1], 9101).into(),
            internal: Some(([127, 0, 0, 1], 9201).into()),
            service_token: "s1",
            shards: 2,
            tokens,
            config: Path::new("/state/it's/corelane.toml"),
        }
    }

    #[test]
    fn json_is_one_line_with_all_that_a_program_needs() {
        let tokens = TOKENS.map(str::to_owned);
        let line = announcement(&tokens).json();
        assert!(!line.contains('\n'), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "url": "ws://127.0.0.1:8081/connect",
            "admin_url": "http://127.0.0.1:9101",
            "internal_url": "http://127.0.0.1:9201",
            "service_token": "s1",
            "tokens": TOKENS,
            "shards": 2,
            "pid": process::id(),
            "config": "/state/it's/corelane.toml",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn the_printed_commands_can_be_pasted() {
        let tokens = TOKENS.map(str::to_owned);
        let text = announcement(&tokens).text();
        let call = text.lines().find(|line| line.starts_with("CORELANE_TOKEN=t1 ")).unwrap();
        let end = " call ws://127.0.0.1:8081/connect /demo/echo '{\"hello\":\"world\"}'";
        assert!(call.ends_with(end), "{call}");
        let follow = "curl -N -H 'X-Service-Token: s1' http://127.0.0.1:9201/bus";
        assert!(text.lines().any(|line| line == follow), "{text}");
        assert!(text.contains(r"token mint -c '/state/it'\''s/corelane.toml' --count 4"), "{text}");
    }
}
