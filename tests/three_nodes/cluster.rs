//! Gateways, each in a namespace of its own, that know each other from their configuration, with the
//! Redis and the Kafka that they share. Its methods are for whoever is in the hub.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use uuid::Uuid;

use crate::event_ledger::publisher::TOPIC;
use crate::gateway_process::metrics::Metrics;
use crate::gateway_process::{Gateway, Launch};
use crate::network::{self, HUB, Network, REDIS, within};
use crate::services::{Kafka, Redis};

const PUBLIC: u16 = 8080;
const INTERNAL: u16 = 9200;
const PARTITIONS: usize = 8;

/// Small enough that three fit on one machine.
const SETTINGS: [(&str, &str); 9] = [
    ("shards.count", "1"),
    ("shards.connections_max", "512"),
    ("shards.receive_buffers", "256"),
    ("shards.submission_entries", "256"),
    ("shards.block_pool_bytes", "32MiB"),
    ("shards.lane_capacity", "1024"),
    ("session.connection_mode", "Relayed"),
    ("nodes.broadcast", "Both"),
    ("limits.messages_per_window", "0"),
];

pub(crate) struct Cluster<'a> {
    pub(crate) network: &'a Network,
    pub(crate) kafka: Kafka,
    nodes: Vec<Node>,
    /// The last to go: the gateways want to tell it what becomes of their sessions.
    _redis: Redis,
}

struct Node {
    launch: Launch,
    /// `None` while it is away.
    gateway: Option<Gateway>,
}

impl<'a> Cluster<'a> {
    /// All nodes serve, hold their lease and are linked to each other.
    pub(crate) fn start(network: &'a Network, nodes: usize, settings: &[(&str, &str)]) -> Self {
        let through = ["ip", "netns", "exec", network.hub()];
        let kafka = Kafka::setup().at(HUB, &through).start();
        kafka.create_topic(TOPIC, PARTITIONS, &[]);
        let redis = Redis::setup().at(REDIS, &through).start();
        let config = format!(
            "[redis]\nurl = \"{}\"\n[kafka]\nbrokers = [\"{}\"]\ncreate_topics = true\n",
            redis.url(),
            kafka.brokers()
        );
        let internal = |node| SocketAddr::from((network::back(node), INTERNAL));
        let url = |node| format!("ws://{}", internal(node));
        let peers = (0..nodes).map(url).collect::<Vec<_>>().join(",");
        let launch = |node: usize| {
            let all = SETTINGS.iter().chain(settings);
            all.fold(Launch::new(&config), |launch, (key, value)| launch.set(key, value))
                .set("listen.public.address", &door(node).to_string())
                .set("listen.internal.address", &internal(node).to_string())
                .set("listen.internal.service_token", "of-these-nodes")
                .set("control.node", &node.to_string())
                // One that starts again is the one that it was.
                .set("control.instance", &Uuid::from_u128(1 + node as u128).to_string())
                .set("nodes.internal_url", &url(node))
                .set("nodes.peers", &peers)
        };
        let nodes = (0..nodes).map(|node| Node { launch: launch(node), gateway: None }).collect();
        let mut cluster = Self { network, kafka, nodes, _redis: redis };
        (0..cluster.nodes.len()).for_each(|node| cluster.start_node(node));
        cluster.await_links();
        for node in 0..cluster.nodes.len() {
            cluster.await_metric(node, "corelane_redis_lease_held", "", 1.0);
        }
        cluster
    }

    pub(crate) fn start_node(&mut self, node: usize) {
        let launch = self.nodes[node].launch.clone();
        self.nodes[node].gateway = Some(within(self.network.node(node), || launch.start()));
    }

    /// Where clients connect; `None` for a node that is away.
    pub(crate) fn doors(&self) -> Vec<Option<SocketAddr>> {
        let doors = self.nodes.iter().enumerate();
        doors.map(|(number, node)| node.gateway.is_some().then(|| door(number))).collect()
    }

    /// SIGTERM: its drain begins.
    pub(crate) fn drain(&self, node: usize) {
        self.gateway(node).signal(Signal::TERM);
    }

    /// Whether the drain is over. It must have gone well.
    pub(crate) fn is_drained(&mut self, node: usize) -> bool {
        let gateway = &mut self.nodes[node].gateway;
        let Some(status) = gateway.as_mut().and_then(Gateway::ended) else { return false };
        let gateway = gateway.take().expect("it was there");
        assert!(status.success(), "node {node}: {status}; log:\n{}", gateway.log().tail());
        true
    }

    /// Each node is linked to all others.
    pub(crate) fn await_links(&self) {
        for node in 0..self.nodes.len() {
            self.await_links_of(node, self.nodes.len() - 1);
        }
    }

    pub(crate) fn await_links_of(&self, node: usize, links: usize) {
        self.await_metric(node, "corelane_node_links", "state=\"open\"", links as f64);
    }

    pub(crate) fn await_metric(&self, node: usize, name: &str, label: &str, wanted: f64) {
        self.await_metrics(node, &format!("{name} {label} = {wanted}"), |metrics| {
            metrics.sum_of(name, label) == wanted
        });
    }

    pub(crate) fn await_metrics(
        &self,
        node: usize,
        what: &str,
        holds: impl Fn(&Metrics) -> bool + Send,
    ) {
        within(self.network.node(node), || {
            self.gateway(node).wait_for_metrics(&format!("node {node}: {what}"), PATIENCE, holds)
        });
    }

    /// What the gateways have said last, for a run that fails.
    pub(crate) fn last_words(&self) -> String {
        let words = self.nodes.iter().enumerate().map(|(number, node)| {
            let log = node.gateway.as_ref().map_or("away".to_owned(), |it| it.log().tail());
            format!("node {number}:\n{log}\n")
        });
        words.collect()
    }

    fn gateway(&self, node: usize) -> &Gateway {
        self.nodes[node].gateway.as_ref().expect("it is not away")
    }
}

/// A link that is silent is given up after 15 s, and the next one is dialled as late.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

/// Where clients connect.
pub(crate) fn door(node: usize) -> SocketAddr {
    (network::front(node), PUBLIC).into()
}
