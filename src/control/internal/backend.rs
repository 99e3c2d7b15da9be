//! One HTTP call to a service's backend on behalf of a service: over a connection of its own, since
//! such calls are rare and the shards' connections are theirs.

use std::error::Error;
use std::io;
use std::time::Duration;

use axum::http::{Method, StatusCode, header};
use bytes::Bytes;
use corelane_shard::id::{ServiceId, SessionId};
use corelane_shard::snapshot::{Address, Service, UpstreamKind};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Shared;
use crate::control::ask::Ask;
use crate::control::asker::Unanswered;
use crate::control::problem::Problem;

/// What is asked of a backend.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) session: SessionId,
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: Uri,
    /// JSON.
    pub(super) body: Option<&'a str>,
}

/// An answer that was read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Core(#[from] Unanswered),
    #[error("{CALLS_MAX} calls to backends run already")]
    TooMany,
    #[error("no address of the service is known")]
    NoAddress,
    #[error("the backend cannot be reached: {0}")]
    Unreachable(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// 501 for a service that speaks no HTTP.
pub(super) fn check_http(service: &Service) -> Result<(), Problem> {
    match service.kind {
        UpstreamKind::Http => Ok(()),
        UpstreamKind::Link { .. } => {
            let detail = format!("service {:?} is reached by link, not by HTTP", service.name);
            let next = "call it as a client does, or give it an http:// address";
            Err(Problem::new(StatusCode::NOT_IMPLEMENTED, detail, next))
        }
    }
}

/// Within the service's own time and size.
pub(super) async fn call(
    inside: &Shared,
    id: ServiceId,
    service: &Service,
    call: Call<'_>,
) -> Result<Answer, CallError> {
    let _place = inside.calls.try_acquire().map_err(|_| CallError::TooMany)?;
    let addresses = inside.asker.ask(|answer| Ask::Addresses { service: id, answer }).await?;
    let within = service.call_timeout;
    timeout(within, exchange(&addresses, service, call))
        .await
        .unwrap_or(Err(CallError::TimedOut(within)))
}

/// With the first address that accepts a connection, in an order by chance.
async fn exchange(
    addresses: &[Address],
    service: &Service,
    call: Call<'_>,
) -> Result<Answer, CallError> {
    let mut failed = CallError::NoAddress;
    let first = fastrand::usize(..addresses.len().max(1));
    for address in addresses[first.min(addresses.len())..].iter().chain(&addresses[..first]) {
        match connect(address, service.connect_timeout).await {
            Ok(stream) => return converse(stream, service, call).await,
            Err(reason) => failed = CallError::Unreachable(reason),
        }
    }
    Err(failed)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(address: &Address, within: Duration) -> Result<Box<dyn Stream>, String> {
    let connecting = async {
        Ok::<Box<dyn Stream>, io::Error>(match address {
            Address::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    };
    match timeout(within, connecting).await {
        Ok(connected) => connected.map_err(|reason| reason.to_string()),
        Err(_) => Err(format!("no connection within {within:?}")),
    }
}

async fn converse(
    stream: Box<dyn Stream>,
    service: &Service,
    call: Call<'_>,
) -> Result<Answer, CallError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(service.response_head_bytes_max.max(HEAD_BYTES_MIN))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|reason| unreachable(&reason))?;
    let answered = async {
        let answer = sender.send_request(request(service, call)?).await;
        let (head, body) = answer.map_err(|reason| unreachable(&reason))?.into_parts();
        let bytes_max = service.response_body_bytes_max;
        let body =
            Limited::new(body, bytes_max).collect().await.map_err(|reason| match reason
                .downcast_ref::<LengthLimitError>(
            ) {
                Some(_) => CallError::TooLong(bytes_max),
                None => unreachable(&*reason),
            })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    };
    let driven = async {
        // Ends with an error when the answer does, which says more.
        drop(connection.await);
        std::future::pending().await
    };
    tokio::select! {
        answered = answered => answered,
        never = driven => never,
    }
}

/// With the headers that a shard's call has.
fn request(service: &Service, call: Call<'_>) -> Result<Request<Full<Bytes>>, CallError> {
    let Call { session, method, target, body } = call;
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, &*service.host)
        .header(header::ACCEPT, "application/json")
        .header("X-Bannou-Session-Id", session.to_string())
        .header(header::CONNECTION, "close");
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json; charset=utf-8");
    }
    let body = Full::new(Bytes::copy_from_slice(body.unwrap_or_default().as_bytes()));
    request.body(body).map_err(|reason| CallError::Unreachable(reason.to_string()))
}

/// With what is behind the error: the outermost one says only that something failed.
fn unreachable(error: &(dyn Error + 'static)) -> CallError {
    let all = std::iter::successors(Some(error), |&error| error.source());
    CallError::Unreachable(all.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// One more is refused at once.
pub(super) const CALLS_MAX: usize = 16;
/// Below that hyper does not go.
const HEAD_BYTES_MIN: usize = 8 << 10;
