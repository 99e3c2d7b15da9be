//! The task of one link: it owns the socket, passes on what comes and sends what is queued. What
//! any of it means is decided by the control core.

use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message};

use super::link::{Dialect, LinkEnd, LinkNews, Outgoing, Seat, What};
use super::said::LINK_MESSAGE_BYTES_MAX;

/// Until the link has ended, however that is.
pub(super) async fn serve<I>(stream: I, role: Role, dialect: Dialect, seat: Seat)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let socket = WebSocketStream::from_raw_socket(stream, role, Some(limits())).await;
    let (mut sink, mut stream) = socket.split();
    let mut seat = seat;
    seat.tell(What::Connected(dialect)).await;
    let end = {
        let Seat { link, queue, news } = &mut seat;
        let told = |bytes| {
            let (link, news) = (*link, news.clone());
            async move { news.send(LinkNews { link, what: What::Said(bytes) }).await.is_ok() }
        };
        tokio::select! {
            end = hear(&mut stream, told) => Ok(end),
            close = speak(&mut sink, queue) => close,
        }
    };
    let (end, close) = match end {
        Ok(LinkEnd::Malformed) => (LinkEnd::Malformed, Some((1002, "a frame that no node sends"))),
        Ok(end) => (end, None),
        Err(Over::Told(code, reason)) => (LinkEnd::Closed, Some((code, reason))),
        Err(Over::Unheard(end)) => (end, None),
    };
    if let Some((code, reason)) = close {
        say_goodbye(&mut sink, &mut stream, code, reason).await;
    }
    seat.tell(What::Ended(end)).await;
}

impl Seat {
    /// The control core has gone if nobody hears it; then this task has, too.
    pub(super) async fn tell(&self, what: What) {
        let _unheard = self.news.send(LinkNews { link: self.link, what }).await;
    }
}

/// Why nothing more is said.
enum Over {
    Told(u16, &'static str),
    Unheard(LinkEnd),
}

async fn hear<I, F>(
    stream: &mut SplitStream<WebSocketStream<I>>,
    mut told: impl FnMut(bytes::Bytes) -> F,
) -> LinkEnd
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = bool>,
{
    loop {
        let Ok(next) = timeout(SILENCE_MAX, stream.next()).await else {
            return LinkEnd::Silent;
        };
        match next {
            Some(Ok(Message::Binary(bytes))) => {
                if !told(bytes).await {
                    return LinkEnd::Closed;
                }
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) => return LinkEnd::Closed,
            Some(Ok(Message::Text(_))) => return LinkEnd::Malformed,
            Some(Err(error)) => return end_of(&error),
            None => return LinkEnd::Lost,
        }
    }
}

fn end_of(error: &Error) -> LinkEnd {
    match error {
        Error::ConnectionClosed => LinkEnd::Closed,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => LinkEnd::Lost,
        Error::Protocol(_) | Error::Capacity(_) | Error::Utf8(_) => LinkEnd::Malformed,
        _ => LinkEnd::Lost,
    }
}

/// Sends what is queued, and Pings at a steady pace.
async fn speak<I>(
    sink: &mut SplitSink<WebSocketStream<I>, Message>,
    queue: &mut tokio::sync::mpsc::Receiver<Outgoing>,
) -> Result<LinkEnd, Over>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let batch = async {
            tokio::select! {
                next = queue.recv() => match next {
                    Some(Outgoing::Message(bytes, held)) => {
                        Ok((Message::Binary(bytes), Some(held)))
                    }
                    Some(Outgoing::Close(code, reason)) => Err(Over::Told(code, reason)),
                    None => Err(Over::Told(1000, "")),
                },
                _ = pings.tick() => Ok((Message::Ping(bytes::Bytes::new()), None)),
            }
        };
        let (first, _held) = batch.await?;
        let sent = timeout(SILENCE_MAX, async {
            sink.feed(first).await?;
            for _ in 1..BATCH_MAX {
                match queue.try_recv() {
                    Ok(Outgoing::Message(bytes, _held)) => {
                        sink.feed(Message::Binary(bytes)).await?
                    }
                    Ok(Outgoing::Close(code, reason)) => {
                        sink.flush().await?;
                        return Ok(Some(Over::Told(code, reason)));
                    }
                    Err(_) => break,
                }
            }
            sink.flush().await?;
            Ok::<_, Error>(None)
        });
        match sent.await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(over))) => return Err(over),
            Ok(Err(_)) => return Err(Over::Unheard(LinkEnd::Lost)),
            Err(_) => return Err(Over::Unheard(LinkEnd::Silent)),
        }
    }
}

/// The last frame, and a moment for the other node to read it.
async fn say_goodbye<I>(
    sink: &mut SplitSink<WebSocketStream<I>, Message>,
    stream: &mut SplitStream<WebSocketStream<I>>,
    code: u16,
    reason: &'static str,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    let goodbye = async {
        if sink.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    let _in_vain = timeout(GOODBYE_MAX, goodbye).await;
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER_BYTES)
        .write_buffer_size(SOCKET_BUFFER_BYTES)
        .max_message_size(Some(LINK_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(LINK_MESSAGE_BYTES_MAX))
}

/// Messages between two looks at whether they have left.
const BATCH_MAX: usize = 64;
pub(super) const SOCKET_BUFFER_BYTES: usize = 64 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A node that says nothing for so long, or takes nothing, is given up.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const GOODBYE_MAX: Duration = Duration::from_secs(1);
