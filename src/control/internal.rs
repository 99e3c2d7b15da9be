//! The internal listener: how services reach sessions, the bus, and facts about both.
//!
//! Every request carries the service token, whatever it asks for. What is served, under which path,
//! is in `docs/openapi.json`, which is served too; a test keeps the two in step. Handlers know the
//! control core by its questions ([`super::ask`]) alone.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use corelane_shard::engine::ServiceToken;
use corelane_shard::id::SessionId;
use corelane_shard::identity::AuthRefusal;
use corelane_shard::lane::DrainPhase;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::description::Description;
use super::ask::Asking;
use super::asker::Asker;
use super::probe::ControlProbe;
use super::problem::Problem;
use super::visits::{KeepRules, serve_kept};
use crate::config::Secret;
use crate::lifecycle::{Phase, PhaseCell};

mod backend;
mod broadcast;
mod bus;
mod counts;
mod description;
mod elsewhere;
mod endpoint_meta;
mod events;
mod guard;
mod proxy;
mod sessions;

pub use self::counts::ListenerCounts;
pub use self::elsewhere::Holder;

/// A bound listener: the one for services, or the one for players, which has nothing but descriptions
/// of endpoints.
#[derive(Debug)]
pub struct InternalListener {
    listener: StdListener,
    router: Router,
}

/// Why the internal listener cannot be opened.
#[derive(Debug, Error)]
pub enum InternalError {
    #[error(
        "cannot listen on {address} for the internal interface: {source}; find who has the port \
         with `ss -ltnp`, or set {key} to another"
    )]
    Bind { address: SocketAddr, key: &'static str, source: io::Error },
}

/// Says whose session a client's token opens, as the door does.
pub trait TokenCheck: fmt::Debug + Send + Sync {
    /// `token` is without its scheme word.
    fn check<'a>(&'a self, token: &'a str) -> Checking<'a>;
}

/// A check under way.
pub type Checking<'a> = Pin<Box<dyn Future<Output = Result<SessionId, AuthRefusal>> + Send + 'a>>;

/// What a listener works with.
#[derive(Clone)]
pub struct InternalParts {
    pub asking: Asking,
    pub tokens: Arc<dyn TokenCheck>,
    pub probe: Arc<ControlProbe>,
    pub phase: Arc<PhaseCell>,
    /// What is asked of a session on another node is asked of that node.
    pub relays: bool,
}

/// What every handler may use.
#[derive(Debug)]
struct Inside {
    asker: Asker,
    tokens: Arc<dyn TokenCheck>,
    probe: Arc<ControlProbe>,
    phase: Arc<PhaseCell>,
    /// What every request must bring; `None` where players' own tokens are asked for.
    service_token: Option<ServiceToken>,
    description: Description,
    relays: bool,
    /// Places of subscribers of the bus.
    subscribers: Arc<Semaphore>,
    /// Places of requests whose body is in memory.
    at_work: Semaphore,
    /// Places of calls to backends, which take long: fewer, so that other requests find theirs.
    calls: Semaphore,
}

type Shared = Arc<Inside>;

impl InternalListener {
    /// For services. Opens the socket, so that an address that is taken stops the start.
    pub fn bind(
        address: SocketAddr,
        token: &Secret,
        parts: InternalParts,
    ) -> Result<Self, InternalError> {
        let listener = bind(address, "listen.internal.address")?;
        let inside = Inside::new(Some(ServiceToken::new(token.reveal())), parts);
        Ok(Self { listener, router: router(inside, routes()) })
    }

    /// For players, with bounds of its own: they cannot take the services' places.
    pub fn bind_for_players(
        address: SocketAddr,
        parts: InternalParts,
    ) -> Result<Self, InternalError> {
        let listener = bind(address, "listen.internal.endpoint_meta_address")?;
        Ok(Self { listener, router: router(Inside::new(None, parts), player_routes()) })
    }

