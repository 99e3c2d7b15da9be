//! What is compared: the servers, the loads they get, and the goals.

use super::contender::{Gateway, GatewayBackend, Server};

mod all;

pub(super) use all::workloads;

/// A group of cells that answer one question.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What is compared and how, in sentences for the report.
    pub(super) about: &'static str,
    /// What a message or connection of it is called.
    pub(super) operation: &'static str,
    pub(super) measure: Measure,
    pub(super) cells: Vec<Cell>,
    /// Figures that were measured elsewhere.
    pub(super) published: &'static [Published],
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Processor time of the server for an operation.
    Cost,
    /// Memory and processor time of a connection that does nothing. Ours may have so many bytes, and
    /// where its time is judged, so much of that.
    Idle { bytes_max: u32, time_judged: bool },
    /// Latency beyond that of a direct connection, at 70 % of the slower one's saturation.
    Latency,
}

/// One load that all its contenders get in turn.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) name: String,
    pub(super) connections: usize,
    pub(super) arrival: Arrival,
    pub(super) ours: Contender,
    pub(super) rivals: Vec<Rival>,
    /// What a reader must know of the placement.
    pub(super) note: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Arrival {
    /// So many unanswered on each connection.
    Closed(u32),
    /// So many a second of all connections together.
    Constant(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Contender {
    pub(super) label: &'static str,
    pub(super) server: Server,
    pub(super) traffic: Traffic,
    /// Nothing is without TLS.
    pub(super) tls: Option<Tls>,
    /// So many times the cell's connections and rate.
    pub(super) scale: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Rival {
    pub(super) contender: Contender,
    pub(super) goal: Option<Goal>,
}

/// What ours is to reach beside a rival.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// Rival's cost divided by ours.
    RatioAtLeast(f64),
    /// Our cost less the rival's, in µs.
    ExcessAtMost(f64),
    /// Our cost divided by the rival's.
    TimesAtMost(f64),
}

/// How the connections of a load shake hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    Full,
    /// By the tickets of earlier ones.
    Resumed,
}

/// What the load harness is told to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Traffic {
    Echo,
    Calls { protocol: &'static str, endpoints: Vec<String>, reply: &'static str },
    Pairs { protocol: &'static str, placement: &'static str },
    Room { protocol: &'static str, members: usize },
    Connect { protocol: &'static str, ready: &'static str },
    Hold { protocol: &'static str },
}

/// A figure that somebody published, or that was measured earlier and cannot be repeated here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    pub(super) who: &'static str,
    pub(super) figure: &'static str,
}

impl Cell {
    fn new(name: impl Into<String>, connections: usize, in_flight: u32, ours: Contender) -> Self {
        Self {
            name: name.into(),
            connections,
            arrival: Arrival::Closed(in_flight),
            ours,
            rivals: Vec::new(),
            note: "",
        }
    }

    fn beside(mut self, contender: Contender) -> Self {
        self.rivals.push(Rival { contender, goal: None });
        self
    }

    fn against(mut self, contender: Contender, goal: Goal) -> Self {
        self.rivals.push(Rival { contender, goal: Some(goal) });
        self
    }

    fn noting(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// The same load with at most `most` connections, which its name says.
    pub(super) fn cut_to(mut self, most: usize) -> Self {
        if self.connections > most {
            self.connections = most;
            self.name = format!("{}, cut to {most}", self.name);
        }
        self
    }

    /// Ours first.
    pub(super) fn contenders(&self) -> impl Iterator<Item = &Contender> {
        std::iter::once(&self.ours).chain(self.rivals.iter().map(|rival| &rival.contender))
    }
}

impl Contender {
    fn new(label: &'static str, server: Server, traffic: Traffic) -> Self {
        Self { label, server, traffic, tls: None, scale: 1 }
    }

    fn over_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    fn labelled(self, label: &'static str) -> Self {
        Self { label, ..self }
    }

    fn proxy(label: &'static str, server: Server) -> Self {
        Self::new(label, server, Traffic::Echo)
    }

    /// The gateway with calls over links or HTTP.
    fn calling(label: &'static str, backend: GatewayBackend, endpoints: usize) -> Self {
        let gateway = Gateway { endpoints, ..Gateway::routing(backend) };
        let reply = if backend == GatewayBackend::Link { "echo" } else { "any" };
        let traffic = Traffic::Calls { protocol: "corelane", endpoints: gateway.paths(), reply };
        Self::new(label, Server::Corelane(gateway), traffic)
    }
}
