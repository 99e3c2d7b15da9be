//! The list of workloads.

use super::super::contender::{Gateway, GatewayBackend, Server};
use super::{Arrival, Cell, Contender, Goal, Measure, Published, Tls, Traffic, Workload};

/// Every workload, in the order in which `all` runs them.
pub(in super::super) fn workloads() -> Vec<Workload> {
    vec![
        routed(),
        routed_16(),
        calls(),
        peers(),
        broadcast(),
        cross_shard(),
        connect(),
        idle(),
        latency(),
        scaling(),
        endpoints(),
        wss(),
        wss_connect(),
        wss_idle(),
    ]
}

fn nginx() -> Contender {
    Contender::proxy("nginx", Server::Nginx)
}

fn link() -> Contender {
    Contender::calling("corelane", GatewayBackend::Link, 1)
}

fn routed() -> Workload {
    let cell = |connections, goal| {
        Cell::new(format!("{connections} connections"), connections, 1, link())
            .against(nginx(), Goal::RatioAtLeast(goal))
    };
    let first = cell(64, 1.6)
        .beside(Contender::proxy("HAProxy", Server::Haproxy))
        .beside(Contender::proxy("Envoy", Server::Envoy));
    Workload {
        name: "routed",
        title: "Routed calls against WebSocket proxies",
        about: "A call routed by its header over a link to an echo backend, beside a WebSocket \
                proxy that passes frames to an echo backend. 1 in flight on each connection, 200 \
                bytes.",
        operation: "round trip",
        measure: Measure::Cost,
        cells: vec![first, cell(1000, 2.2), cell(4000, 2.8)],
        published: &[],
    }
}

fn routed_16() -> Workload {
    let cell = Cell::new("64 connections, 16 in flight", 64, 16, link())
        .against(nginx(), Goal::RatioAtLeast(1.4));
    Workload {
        name: "routed-16",
        title: "Routed calls, 16 in flight",
        about: "As `routed`, with 16 unanswered calls on one channel of each connection.",
        operation: "round trip",
        measure: Measure::Cost,
        cells: vec![cell],
        published: &[],
    }
}

fn calls() -> Workload {
    let calls = |protocol, endpoint: &str| Traffic::Calls {
        protocol,
        endpoints: vec![endpoint.to_owned()],
        reply: "any",
    };
    let ours = Contender::calling("corelane", GatewayBackend::Http, 1);
    let nchan = Contender::new("nchan", Server::NchanCalls, calls("nchan", "/"));
    let centrifugo = Contender::new("Centrifugo", Server::Centrifugo, calls("centrifugo", "echo"));
    let cell = Cell::new("64 connections", 64, 1, ours)
        .against(nchan, Goal::RatioAtLeast(1.6))
        .against(centrifugo, Goal::RatioAtLeast(5.0));
    Workload {
        name: "calls",
        title: "One HTTP request for each message",
        about: "Each message becomes a request to an HTTP backend (nginx, 200 bytes by `return \
                200`), whose body comes back. 1 in flight on each connection, at most 64 \
                connections to the backend.",
        operation: "call",
        measure: Measure::Cost,
        cells: vec![cell],
        published: &[
            Published {
                who: "Centrifugo 6, RPC proxy, 64 connections",
                figure: "50.1 µs per call, on a machine of this kind",
            },
            Published {
                who: "Centrifugo 6, RPC proxy, 1000 connections",
                figure: "86.6 µs per call, on a machine of this kind",
            },
        ],
    }
}

fn gateway_pairs(placement: &'static str, shards: usize, label: &'static str) -> Contender {
    let traffic = Traffic::Pairs { protocol: "corelane", placement };
    Contender::new(label, Server::Corelane(Gateway::relaying(shards)), traffic)
}

/// The bare ring has nchan's rooms by path, but no copy for the sender.
fn bare_relay(traffic: Traffic, send_each: bool) -> Contender {
    let label = if send_each { "bare ring, a send for each" } else { "bare ring" };
    Contender::new(label, Server::BareRelay { send_each }, traffic)
}

