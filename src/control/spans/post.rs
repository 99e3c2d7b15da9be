//! One POST to a collector, and what its answer means.

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use thiserror::Error;

/// The collector's address, with a connection that is kept from one batch to the next.
#[derive(Debug)]
pub(super) struct Post {
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A batch that has arrived.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Spans of it that the collector does not want.
    pub(super) rejected: u64,
    /// Why not.
    pub(super) complaint: String,
}

/// Why a batch has not arrived.
#[derive(Debug, Error)]
pub(super) enum PostError {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it does not answer in time")]
    Slow,
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
}

impl PostError {
    /// It may go away by itself: the statuses are those that OTLP lets a sender try again.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Slow => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Request(_) => false,
        }
    }
}

impl Post {
    pub(super) fn new(url: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build_http();
        Self { url: url.to_owned(), client }
    }

    pub(super) async fn send(&self, body: Vec<u8>) -> Result<Delivery, PostError> {
        let request = Request::post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        let response = self.client.request(request).await.map_err(|error| root(&error))?;
        let status = response.status();
        // Read to its end also when it says nothing, or the connection could not be kept.
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        if !status.is_success() {
            return Err(PostError::Status(status));
        }
        Ok(answer.map(|answer| delivery(&answer.to_bytes())).unwrap_or_default())
    }
}

/// The innermost cause is the one that people can do something about.
fn root(error: &(dyn Error + 'static)) -> PostError {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    PostError::Unreachable(causes.last().unwrap_or(error).to_string())
}

/// An answer that cannot be read complains of nothing.
fn delivery(answer: &[u8]) -> Delivery {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    let rejected = &partial["rejectedSpans"];
    let as_text = || rejected.as_str().and_then(|text| text.parse().ok());
    Delivery {
        rejected: rejected.as_u64().or_else(as_text).unwrap_or(0),
        complaint: partial["errorMessage"].as_str().unwrap_or_default().to_owned(),
    }
}

const ANSWER_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_reject_a_part() {
        let some = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
        assert_eq!(delivery(some), Delivery { rejected: 3, complaint: "too old".into() });
        let bare = br#"{"partialSuccess":{"rejectedSpans":3}}"#;
        assert_eq!(delivery(bare).rejected, 3);
        for nothing in [&b""[..], b"{}", br#"{"partialSuccess":{}}"#, b"\xff", b"[1]", b"null"] {
            assert_eq!(delivery(nothing), Delivery::default(), "{nothing:?}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [429, 502, 503, 504] {
            assert!(PostError::Status(StatusCode::from_u16(status).unwrap()).is_passing());
        }
        for status in [301, 400, 401, 404, 413, 500] {
            assert!(!PostError::Status(StatusCode::from_u16(status).unwrap()).is_passing());
        }
    }
}
