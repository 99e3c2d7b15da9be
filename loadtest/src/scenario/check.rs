//! From what a file says to a scenario that can be run: keys that need each other, keys that mean
//! nothing together, values that no run could have.

use std::ops::Range;

use toml::Spanned;

use super::file::{
    ArrivalTable, BoundTable, File, Kind, Mode, SearchTable, TargetTable, TlsTable, TrafficTable,
    Version,
};
use super::{
    Arrival, Bound, CloseBy, Connections, EventTopic, Generator, Metric, Placement, Protocol,
    Ready, Reply, Scenario, Search, Target, Threshold, Timing, Tls, TlsVersion, Traffic, Validity,
};
use crate::stamp;
use crate::wire::event;

/// Where services publish events for sessions, unless the file says otherwise.
const CLIENT_EVENTS: &str = "bannou-client-events";

/// One mistake, and the bytes of the file that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

/// Collects every mistake of a file, so that one look finds them all.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.0.push(Finding { span, message: message.into() });
    }

    /// The value of a key that `owner` cannot do without.
    fn needed<T>(
        &mut self,
        owner: &Range<usize>,
        key: &str,
        value: Option<Spanned<T>>,
    ) -> Option<T> {
        if value.is_none() {
            self.add(owner.clone(), format!("this needs the key `{key}`"));
        }
        value.map(Spanned::into_inner)
    }

    fn useless<T>(&mut self, key: &str, value: Option<&Spanned<T>>, beside: &str) {
        if let Some(value) = value {
            self.add(value.span(), format!("`{key}` has no effect with {beside}"));
        }
    }
}

/// The scenario of `file`; replayed offsets are read by `read_offsets` from the file's name.
pub(super) fn scenario(
    file: File,
    read_offsets: &mut dyn FnMut(&str) -> Result<Vec<u64>, String>,
) -> Result<Scenario, Vec<Finding>> {
    let mut findings = Findings::default();
    let kind = *file.traffic.kind.get_ref();
    let payload_bytes = payload(&file.traffic, file.target.kafka.is_some(), &mut findings);
    let count = file.connections.count.get();
    check_pairing(&file, &mut findings);
    let tls = tls(file.tls, &file.target.url, &mut findings);
    let target = target(file.target, &file.traffic, &mut findings);
    let traffic = traffic(file.traffic, count, &mut findings);
    let arrival = arrival(file.arrival, kind, read_offsets, &mut findings);
    let thresholds = thresholds(file.thresholds, &mut findings);
    let search = file.search.map(|table| search(&table, &mut findings));
    let scenario = Scenario {
        name: file.name,
        description: file.description,
        target,
        tls,
        traffic: traffic.unwrap_or(Traffic::Echo),
        payload_bytes,
        connections: Connections {
            count,
            per_second: file.connections.per_second.0,
            opening: file.connections.opening.get(),
            sources: file.connections.sources,
        },
        arrival: arrival.unwrap_or(Arrival::Closed { in_flight: 1 }),
        timing: Timing {
            warm_up: file.timing.warm_up.0,
            duration: file.timing.duration.0,
            patience: file.timing.patience.0,
            interval: file.timing.interval.0,
        },
        generator: Generator {
            threads: file.generator.threads.get(),
            cpus: file.generator.cpus,
            seed: file.generator.seed,
            first_sender: file.generator.first_sender,
        },
        validity: Validity {
            lag_p99_max: file.validity.lag_p99_max.0,
            busy_max: file.validity.busy_max.0,
        },
        thresholds,
        search,
    };
    if findings.0.is_empty() { Ok(scenario) } else { Err(findings.0) }
}

fn payload(table: &TrafficTable, is_event: bool, findings: &mut Findings) -> usize {
    const MOST: usize = 1 << 20;
    let bytes = *table.payload_bytes.get_ref();
    let least = stamp::LEN + if is_event { event::AROUND } else { 0 };
    if !(least..=MOST).contains(&bytes) {
        let message = format!(
            "a payload has {least} to {MOST} bytes: sender, number, times and check value need room"
        );
        findings.add(table.payload_bytes.span(), message);
    }
    bytes
}