fn peers() -> Workload {
    let pairs = |protocol| Traffic::Pairs { protocol, placement: "any" };
    let cell = |connections| {
        let name = format!("{connections} connections in pairs");
        Cell::new(name, connections, 1, gateway_pairs("any", 1, "corelane"))
            .against(bare_relay(pairs("nchan"), false), Goal::RatioAtLeast(0.9))
    };
    let first = cell(64)
        .beside(Contender::new("nchan", Server::NchanRooms, pairs("nchan")))
        .beside(Contender::new("NATS", Server::Nats, pairs("nats")));
    Workload {
        name: "peers",
        title: "Peer to peer",
        about: "Connections in pairs, each sends to the other, 1 in flight, 200 bytes. The bare \
                ring parses frames and sends them on, and does nothing else. nchan sends each \
                message to its sender too, and with Nagle's algorithm, so that pairs wait for \
                delayed acknowledgements; its cost per delivery counts, not its rate.",
        operation: "delivery",
        measure: Measure::Cost,
        cells: vec![first, cell(1000)],
        published: &[Published {
            who: "uWebSockets (C++), 100 rooms of 2, 1 in flight",
            figure: "3.70 µs per delivery, on a machine of this kind",
        }],
    }
}

fn broadcast() -> Workload {
    let room = |protocol, members| Traffic::Room { protocol, members };
    let cell = |members, in_flight: u32| {
        let server = Server::Corelane(Gateway::relaying(1));
        let ours = Contender::new("corelane", server, room("corelane", members));
        Cell::new(format!("{members} sessions, {in_flight} in flight"), members, in_flight, ours)
    };
    let bare = |members, send_each| bare_relay(room("nchan", members), send_each);
    let small = cell(8, 1).against(bare(8, false), Goal::RatioAtLeast(0.9));
    let large = cell(200, 1)
        .against(bare(200, false), Goal::RatioAtLeast(0.9))
        .beside(Contender::new("nchan", Server::NchanRooms, room("nchan", 200)))
        .beside(Contender::new("NATS", Server::Nats, room("nats", 200)));
    let saturated =
        cell(200, 16).against(bare(200, true), Goal::RatioAtLeast(2.0)).beside(bare(200, false));
    Workload {
        name: "broadcast",
        title: "Broadcast",
        about: "One session sends, all others of its room receive, 200 bytes; the cost is that of \
                one delivery. With 16 in flight the gateway puts what a turn brought to a session \
                into one send; the bare ring does the same, or sends each message by itself.",
        operation: "delivery",
        measure: Measure::Cost,
        cells: vec![small, large, saturated],
        published: &[Published {
            who: "uWebSockets (C++), one room of 200",
            figure: "3.31 µs per delivery with 1 in flight, 0.246 µs with 16, on a machine of \
                     this kind",
        }],
    }
}

const TWO_SHARDS: &str = "With two shards, shard 0 runs on the load's processor and shard 1 on \
                          the server's, since the machine has no third.";

fn cross_shard() -> Workload {
    let cell = |in_flight: u32| {
        let ours = gateway_pairs("cross-shard", 2, "cross-shard");
        let name = format!("64 connections, {in_flight} in flight");
        Cell::new(name, 64, in_flight, ours).noting(TWO_SHARDS)
    };
    let same = || gateway_pairs("same-shard", 2, "same-shard");
    Workload {
        name: "cross-shard",
        title: "Pairs across shards",
        about: "Pairs whose two live on different shards beside pairs that live on one, both with \
                two shards; the cost is the processor time of both shards together.",
        operation: "delivery",
        measure: Measure::Cost,
        cells: vec![cell(16).against(same(), Goal::RatioAtLeast(0.85)), cell(1).beside(same())],
        published: &[],
    }
}

