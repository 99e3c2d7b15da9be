//! What every request passes: the service token, where one is asked for, the bounds of its body, and
//! the count.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use corelane_shard::engine::ServiceToken;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

use super::Shared;
use crate::control::problem::Problem;

/// 401 unless the request has the service token, once.
fn check(token: &ServiceToken, headers: &HeaderMap) -> Result<(), Problem> {
    let mut presented = headers.get_all(SERVICE_TOKEN).iter();
    let next = "send listen.internal.service_token as X-Service-Token";
    let detail = match (presented.next(), presented.next()) {
        (Some(found), None) if found.to_str().is_ok_and(|it| token.matches(it)) => return Ok(()),
        (Some(_), None) => "the service token is not the one of this gateway",
        (Some(_), Some(_)) => "the request has more than one service token",
        (None, _) => "the request has no service token",
    };
    Err(Problem::new(StatusCode::UNAUTHORIZED, detail, next))
}

/// Handlers get their body whole.
pub(super) async fn guard(State(inside): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let checked = inside.service_token.as_ref().map(|token| check(token, request.headers()));
    let response = match checked.unwrap_or(Ok(())) {
        Err(problem) => {
            inside.probe.internal.token_refused.increment();
            problem.into_response()
        }
        Ok(()) => admitted(&inside, request, next).await.unwrap_or_else(Problem::into_response),
    };
    inside.probe.internal.count(path.as_deref(), response.status());
    response
}

async fn admitted(inside: &Shared, request: Request, next: Next) -> Result<Response, Problem> {
    let place = timeout(PLACE_WAIT_MAX, inside.at_work.acquire()).await;
    let _place = place.ok().and_then(Result::ok).ok_or_else(|| {
        Problem::overloaded(format!("{AT_WORK_MAX} requests are at work already"))
    })?;
    let request = with_whole_body(request).await?;
    Ok(next.run(request).await)
}

async fn with_whole_body(request: Request) -> Result<Request, Problem> {
    let (head, body) = request.into_parts();
    let body = timeout(BODY_MAX, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = body.map_err(|_| {
        let detail = format!("the body was not complete after {BODY_MAX:?}");
        Problem::new(StatusCode::REQUEST_TIMEOUT, detail, "send it faster")
    })?;
    let body = body.map_err(|reason| match reason.downcast_ref::<LengthLimitError>() {
        Some(_) => {
            let detail = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail, "send less at a time")
        }
        None => Problem::bad_request(format!("the body cannot be read: {reason}")),
    })?;
    Ok(Request::from_parts(head, Body::from(body.to_bytes())))
}

/// Requests beyond it wait a moment, then they are answered 503.
pub(super) const AT_WORK_MAX: usize = 32;
const PLACE_WAIT_MAX: Duration = Duration::from_secs(1);
const SERVICE_TOKEN: &str = "x-service-token";
const BODY_BYTES_MAX: usize = 1 << 20;
const BODY_MAX: Duration = Duration::from_secs(10);
