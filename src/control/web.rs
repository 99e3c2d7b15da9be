//! Requests of the control core to others: key sets and the auth service. Over kept connections, with
//! a bound on time and on what is read.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::Request;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thiserror::Error;

/// Speaks HTTP/1.1, in plain and, if it was asked for, over TLS. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct WebClient {
    plain: Client<HttpConnector, Full<Bytes>>,
    secure: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

/// A response that was read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// Why there is no response. Never tells what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum WebError {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

impl WebClient {
    /// An error when TLS is wanted and no certificate of an authority is found.
    pub(super) fn new(https: bool) -> io::Result<Self> {
        let plain = builder().build(HttpConnector::new());
        let mut this = Self { plain, secure: None };
        this.expect_https(https)?;
        Ok(this)
    }

    /// Reads the system's authorities when TLS is wanted for the first time.
    pub(super) fn expect_https(&mut self, https: bool) -> io::Result<()> {
        if https && self.secure.is_none() {
            let connector = HttpsConnectorBuilder::new().with_native_roots()?;
            let connector = connector.https_or_http().enable_http1().build();
            self.secure = Some(builder().build(connector));
        }
        Ok(())
    }

    pub(super) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
        within: Duration,
    ) -> Result<Response, WebError> {
        let response = async {
            let response = match &self.secure {
                Some(secure) => secure.request(request).await,
                None => self.plain.request(request).await,
            };
            let response = response.map_err(|error| WebError::Unreachable(causes(&error)))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), body_bytes_max).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => WebError::TooLong(body_bytes_max),
                None => WebError::Unreachable(causes(&*error)),
            })?;
            Ok(Response { status, body: body.to_bytes() })
        };
        tokio::time::timeout(within, response).await.unwrap_or(Err(WebError::TimedOut(within)))
    }
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(POOL_IDLE).pool_timer(TokioTimer::new());
    builder
}

/// An error and what is behind it: the outermost one says only that something failed.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += ": ";
        text += &inner.to_string();
        cause = inner.source();
    }
    text
}

/// Shorter than servers usually keep an unused connection.
const POOL_IDLE: Duration = Duration::from_secs(4);