/// Which protocols know which traffic.
fn check_pairing(file: &File, findings: &mut Findings) {
    let kind = *file.traffic.kind.get_ref();
    let everywhere = matches!(kind, Kind::Connect | Kind::Hold | Kind::Reconnect);
    let speaks = everywhere
        || match file.target.protocol {
            Protocol::Echo => matches!(kind, Kind::Echo | Kind::Push),
            Protocol::Corelane => kind != Kind::Echo,
            Protocol::Nats => matches!(kind, Kind::Echo | Kind::Peer | Kind::Broadcast),
            Protocol::Nchan => matches!(kind, Kind::Call | Kind::Peer | Kind::Broadcast),
            Protocol::Centrifugo => matches!(kind, Kind::Call | Kind::Push),
        };
    if !speaks {
        let message = format!(
            "there is no such traffic with the protocol {}",
            format!("{:?}", file.target.protocol).to_lowercase()
        );
        findings.add(file.traffic.kind.span(), message);
    }
    let publishes = kind == Kind::Push && file.target.protocol == Protocol::Corelane;
    if !publishes {
        let beside = "anything but pushes of the gateway";
        findings.useless("kafka", file.target.kafka.as_ref(), beside);
    }
    if file.target.kafka.is_none() {
        findings.useless("topic", file.target.topic.as_ref(), "no `kafka`");
        if *file.arrival.mode.get_ref() == Mode::Backlog {
            let message = "a backlog needs `target.kafka`, where it is published";
            findings.add(file.arrival.mode.span(), message);
        }
    }
    if *file.arrival.mode.get_ref() == Mode::Closed {
        // Nothing but a plan says when all are back.
        findings.useless("times", file.traffic.times.as_ref(), "the mode closed");
    }
}

fn target(table: TargetTable, traffic: &TrafficTable, findings: &mut Findings) -> Target {
    if let Some(placement) = &traffic.placement
        && *placement.get_ref() != Placement::Any
        && table.admin_url.is_none()
    {
        let message = "a placement needs `target.admin_url`: only the gateway's metrics tell on \
                       which shard a session is";
        findings.add(placement.span(), message);
    }
    let topic = table.topic.map_or_else(|| CLIENT_EVENTS.to_owned(), Spanned::into_inner);
    let kafka = table.kafka.map(|brokers| EventTopic { brokers: brokers.into_inner(), topic });
    Target { url: table.url, protocol: table.protocol, admin_url: table.admin_url, kafka }
}

fn tls(table: Option<Spanned<TlsTable>>, url: &str, findings: &mut Findings) -> Tls {
    if url.starts_with("ws://") {
        findings.useless("tls", table.as_ref(), "ws://: it is for URLs that begin with wss://");
    }
    let TlsTable { ca, verify, server_name, version, suite, resume } =
        table.map(Spanned::into_inner).unwrap_or_default();
    let version = version.map(|Version(version)| version);
    if verify.as_ref().is_some_and(|verify| !verify.get_ref()) {
        findings.useless("ca", ca.as_ref(), "`verify = false`: every certificate is taken");
    }
    if version == Some(TlsVersion::V12) {
        findings.useless("suite", suite.as_ref(), "version 1.2: the suites are those of 1.3");
    }
    Tls {
        ca: ca.map(Spanned::into_inner),
        verify: verify.is_none_or(Spanned::into_inner),
        server_name,
        version,
        suite: suite.map(Spanned::into_inner),
        resume,
    }
}

