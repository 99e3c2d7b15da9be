//! The admin listener: liveness, readiness, the scrape, and the calls of operators
//! ([`super::operators`]), on loopback.
//!
//! A visit is one request: every answer closes its connection, and a connection that takes its
//! time is cut, so that the listener's own bound cannot be used up.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use corelane_shard::id::ShardId;
use corelane_shard::lane::DrainPhase;
use corelane_shard::probe::Probe;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::error;

use super::metrics::{self, Sources};
use super::operators::Operators;
use super::probe::ControlProbe;
use super::visits::Visits;
use crate::lifecycle::{Phase, PhaseCell};

/// The bound listener and what it shows. One per process.
#[derive(Debug)]
pub struct AdminListener {
    listener: StdListener,
    shown: Shown,
    operators: Operators,
}

#[derive(Clone)]
struct Shown {
    phase: Arc<PhaseCell>,
    control: Arc<ControlProbe>,
    registry: Arc<Registry>,
}

/// Why the admin listener cannot be opened.
#[derive(Debug, Error)]
pub enum AdminError {
    #[error(
        "listen.admin.address = {address} is not on loopback: it shows internals to everyone who \
         can reach it, use 127.0.0.1 or [::1]"
    )]
    NotLoopback { address: SocketAddr },
    #[error("cannot listen on {address} for the admin interface: {source}; {}", advice(source))]
    Bind { address: SocketAddr, source: io::Error },
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "find who has the port with `ss -ltnp`, or set listen.admin.address to another"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "this host does not have the address",
        _ => "check listen.admin.address",
    }
}

impl AdminListener {
    /// Opens the socket, so that an address that is taken stops the start and not the admin alone.
    pub fn bind(
        address: SocketAddr,
        shards: Vec<(ShardId, Arc<Probe>)>,
        control: Arc<ControlProbe>,
        phase: Arc<PhaseCell>,
        operators: Operators,
    ) -> Result<Self, AdminError> {
        if !is_loopback(address.ip()) {
            return Err(AdminError::NotLoopback { address });
        }
        let bind = |source| AdminError::Bind { address, source };
        let listener = StdListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sources = Sources {
            shards,
            control: Arc::clone(&control),
            phase: Arc::clone(&phase),
            started_unix_seconds: now.as_millis() as f64 / 1000.0,
        };
        let registry = Arc::new(metrics::registry(sources));
        Ok(Self { listener, shown: Shown { phase, control, registry }, operators })
    }

    /// The port that was found, when port 0 was asked for.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves from a task of the running tokio runtime, until that ends.
    pub fn serve(self) -> io::Result<()> {
        let visits = Visits::new(TcpListener::from_std(self.listener)?, VISITS_MAX, VISIT_MAX);
        let router = router(self.shown, self.operators);
        tokio::spawn(async move {
            if let Err(reason) = axum::serve(visits, router).await {
                error!(%reason, "the admin listener has ended");
            }
        });
        Ok(())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("phase", &self.phase).finish_non_exhaustive()
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn router(shown: Shown, operators: Operators) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .fallback(async || json(StatusCode::NOT_FOUND, r#"{"error":"not_found"}"#.into()))
        .method_not_allowed_fallback(async || {
            json(StatusCode::METHOD_NOT_ALLOWED, r#"{"error":"method_not_allowed"}"#.into())
        })
        .with_state(shown)
        .merge(operators.router())
        .layer(map_response(closing))
}

async fn live() -> Response {
    json(StatusCode::OK, r#"{"status":"alive"}"#.into())
}

async fn ready(State(shown): State<Shown>) -> Response {
    let phase = shown.phase.load();
    match unready_reason(phase) {
        None => match shown.control.degraded() {
            None => json(StatusCode::OK, r#"{"status":"ready"}"#.into()),
            // Open sessions and calls go on: nothing is won by sending clients elsewhere.
            Some(what) => {
                json(StatusCode::OK, format!(r#"{{"status":"ready","degraded":"{what}"}}"#))
            }
        },
        Some(reason) => {
            let phase = phase.label();
            let body =
                format!(r#"{{"status":"unavailable","phase":"{phase}","reason":"{reason}"}}"#);
            json(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

fn unready_reason(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Running => None,
        Phase::Starting => Some("the shards are not listening yet"),
        Phase::Draining(DrainPhase::Grace) => Some("shutting down, still accepting"),
        Phase::Draining(DrainPhase::Closing) => Some("shutting down, closing sessions"),
        Phase::Draining(DrainPhase::Cutting | DrainPhase::Done) => Some("shutting down, ending"),
    }
}

async fn scrape(State(shown): State<Shown>) -> Response {
    match metrics::render(&shown.registry) {
        Ok(text) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(reason) => {
            error!(%reason, "the scrape cannot be encoded");
            json(StatusCode::INTERNAL_SERVER_ERROR, r#"{"error":"internal"}"#.into())
        }
    }
}

/// A visit is one request.
async fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn json(status: StatusCode, body: String) -> Response {
    answer(status, "application/json", body)
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const VISITS_MAX: usize = 32;
const VISIT_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
