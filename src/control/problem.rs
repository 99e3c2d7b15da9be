//! What an HTTP listener answers when it does not do what was asked: problem details (RFC 9457)
//! with the cause and the next step.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// The cause, in this case.
    pub(super) detail: String,
    /// What to do about it.
    pub(super) next: &'static str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>, next: &'static str) -> Self {
        Self { status, detail: detail.into(), next }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail, "correct the request; it has changed nothing")
    }

    pub(super) fn overloaded(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail, "try again in a moment")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail, next } = self;
        let body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": detail,
            "next": next,
        });
        problem_text(status, body.to_string())
    }
}

/// `text` is problem details.
pub(super) fn problem_text(status: StatusCode, text: impl Into<axum::body::Body>) -> Response {
    let mut response = (status, text.into()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Whether its body is problem details.
pub(super) fn is_problem(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|it| it == CONTENT_TYPE)
}

/// 200 with `body` as JSON.
pub(super) fn ok(body: &impl serde::Serialize) -> Response {
    with_status(StatusCode::OK, body)
}

pub(super) fn with_status(status: StatusCode, body: &impl serde::Serialize) -> Response {
    let text = serde_json::to_string(body).expect("keys are texts, and memory takes all");
    json_text(status, text)
}

/// `text` is JSON.
pub(super) fn json_text(status: StatusCode, text: impl Into<axum::body::Body>) -> Response {
    let mut response = (status, text.into()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const CONTENT_TYPE: &str = "application/problem+json";