fn connect() -> Workload {
    let storm = |protocol, ready| Traffic::Connect { protocol, ready };
    let nginx = || Contender::new("nginx", Server::Nginx, storm("echo", "upgraded"));
    let ours = |ready, gateway| {
        Contender::new("corelane", Server::Corelane(gateway), storm("corelane", ready))
    };
    let upgraded = Cell::new("up to the 101", 64, 64, ours("upgraded", Gateway::relaying(1)))
        .against(nginx(), Goal::RatioAtLeast(2.0));
    let gateway = Gateway {
        endpoints: 10,
        first_frame_delay: "0s",
        ..Gateway::routing(GatewayBackend::Link)
    };
    let manifest =
        Cell::new("up to a manifest of 10 endpoints", 64, 64, ours("first-message", gateway))
            .against(nginx(), Goal::RatioAtLeast(1.6))
            .noting("nginx's connections are ready at the 101: it has no first message.");
    Workload {
        name: "connect",
        title: "Connections",
        about: "Connections as fast as they are taken: TCP, upgrade (with an HS256 token for the \
                gateway), reset. 64 are being opened at a time, by 64 sessions. nginx opens one \
                to its backend for each.",
        operation: "connection",
        measure: Measure::Cost,
        cells: vec![upgraded, manifest],
        published: &[Published {
            who: "uWebSockets (C++), no backend, no token",
            figure: "29.0 µs per connection, on a machine of this kind",
        }],
    }
}

fn idle() -> Workload {
    let hold = |protocol| Traffic::Hold { protocol };
    let server = Server::Corelane(Gateway::routing(GatewayBackend::Link));
    let cell = Cell::new(
        "8000 connections",
        8000,
        1,
        Contender::new("corelane", server, hold("corelane")),
    )
    .beside(Contender::new("nginx", Server::Nginx, hold("echo")))
    .beside(Contender::new("HAProxy", Server::Haproxy, hold("echo")))
    .noting(
        "The gateway sends each client a Ping every 25 s; the proxies pass on what the \
                 backend sends, and it sends nothing.",
    );
    Workload {
        name: "idle",
        title: "Idle connections",
        about: "What a connection that does nothing costs, a fresh process for each run: \
                proportional set size with all connections less that with none, divided by their \
                number, and processor time likewise.",
        operation: "connection",
        measure: Measure::Idle { bytes_max: 512, time_judged: true },
        cells: vec![cell],
        published: &[
            Published {
                who: "uWebSockets (C++), 4000 connections",
                figure: "261 B per connection, on a machine of this kind",
            },
            Published {
                who: "Centrifugo, tuned, 1 000 000 connections",
                figure: "10.9 KB and 2.2 µs/s per connection, published by its authors",
            },
        ],
    }
}

fn latency() -> Workload {
    let cell = Cell::new("64 connections", 64, 1, link()).beside(nginx()).beside(Contender::new(
        "direct",
        Server::NullEcho,
        Traffic::Echo,
    ));
    Workload {
        name: "latency",
        title: "Added latency",
        about: "Round trips at an even rate of 70 % of what the slower of gateway and nginx does \
                in a closed loop, timed from the intended send, less those of an echo server on \
                the same processor without anything in between.",
        operation: "round trip",
        measure: Measure::Latency,
        cells: vec![cell],
        published: &[],
    }
}

fn scaling() -> Workload {
    let one = Contender::calling("one shard", GatewayBackend::Link, 1);
    let mut two =
        Contender { scale: 2, ..Contender::calling("two shards", GatewayBackend::Link, 1) };
    if let Server::Corelane(gateway) = &mut two.server {
        gateway.shards = 2;
    }
    let name = "64 connections and 15 000 calls a second per shard";
    let cell = Cell { arrival: Arrival::Constant(15_000.0), ..Cell::new(name, 64, 1, two) }
        .against(one, Goal::RatioAtLeast(0.95))
        .noting(TWO_SHARDS);
    Workload {
        name: "scaling",
        title: "Two shards against one",
        about: "The same connections and rate for each shard, with one shard and with two: what a \
                call costs must not grow with the shards.",
        operation: "round trip",
        measure: Measure::Cost,
        cells: vec![cell],
        published: &[],
    }
}

fn endpoints() -> Workload {
    let many = Contender::calling("100 endpoints", GatewayBackend::Link, 100);
    let one = Contender::calling("1 endpoint", GatewayBackend::Link, 1);
    let cell = Cell::new("64 connections, 16 in flight", 64, 16, many)
        .against(one, Goal::ExcessAtMost(0.060));
    Workload {
        name: "endpoints",
        title: "Many endpoints against one",
        about: "A hundred endpoints called in turn, beside one: what finding an endpoint costs.",
        operation: "round trip",
        measure: Measure::Cost,
        cells: vec![cell],
        published: &[],
    }
}

const CERTIFICATE: &str = "All servers show the same certificate (ECDSA P-256), and the load offers \
                           TLS 1.3 with TLS_AES_128_GCM_SHA256 and nothing else.";

