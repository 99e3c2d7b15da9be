//! The connections of the HTTP listeners: so many at a time, and none that holds its place for
//! nothing.
//!
//! On the admin listener a visit is one request and ends in time whatever it does. On the internal
//! one connections are kept from request to request: what is bounded is the time for a request's
//! head, which is also how long a connection may be idle, and the time that a client takes nothing
//! of what is written.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tracing::debug;

/// Accepts while there is a place; further visitors wait in the kernel's backlog.
#[derive(Debug)]
pub(super) struct Visits {
    listener: TcpListener,
    places: Arc<Semaphore>,
    visit_max: Duration,
}

impl Visits {
    pub(super) fn new(listener: TcpListener, places: usize, visit_max: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(places)), visit_max }
    }
}

impl Listener for Visits {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        (Visit { stream, ends: Box::pin(sleep(self.visit_max)), _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends in time.
#[derive(Debug)]
pub(super) struct Visit {
    stream: TcpStream,
    ends: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Visit {
    fn check_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ends.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Bounds of kept connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeepRules {
    /// Connections at a time.
    pub(super) places: usize,
    /// For a request's head, from the answer before it.
    pub(super) idle_max: Duration,
    /// For a client to take something of what is written.
    pub(super) stall_max: Duration,
}

/// Serves for ever, request after request on each connection.
pub(super) async fn serve_kept(mut listener: TcpListener, router: Router, rules: KeepRules) {
    let places = Arc::new(Semaphore::new(rules.places));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.ok();
        let (stream, _) = Listener::accept(&mut listener).await;
        let stream = TokioIo::new(Kept { stream, stalled: None, stall_max: rules.stall_max });
        let service = TowerToHyperService::new(router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(rules.idle_max)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(stream, service)
            .with_upgrades();
        tokio::spawn(async move {
            if let Err(reason) = connection.await {
                debug!(%reason, "a connection of the internal listener has ended");
            }
            drop(place);
        });
    }
}

/// A connection whose client has to read.
#[derive(Debug)]
struct Kept {
    stream: TcpStream,
    /// Runs while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
    stall_max: Duration,
}

impl AsyncRead for Kept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Kept {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let stall_max = self.stall_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall_max)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Of a request's head.
const HEAD_BYTES_MAX: usize = 32 << 10;

#[cfg(test)]
mod tests;
