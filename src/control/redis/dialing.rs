//! Finds the primary and keeps a connection to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, Value};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Fault, Link, Password, RedisProbe, RedisRules};

/// Runs for as long as somebody has a handle.
pub(super) async fn keep(
    rules: RedisRules,
    found: watch::Sender<Option<Link>>,
    mut broken: watch::Receiver<u64>,
    probe: Arc<RedisProbe>,
) {
    let mut number = 0;
    let mut pause = PAUSE_MIN;
    // What was said last, so that the log has a line for each change and not for each attempt.
    let mut said: Option<Fault> = None;
    loop {
        number += 1;
        match dial(&rules, number).await {
            Ok((link, server)) => {
                info!(server, "redis is connected");
                said = None;
                probe.connected();
                found.send_replace(Some(link));
                let begun = Instant::now();
                if broken.wait_for(|broken| *broken >= number).await.is_err() {
                    return;
                }
                found.send_replace(None);
                probe.disconnected();
                warn!("the connection to redis is lost");
                if begun.elapsed() > PAUSE_MAX {
                    pause = PAUSE_MIN;
                }
            }
            Err(fault) => {
                probe.failed(&fault);
                if said.as_ref() != Some(&fault) {
                    warn!(reason = %fault, "redis cannot be used");
                    said = Some(fault);
                }
            }
        }
        // Between half of it and all of it: nodes that lost the server together do not come back
        // together.
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// To the first of the servers that is a primary; or of the servers that the Sentinels name, which
/// are asked in turn: one that was cut off from the others may name what was.
async fn dial(rules: &RedisRules, number: u64) -> Result<(Link, String), Fault> {
    let mut last = Fault::Unreachable;
    for (host, port) in &rules.servers {
        match dial_by(rules, authority(host, *port), number).await {
            Ok(found) => return Ok(found),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// A host that is gone may not say so: each question has its own time, so that the next one is asked.
async fn dial_by(rules: &RedisRules, server: String, number: u64) -> Result<(Link, String), Fault> {
    let server = match &rules.sentinel {
        None => server,
        Some(name) => in_time(rules, ask_sentinel(rules, &server, name)).await?,
    };
    let link = in_time(rules, connect(rules, &server, number)).await?;
    Ok((link, server))
}

async fn in_time<T>(
    rules: &RedisRules,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout(rules.connect_timeout, work).await.unwrap_or(Err(Fault::TimedOut))
}

async fn connect(rules: &RedisRules, server: &str, number: u64) -> Result<Link, Fault> {
    let scheme = if rules.tls { "rediss" } else { "redis" };
    let url = format!("{scheme}://{server}/{}", rules.database);
    let password = match &rules.password {
        Password::Unneeded => None,
        Password::Given(secret) => Some(secret.reveal().to_owned()),
        Password::File(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Fault::PasswordFile(error.to_string().into()))?;
            Some(text.trim_end_matches(['\n', '\r']).to_owned())
        }
    };
    let address = url.as_str().into_connection_info()?;
    let mut greeting = address.redis_settings().clone();
    if let Some(user) = &rules.user {
        greeting = greeting.set_username(user);
    }
    if let Some(password) = password {
        greeting = greeting.set_password(password);
    }
    let client = Client::open(address.set_redis_settings(greeting))?;
    let mut connection = open(&client, rules).await?;
    let facts: HashMap<String, Value> = redis::cmd("HELLO").query_async(&mut connection).await?;
    let is_primary = |role: &Value| matches!(role, Value::BulkString(role) if role == b"master");
    if !facts.get("role").is_some_and(is_primary) {
        return Err(Fault::ReadOnly);
    }
    Ok(Link { connection, number })
}

async fn open(client: &Client, rules: &RedisRules) -> Result<MultiplexedConnection, Fault> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(rules.connect_timeout))
        .set_response_timeout(Some(rules.timeout));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

/// Where the primary is. Sentinels are spoken to without user and password.
async fn ask_sentinel(rules: &RedisRules, server: &str, name: &str) -> Result<String, Fault> {
    let scheme = if rules.tls { "rediss" } else { "redis" };
    let client = Client::open(format!("{scheme}://{server}"))?;
    let mut connection = open(&client, rules).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(name);
    let told: Option<(String, u16)> = question.query_async(&mut connection).await?;
    let (host, port) = told.ok_or_else(|| Fault::UnknownPrimary(name.into()))?;
    Ok(authority(&host, port))
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
