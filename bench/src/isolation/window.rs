//! The processes of a window: gateway, backend, Redis, Kafka, and the clients of two kinds.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::outage::Services;
use super::pair::{Seen, Window};
use crate::own_gateway::{OwnGateway, Plan, number, own_program, problem};
use crate::server_process::{Launch, ServerProcess};

/// Where `bench/isolation.toml` listens.
const AUTHORITY: &str = "127.0.0.1:9182";
const ADMIN: &str = "127.0.0.1:9183";

const BACKEND_PORT: &str = "9187";

/// An outage begins when all clients are connected; a node without Redis withholds events after 3 s,
/// and what is measured comes after that.
const WARM_UP: Duration = Duration::from_secs(5);

/// The calls begin so long before the measurement of the messages, and go on as long after it: what
/// the gateway used meanwhile it used for both.
const MARGIN: Duration = Duration::from_secs(1);

/// For everything that should be quick.
const SOON: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Clients of each of the two kinds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) clients: usize,
    pub(super) per_second: f64,
}

/// Everything that runs, in the order in which it is ended.
#[derive(Debug)]
pub(super) struct Field {
    gateway: OwnGateway,
    _backend: ServerProcess,
    services: Services,
    load: Load,
}

impl Field {
    pub(super) fn start(
        config: &Path,
        scratch: PathBuf,
        services: &Path,
        load: Load,
        (server_cpu, load_cpu): (usize, usize),
    ) -> io::Result<Self> {
        let services = Services::start(services, scratch.join("services"), load_cpu)?;
        let echo = own_program("link_echo")?.display().to_string();
        let cpu = load_cpu.to_string();
        let words = [&echo, "--port", BACKEND_PORT, "--cpu", &cpu].map(str::to_owned).to_vec();
        let messages = Some(fs::File::create(scratch.join("backend.log"))?);
        let launch = Launch { words, messages, ..Launch::default() };
        let backend = ServerProcess::launch(launch, &format!("127.0.0.1:{BACKEND_PORT}"))?;
        let more = format!(
            "{}\n[[service]]\nname = \"bench\"\naddresses = [\"link://127.0.0.1:{BACKEND_PORT}\"]\n\
             endpoints = [{{ path = \"/bench/echo\" }}]\n",
            services.tables()
        );
        let tokens = &[("peers.tokens", load.clients), ("calls.tokens", load.clients)];
        let (authority, more) = (AUTHORITY, more.as_str());
        let plan = Plan { config, more, authority, scratch, tokens, server_cpu, load_cpu };
        let gateway = OwnGateway::start(plan)?;
        Ok(Self { gateway, _backend: backend, services, load })
    }

    /// A window in which Redis and Kafka answer.
    pub(super) fn with_services(&self, length: Duration) -> io::Result<Window> {
        self.window(length, false)
    }

    /// A window in which both stand still.
    pub(super) fn without_services(&self, length: Duration) -> io::Result<Window> {
        self.window(length, true)
    }

    fn window(&self, length: Duration, stopped: bool) -> io::Result<Window> {
        await_metrics("the clients before are gone, and Redis and Kafka are there", |metrics| {
            metrics.sum("corelane_sessions") == 0.0 && metrics.is_sure()
        })?;
        let peers = self.scenario("peer", "", WARM_UP, length);
        let endpoints = "endpoints = [\"/bench/echo\"]\n";
        let calls = self.scenario("call", endpoints, WARM_UP - MARGIN, length + 2 * MARGIN);
        let peers = self.gateway.begin("peers", &peers, "peers.tokens")?;
        let calls = self.gateway.begin("calls", &calls, "calls.tokens")?;
        let all = 2.0 * self.load.clients as f64;
        await_metrics("all clients are connected", |it| it.sum("corelane_sessions") == all)?;
        let outage = if stopped { Some(self.services.stop()?) } else { None };
        let peers = peers.result()?;
        let noticed = !Metrics::scrape()?.is_sure();
        let calls = calls.result()?;
        drop(outage);
        if noticed != stopped {
            let what = if stopped { "has not noticed an outage" } else { "was not sure of Redis" };
            return Err(io::Error::other(format!("the gateway {what}: see its log")));
        }
        Ok(Window {
            cpu_us: cpu_per_message(&peers, &calls)?,
            peers: seen(&peers)?,
            calls: seen(&calls)?,
        })
    }

