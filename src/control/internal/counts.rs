//! What the internal listener counts. Written by the control core alone.

use std::fmt;

use axum::http::StatusCode;
use corelane_shard::probe::Counter;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

/// Requests by route and class of status.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// By position in [`ROUTES`]; one more for paths that are not served.
    requests: [[Counter; CLASSES.len()]; ROUTES.len() + 1],
    pub(super) token_refused: Counter,
}

impl ListenerCounts {
    pub(super) fn count(&self, path: Option<&str>, status: StatusCode) {
        let route = ROUTES.iter().position(|route| Some(*route) == path).unwrap_or(ROUTES.len());
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        self.requests[route][class].increment();
    }

    /// Only what has been counted: most routes are never asked for.
    pub(in crate::control) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests to the internal listener by route and class of status.";
        let kind = MetricType::Counter;
        let mut metric =
            encoder.encode_descriptor("corelane_internal_requests", help, None, kind)?;
        for (route, classes) in ROUTES.iter().chain([&"other"]).zip(&self.requests) {
            for (class, counter) in CLASSES.iter().zip(classes) {
                if counter.read() > 0 {
                    let labels = [("route", *route), ("status", *class)];
                    ConstCounter::new(counter.read()).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Requests to the internal listener without the service token.";
        let metric =
            encoder.encode_descriptor("corelane_internal_token_refused", help, None, kind)?;
        ConstCounter::new(self.token_refused.read()).encode(metric)
    }
}

/// As the router knows them.
pub(super) const ROUTES: [&str; 16] = [
    "/client-capabilities",
    "/connect/get-account-sessions",
    "/internal/proxy",
    "/connect/get-endpoint-meta",
    "/client-capabilities/meta/{kind}",
    "/connect/get-account-sessions/meta/{kind}",
    "/internal/proxy/meta/{kind}",
    "/connect/get-endpoint-meta/meta/{kind}",
    "/health",
    "/events/auth-events",
    "/events/client-messages",
    "/events/client-rpc",
    "/connect/broadcast",
    "/bus",
    "/bus/{topic}",
    "/openapi.json",
];

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