fn wss() -> Workload {
    let ours = || link().over_tls(Tls::Full);
    let name = |connections| format!("{connections} connections");
    let first = Cell::new(name(64), 64, 1, ours())
        .beside(nginx().over_tls(Tls::Full))
        .beside(Contender::proxy("HAProxy", Server::Haproxy).over_tls(Tls::Full))
        .noting(CERTIFICATE);
    let many = Cell::new(name(1000), 1000, 1, ours())
        .against(nginx().over_tls(Tls::Full), Goal::RatioAtLeast(2.0))
        .noting(CERTIFICATE);
    let secured = |name: String, connections, in_flight| {
        Cell::new(format!("{name}, TLS or not"), connections, in_flight, ours().labelled("wss"))
    };
    let plain = || link().labelled("ws");
    let added = |connections| {
        secured(name(connections), connections, 1).against(plain(), Goal::TimesAtMost(1.12))
    };
    let in_flight = secured("64 connections, 16 in flight".to_owned(), 64, 16).beside(plain());
    Workload {
        name: "wss",
        title: "Routed calls over TLS",
        about: "As `routed`, with TLS between load and server: beside proxies that end TLS, and \
                beside the gateway's own plain port.",
        operation: "round trip",
        measure: Measure::Cost,
        cells: vec![first, many, added(64), added(1000), in_flight],
        published: &[],
    }
}

fn wss_connect() -> Workload {
    let storm = |protocol| Traffic::Connect { protocol, ready: "upgraded" };
    let cell = |name: &str, tls| {
        let server = Server::Corelane(Gateway::relaying(1));
        let ours = Contender::new("corelane", server, storm("corelane")).over_tls(tls);
        let nginx = Contender::new("nginx", Server::Nginx, storm("echo")).over_tls(tls);
        (Cell::new(name, 64, 64, ours).noting(CERTIFICATE), nginx)
    };
    let (full, nginx) = cell("full handshakes, up to the 101", Tls::Full);
    let full = full.against(nginx, Goal::RatioAtLeast(2.5));
    let (resumed, nginx) = cell("resumed handshakes, up to the 101", Tls::Resumed);
    let resumed = resumed.beside(nginx);
    Workload {
        name: "wss-connect",
        title: "Connections over TLS",
        about: "As `connect`, with a TLS handshake before the upgrade: in full, or by a ticket of \
                an earlier connection. The load needs more processor time for a handshake than a \
                server does.",
        operation: "connection",
        measure: Measure::Cost,
        cells: vec![full, resumed],
        published: &[],
    }
}

fn wss_idle() -> Workload {
    let hold = |protocol| Traffic::Hold { protocol };
    let server = Server::Corelane(Gateway::routing(GatewayBackend::Link));
    let ours = Contender::new("corelane", server, hold("corelane")).over_tls(Tls::Full);
    let cell = Cell::new("4000 connections", 4000, 1, ours)
        .beside(Contender::new("nginx", Server::Nginx, hold("echo")).over_tls(Tls::Full))
        .beside(Contender::new("HAProxy", Server::Haproxy, hold("echo")).over_tls(Tls::Full))
        .noting(CERTIFICATE);
    Workload {
        name: "wss-idle",
        title: "Idle connections over TLS",
        about: "As `idle`, with TLS between load and server.",
        operation: "connection",
        measure: Measure::Idle { bytes_max: 6144, time_judged: false },
        cells: vec![cell],
        published: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_every_cell_has_a_rival() {
        let all = workloads();
        let mut names: Vec<_> = all.iter().map(|workload| workload.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for workload in &all {
            assert!(!workload.cells.is_empty(), "{}", workload.name);
            for cell in &workload.cells {
                assert!(!cell.rivals.is_empty(), "{}: {}", workload.name, cell.name);
            }
        }
    }

    #[test]
    fn labels_of_one_cell_differ() {
        for cell in workloads().iter().flat_map(|workload| &workload.cells) {
            let mut labels: Vec<_> = cell.contenders().map(|c| c.label).collect();
            labels.sort_unstable();
            labels.dedup();
            assert_eq!(labels.len(), 1 + cell.rivals.len(), "{}", cell.name);
        }
    }
}