fn traffic(table: TrafficTable, connections: usize, findings: &mut Findings) -> Option<Traffic> {
    let (kind, span) = (*table.kind.get_ref(), table.kind.span());
    let beside = format!("this kind of traffic ({})", format!("{kind:?}").to_lowercase());
    if kind != Kind::Call {
        findings.useless("endpoints", table.endpoints.as_ref(), &beside);
        findings.useless("endpoint_pattern", table.endpoint_pattern.as_ref(), &beside);
        findings.useless("endpoint_count", table.endpoint_count.as_ref(), &beside);
        findings.useless("reply", table.reply.as_ref(), &beside);
        findings.useless("channels", table.channels.as_ref(), &beside);
    }
    if kind != Kind::Peer {
        findings.useless("placement", table.placement.as_ref(), &beside);
    }
    if kind != Kind::Broadcast {
        findings.useless("members", table.members.as_ref(), &beside);
    }
    if !matches!(kind, Kind::Connect | Kind::Reconnect) {
        findings.useless("ready", table.ready.as_ref(), &beside);
    }
    if kind != Kind::Connect {
        findings.useless("close", table.close.as_ref(), &beside);
    }
    if kind != Kind::Reconnect {
        findings.useless("times", table.times.as_ref(), &beside);
    }
    let ready = table.ready.as_ref().map_or(Ready::Upgraded, |ready| *ready.get_ref());
    Some(match kind {
        Kind::Echo => Traffic::Echo,
        Kind::Call => {
            let reply = table.reply.as_ref().map_or(Reply::Echo, |reply| *reply.get_ref());
            let channels = table.channels.as_ref().map_or(1, |channels| channels.get_ref().get());
            Traffic::Call { endpoints: endpoints(table, &span, findings)?, reply, channels }
        }
        Kind::Peer => {
            if !connections.is_multiple_of(2) {
                findings.add(
                    span,
                    format!("pairs need an even number of connections, not {connections}"),
                );
            }
            Traffic::Peer { placement: table.placement.map_or(Placement::Any, Spanned::into_inner) }
        }
        Kind::Broadcast => {
            let members = findings.needed(&span, "members", table.members)?;
            if members < 2 || !connections.is_multiple_of(members) {
                let message = format!(
                    "rooms have 2 members or more, and {connections} connections must fill them \
                     evenly: {members} members do not"
                );
                findings.add(span, message);
            }
            Traffic::Broadcast { members }
        }
        Kind::Connect => {
            let close = table.close.map_or(CloseBy::Reset, Spanned::into_inner);
            Traffic::Connect { ready, close }
        }
        Kind::Hold => Traffic::Hold,
        Kind::Reconnect => {
            let times = table.times.map_or(1, |times| times.into_inner().get());
            Traffic::Reconnect { ready, times }
        }
        Kind::Push => Traffic::Push,
    })
}

fn endpoints(
    table: TrafficTable,
    kind: &Range<usize>,
    findings: &mut Findings,
) -> Option<Vec<String>> {
    let Some(pattern) = table.endpoint_pattern else {
        findings.useless("endpoint_count", table.endpoint_count.as_ref(), "`endpoints`");
        let endpoints = findings.needed(kind, "endpoints", table.endpoints)?;
        if endpoints.is_empty() {
            findings.add(kind.clone(), "calls need at least one endpoint");
        }
        return Some(endpoints);
    };
    findings.useless("endpoints", table.endpoints.as_ref(), "`endpoint_pattern`");
    let count = findings.needed(&pattern.span(), "endpoint_count", table.endpoint_count)?;
    if !pattern.get_ref().contains("{}") {
        findings.add(pattern.span(), "the pattern has no {} for the number");
    }
    Some((0..count.get()).map(|n| pattern.get_ref().replace("{}", &n.to_string())).collect())
}