    /// The port that was found, when port 0 was asked for.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves from a task of the running tokio runtime, until that ends.
    pub fn serve(self) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        tokio::spawn(serve_kept(listener, self.router, KEEP));
        Ok(())
    }
}

impl Inside {
    fn new(service_token: Option<ServiceToken>, parts: InternalParts) -> Shared {
        let InternalParts { asking, tokens, probe, phase, relays } = parts;
        Arc::new(Self {
            asker: Asker::new(asking),
            tokens,
            probe,
            phase,
            service_token,
            description: Description::new(),
            relays,
            subscribers: Arc::new(Semaphore::new(bus::SUBSCRIBERS_MAX)),
            at_work: Semaphore::new(guard::AT_WORK_MAX),
            calls: Semaphore::new(backend::CALLS_MAX),
        })
    }
}

fn bind(address: SocketAddr, key: &'static str) -> Result<StdListener, InternalError> {
    let failed = |source| InternalError::Bind { address, key, source };
    let listener = StdListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// A path, its methods and what serves it. Paths are metric labels.
type Route = (&'static str, &'static [&'static str], MethodRouter<Shared>);

const GET: &[&str] = &["get"];
const POST: &[&str] = &["post"];

fn player_routes() -> [Route; 1] {
    [("/connect/get-endpoint-meta", POST, post(endpoint_meta::endpoint_meta))]
}

fn routes() -> [Route; 16] {
    [
        ("/client-capabilities", POST, post(sessions::capabilities)),
        ("/connect/get-account-sessions", POST, post(sessions::of_account)),
        ("/internal/proxy", POST, post(proxy::proxy)),
        ("/connect/get-endpoint-meta", POST, post(endpoint_meta::endpoint_meta)),
        ("/client-capabilities/meta/{kind}", GET, get(description::meta)),
        ("/connect/get-account-sessions/meta/{kind}", GET, get(description::meta)),
        ("/internal/proxy/meta/{kind}", GET, get(description::meta)),
        ("/connect/get-endpoint-meta/meta/{kind}", GET, get(description::meta)),
        ("/health", &["get", "post"], get(health).post(health)),
        ("/events/auth-events", POST, post(events::auth_event)),
        ("/events/client-messages", POST, post(events::client_message)),
        ("/events/client-rpc", POST, post(events::client_rpc)),
        ("/connect/broadcast", GET, get(broadcast::join)),
        ("/bus", GET, get(bus::subscribe)),
        ("/bus/{topic}", POST, post(bus::publish)),
        ("/openapi.json", GET, get(description::document)),
    ]
}

fn router(inside: Shared, routes: impl IntoIterator<Item = Route>) -> Router {
    let mut router = Router::new();
    for (path, _, served) in routes {
        router = router.route(path, served);
    }
    router
        .fallback(async || {
            let next = "docs/openapi.json lists what is served, and docs/CONFIGURATION.md where";
            Problem::new(StatusCode::NOT_FOUND, "nothing is served under this path", next)
        })
        .method_not_allowed_fallback(async || {
            let next = "the Allow header names the methods of this path";
            let detail = "this path is not served for this method";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail, next)
        })
        .layer(from_fn_with_state(Arc::clone(&inside), guard::guard))
        .with_state(inside)
}

/// In the protocol's words.
async fn health(State(inside): State<Shared>) -> Response {
    match inside.phase.load() {
        Phase::Running | Phase::Draining(DrainPhase::Grace) => "Healthy".into_response(),
        Phase::Starting | Phase::Draining(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "Service unavailable").into_response()
        }
    }
}

/// The body as what the route takes; 400 with the place of what is wrong.
fn read_json<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|reason| Problem::bad_request(format!("the body is not what is taken: {reason}")))
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX)
}

impl fmt::Debug for InternalParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalParts").finish_non_exhaustive()
    }
}

const KEEP: KeepRules = KeepRules {
    places: 256,
    idle_max: Duration::from_secs(60),
    stall_max: Duration::from_secs(30),
};

#[cfg(test)]
mod tests;