    /// Messages at times that were planned before.
    fn scenario(&self, kind: &str, more: &str, warm_up: Duration, length: Duration) -> String {
        let Load { clients, per_second } = self.load;
        let (warm_up, length) = (warm_up.as_millis(), length.as_millis());
        let cpu = self.gateway.load_cpu();
        format!(
            "name = \"{kind}s\"\n\
             [target]\nprotocol = \"corelane\"\n\
             [traffic]\nkind = \"{kind}\"\n{more}\
             [connections]\ncount = {clients}\n\
             [arrival]\nmode = \"poisson\"\nrate = {per_second:.1}\n\
             [timing]\nwarm_up = \"{warm_up}ms\"\nduration = \"{length}ms\"\n\
             [generator]\ncpus = [{cpu}]\n\
             # How late they are is judged by the pair.\n\
             [validity]\nlag_p99_max = \"1h\"\nbusy_max = 1.0\n\
             [thresholds]\nfaults = {{ at_most = 0 }}\nerrors = {{ at_most = 0 }}\n"
        )
    }
}

fn seen(outcome: &Value) -> io::Result<Seen> {
    Ok(Seen {
        p99_us: number(outcome, "/latency/from_intended/p99_us")?,
        lag_p99_us: number(outcome, "/latency/send_lag/p99_us")?,
        problem: problem(outcome),
    })
}

/// The gateway's time during the measurement of `peers`, in which both kinds came at their rates.
fn cpu_per_message(peers: &Value, calls: &Value) -> io::Result<f64> {
    let rate = |outcome| {
        let (messages, seconds) = ("/messages/measured", "/measured_seconds");
        io::Result::Ok(number(outcome, messages)? / number(outcome, seconds)?)
    };
    let cpu_us = number(peers, "/server/cpu_us")?;
    Ok(cpu_us / number(peers, "/measured_seconds")? / (rate(peers)? + rate(calls)?))
}

/// One scrape of the gateway.
struct Metrics(String);

impl Metrics {
    fn scrape() -> io::Result<Self> {
        let mut stream = TcpStream::connect(ADMIN)?;
        stream.set_read_timeout(Some(SOON))?;
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(Self(text))
    }

    /// Over all rows of a name; 0 where there is none.
    fn sum(&self, name: &str) -> f64 {
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let (_, value) = rest.rsplit_once(' ').filter(|_| rest.starts_with([' ', '{']))?;
            value.parse::<f64>().ok()
        };
        self.0.lines().filter_map(value).sum()
    }

    /// Redis has renewed the lease of late, and brokers of Kafka answer.
    fn is_sure(&self) -> bool {
        self.sum("corelane_redis_lease_held") == 1.0 && self.sum("corelane_kafka_up") == 1.0
    }
}

fn await_metrics(what: &str, holds: impl Fn(&Metrics) -> bool) -> io::Result<()> {
    let until = Instant::now() + SOON;
    while !holds(&Metrics::scrape()?) {
        if Instant::now() > until {
            return Err(io::Error::other(format!("not in time: {what}; see the gateway's log")));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_one_name_are_added() {
        let text = "# TYPE a gauge\na{shard=\"0\"} 3\na{shard=\"1\"} 4.5\nab 100\nb 1\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!((metrics.sum("a"), metrics.sum("b"), metrics.sum("c")), (7.5, 1.0, 0.0));
        assert!(!metrics.is_sure());
    }

    #[test]
    fn the_time_of_the_gateway_is_shared_by_the_messages_of_both_kinds() {
        let peers = json!({
            "messages": { "measured": 20_000 }, "measured_seconds": 10.0,
            "server": { "cpu_us": 600_000.0 },
        });
        let calls = json!({ "messages": { "measured": 12_000 }, "measured_seconds": 12.0 });
        assert_eq!(cpu_per_message(&peers, &calls).unwrap(), 20.0);
    }
}
