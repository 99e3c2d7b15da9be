//! How a link begins: a WebSocket handshake, from either side.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::server::create_response_with_body;
use tungstenite::protocol::Role;
use uuid::Uuid;

use super::link::{Dialect, LinkEnd, Seat, What};
use super::said::SUBPROTOCOL;
use super::socket::serve;
use crate::config::{NodeUrl, Secret, Upstream};

/// A node to be dialled.
#[derive(Debug)]
pub(in crate::control) struct Dial {
    pub(super) url: NodeUrl,
    pub(super) own: Uuid,
    pub(super) token: Option<Secret>,
    pub(super) seat: Seat,
}

/// What a request for a link is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) struct NoHandshake;

/// The answer to a request for a link, and what the link is to carry.
pub(in crate::control) fn accept(
    request: &Request<Body>,
) -> Result<(Response<Body>, Dialect), NoHandshake> {
    let mut response = create_response_with_body(request, Body::empty).map_err(|_| NoHandshake)?;
    if !offers(request.headers()) {
        return Ok((response, Dialect::Broadcasts));
    }
    let chosen = HeaderValue::from_static(SUBPROTOCOL);
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, chosen);
    Ok((response, Dialect::Node))
}

fn offers(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut words = offered.filter_map(|value| value.to_str().ok()).flat_map(|it| it.split(','));
    words.any(|word| word.trim() == SUBPROTOCOL)
}

/// Serves a link that was accepted, until it has ended. Without a seat the mesh is off here: the
/// socket is closed at once.
pub(in crate::control) async fn serve_accepted(
    request: Request<Body>,
    dialect: Dialect,
    seat: Option<Seat>,
) {
    let upgraded = timeout(HANDSHAKE_MAX, hyper::upgrade::on(request)).await;
    match (upgraded, seat) {
        (Ok(Ok(upgraded)), Some(seat)) => {
            serve(TokioIo::new(upgraded), Role::Server, dialect, seat).await;
        }
        (_, Some(seat)) => seat.tell(What::Ended(LinkEnd::Lost)).await,
        (_, None) => {}
    }
}

/// Dials a node and serves the link until it has ended.
pub(in crate::control) async fn dial(dial: Dial) {
    let Dial { url, own, token, seat } = dial;
    match timeout(HANDSHAKE_MAX, connect(&url, own, token.as_ref())).await {
        Ok(Ok((stream, dialect))) => serve(stream, Role::Client, dialect, seat).await,
        Ok(Err(reason)) => seat.tell(What::Ended(LinkEnd::Unreachable(reason.to_string()))).await,
        Err(_) => {
            let reason = format!("no handshake within {HANDSHAKE_MAX:?}");
            seat.tell(What::Ended(LinkEnd::Unreachable(reason))).await;
        }
    }
}

async fn connect(
    url: &NodeUrl,
    own: Uuid,
    token: Option<&Secret>,
) -> io::Result<(TokioIo<hyper::upgrade::Upgraded>, Dialect)> {
    let stream = match &url.address {
        Upstream::Name { host, port } => TcpStream::connect((host.as_str(), *port)).await?,
        Upstream::Socket(address) => TcpStream::connect::<SocketAddr>(*address).await?,
        Upstream::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    stream.set_nodelay(true)?;
    let key = generate_key();
    let mut request = Request::get(format!("{}?instanceId={own}", url.path))
        .header(HOST, url.address.to_string())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    if let Some(token) = token {
        request = request.header("X-Service-Token", token.reveal());
    }
    let request = request.body(Body::empty()).map_err(io::Error::other)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(reason) = connection.with_upgrades().await {
            debug!(%reason, "a connection to another node has ended");
        }
    });
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(io::Error::other(format!("the node answers {status} to the handshake")));
    }
    let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(io::Error::other("the node's answer belongs to another handshake"));
    }
    let dialect = match response.headers().get(SEC_WEBSOCKET_PROTOCOL) {
        Some(chosen) if chosen == SUBPROTOCOL => Dialect::Node,
        Some(_) => return Err(io::Error::other("the node chooses a subprotocol of its own")),
        None => Dialect::Broadcasts,
    };
    let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
    Ok((TokioIo::new(upgraded), dialect))
}

const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
