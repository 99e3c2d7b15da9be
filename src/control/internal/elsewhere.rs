//! Requests about sessions that are not here, from both sides: this node asks the one that has the
//! session, and is asked of its own.

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use corelane_shard::id::SessionId;
use uuid::Uuid;

use super::backend::CallError;
use super::{Inside, InternalParts, Shared, endpoint_meta, events, proxy, sessions};
use crate::control::ask::{Ask, Whereabouts};
use crate::control::nodes::{self, NoResponse, Request, Route};
use crate::control::problem::{Problem, is_problem, json_text, problem_text};

impl Inside {
    /// What the node that has the session answers to the same request; `None` if none has it.
    pub(super) async fn at_holder(
        &self,
        session: SessionId,
        route: Route,
        body: &Bytes,
    ) -> Result<Option<Response>, Problem> {
        if !self.relays {
            return Ok(None);
        }
        let node = match self.asker.ask(|answer| Ask::Whereabouts { session, answer }).await? {
            Whereabouts::Nowhere => return Ok(None),
            Whereabouts::Node(node) => node,
            Whereabouts::Unknown => {
                let detail =
                    format!("session {session} is not here, and Redis cannot be asked where it is");
                return Err(Problem::overloaded(detail));
            }
        };
        // They take as long as those that are made here.
        let mut place = Ok(None);
        if route.calls_backend() {
            place = self.calls.try_acquire().map(Some);
        }
        let _place = place.map_err(|_| Problem::overloaded(CallError::TooMany.to_string()))?;
        let request = Request { route, body: body.clone() };
        let told = self.asker.ask_patiently(|answer| Ask::Node { node, request, answer }).await?;
        told.map(|response| Some(shown(response))).map_err(|why| unanswered(session, node, why))
    }
}

fn unanswered(session: SessionId, node: Uuid, why: NoResponse) -> Problem {
    let detail = format!("session {session} is on node {node}: {why}");
    let (status, next) = match why {
        NoResponse::NoLink | NoResponse::Unable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "see corelane_node_links and the log of both nodes, or ask that node itself",
        ),
        NoResponse::TooMany | NoResponse::QueueFull => {
            (StatusCode::SERVICE_UNAVAILABLE, "try again in a moment; nothing was done")
        }
        NoResponse::LinkLost => (
            StatusCode::SERVICE_UNAVAILABLE,
            "try again if it may be done twice; it may have been done",
        ),
        NoResponse::Late => (
            StatusCode::GATEWAY_TIMEOUT,
            "try again if it may be done twice; it may have been done",
        ),
    };
    Problem::new(status, detail, next)
}

fn shown(response: nodes::Response) -> Response {
    let nodes::Response { status, problem, body } = response;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    match (problem, body.is_empty()) {
        (true, _) => problem_text(status, body),
        (false, true) => status.into_response(),
        (false, false) => json_text(status, body),
    }
}

/// Answers requests that other nodes pass on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Holder(Shared);

impl Holder {
    /// With bounds of its own: other nodes do not take the places of this one's services.
    #[must_use]
    pub fn new(parts: InternalParts) -> Self {
        // Whoever asks has found that the session is here; it is not asked for elsewhere again.
        Self(Inside::new(None, InternalParts { relays: false, ..parts }))
    }

    /// As the listener answers it.
    pub(in crate::control) async fn answer(self, request: Request) -> nodes::Response {
        let Request { route, body } = request;
        let state = State(self.0);
        let answer = match route {
            Route::Capabilities => sessions::capabilities(state, body).await,
            Route::Proxy => proxy::proxy(state, body).await,
            Route::Message => events::client_message(state, body).await,
            Route::Rpc => events::client_rpc(state, body).await,
            Route::Meta => endpoint_meta::for_another_node(state, body).await,
        };
        match told(answer.unwrap_or_else(Problem::into_response)).await {
            Some(response) => response,
            None => {
                let detail = format!("the answer is longer than {RESPONSE_BYTES_MAX} bytes");
                let next = "ask the node that has the session itself";
                let problem = Problem::new(StatusCode::BAD_GATEWAY, detail, next);
                told(problem.into_response()).await.expect("it is short")
            }
        }
    }
}

/// `None` if it is too long.
async fn told(response: Response<Body>) -> Option<nodes::Response> {
    let problem = is_problem(&response);
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), RESPONSE_BYTES_MAX).await.ok()?;
    Some(nodes::Response { status, problem, body })
}

/// What a link carries.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