fn arrival(
    table: ArrivalTable,
    kind: Kind,
    read_offsets: &mut dyn FnMut(&str) -> Result<Vec<u64>, String>,
    findings: &mut Findings,
) -> Option<Arrival> {
    let (mode, span) = (*table.mode.get_ref(), table.mode.span());
    let beside = format!("the mode {}", format!("{mode:?}").to_lowercase());
    if mode != Mode::Closed {
        findings.useless("in_flight", table.in_flight.as_ref(), &beside);
    } else {
        findings.useless("window", table.window.as_ref(), &beside);
    }
    if !matches!(mode, Mode::Constant | Mode::Poisson | Mode::Burst) {
        findings.useless("rate", table.rate.as_ref(), &beside);
    }
    if mode != Mode::Backlog {
        findings.useless("events", table.events.as_ref(), &beside);
    }
    if mode == Mode::Backlog {
        findings.useless("window", table.window.as_ref(), &beside);
    }
    if mode != Mode::Burst {
        findings.useless("size", table.size.as_ref(), &beside);
    }
    if mode != Mode::Ramp {
        findings.useless("from", table.from.as_ref(), &beside);
        findings.useless("to", table.to.as_ref(), &beside);
    }
    if mode != Mode::Replay {
        findings.useless("file", table.file.as_ref(), &beside);
    }
    if matches!(kind, Kind::Connect | Kind::Reconnect) {
        let why = "connections, which have one unanswered upgrade each";
        findings.useless("window", table.window.as_ref(), why);
    }
    let window = table.window.map(|window| window.into_inner().get());
    Some(match mode {
        Mode::Closed => Arrival::Closed {
            in_flight: findings.needed(&span, "in_flight", table.in_flight)?.get(),
        },
        Mode::Constant => {
            Arrival::Constant { rate: findings.needed(&span, "rate", table.rate)?.0, window }
        }
        Mode::Poisson => {
            Arrival::Poisson { rate: findings.needed(&span, "rate", table.rate)?.0, window }
        }
        Mode::Burst => Arrival::Burst {
            rate: findings.needed(&span, "rate", table.rate)?.0,
            size: findings.needed(&span, "size", table.size)?.get(),
            window,
        },
        Mode::Ramp => Arrival::Ramp {
            from: findings.needed(&span, "from", table.from)?.0,
            to: findings.needed(&span, "to", table.to)?.0,
            window,
        },
        Mode::Replay => {
            let at = table.file.as_ref().map_or(span.clone(), Spanned::span);
            let file = findings.needed(&span, "file", table.file)?;
            match read_offsets(&file) {
                Ok(offsets) => Arrival::Replay { file, offsets, window },
                Err(message) => {
                    findings.add(at, message);
                    return None;
                }
            }
        }
        Mode::Backlog => {
            let events = findings.needed(&span, "events", table.events)?;
            Arrival::Backlog { events: u64::from(events.get()) }
        }
    })
}

fn thresholds(
    tables: std::collections::BTreeMap<Metric, Spanned<BoundTable>>,
    findings: &mut Findings,
) -> Vec<Threshold> {
    let mut thresholds = Vec::with_capacity(tables.len());
    for (metric, table) in tables {
        let BoundTable { at_most, at_least } = *table.get_ref();
        if at_most.is_none() && at_least.is_none() {
            findings.add(table.span(), "a threshold needs `at_most`, `at_least` or both");
        }
        thresholds.extend(at_least.map(|value| Threshold { metric, bound: Bound::AtLeast(value) }));
        thresholds.extend(at_most.map(|value| Threshold { metric, bound: Bound::AtMost(value) }));
    }
    thresholds
}

fn search(table: &SearchTable, findings: &mut Findings) -> Search {
    if table.to.get_ref().0 <= table.from.0 {
        findings.add(
            table.to.span(),
            format!("the search must go beyond its first rate, {}", table.from.0),
        );
    }
    Search {
        from: table.from.0,
        to: table.to.get_ref().0,
        p999_max: table.p999_max.0,
        step_duration: table.step_duration.0,
        precision: table.precision.0,
        curve_points: table.curve_points,
    }
}
