//! A small client of the internal listener: posts JSON, follows the bus.

use std::collections::VecDeque;
use std::net::SocketAddr;

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;

/// Why something was not done.
#[derive(Debug, Error)]
pub(super) enum InternalError {
    #[error("the internal listener cannot be reached: {0}")]
    Unreachable(#[from] std::io::Error),
    #[error("the internal listener does not speak HTTP: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the internal listener answers {status}: {detail}")]
    Refused { status: StatusCode, detail: String },
}

/// Where it is and what it wants to see.
#[derive(Debug)]
pub(super) struct Internal {
    address: SocketAddr,
    token: String,
}

impl Internal {
    pub(super) fn new(address: SocketAddr, token: &str) -> Self {
        Self { address, token: token.to_owned() }
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<(), InternalError> {
        self.send(Method::POST, path, body.to_string()).await.map(drop)
    }

    /// What is published from now on under one of `topics`.
    pub(super) async fn follow(&self, topics: &[&str]) -> Result<Records, InternalError> {
        let topics: Vec<String> = topics.iter().map(|topic| format!("topic={topic}")).collect();
        let path = format!("/bus?{}", topics.join("&"));
        let response = self.send(Method::GET, &path, String::new()).await?;
        Ok(Records { body: response.into_body(), lines: Lines::default() })
    }

    /// Over a connection of its own; a status other than 2xx is an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response<Incoming>, InternalError> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the response's body; what goes wrong the response says too.
        tokio::spawn(async { drop(connection.await) });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header("X-Service-Token", &self.token)
            .body(Full::new(Bytes::from(body)))
            .expect("the paths and the token of this module are printable ASCII");
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.into_body().collect().await?.to_bytes();
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or_default().to_owned();
        Err(InternalError::Refused { status, detail })
    }
}

/// Records of the bus.
#[derive(Debug)]
pub(super) struct Records {
    body: Incoming,
    lines: Lines,
}

impl Records {
    /// Topic and record; `None` when the gateway has ended the stream.
    pub(super) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(record) = self.lines.next() {
                return Some(record);
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(bytes) = frame.data_ref() {
                self.lines.take(bytes);
            }
        }
    }
}

/// Server-Sent Events as they come, in pieces.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The last line, as long as it is not whole.
    begun: Vec<u8>,
    topic: String,
    data: String,
    whole: VecDeque<(String, Value)>,
}

impl Lines {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend(piece);
            if let Some(line) = self.begun.strip_suffix(b"\n") {
                let line = String::from_utf8_lossy(line).into_owned();
                self.begun.clear();
                self.line(&line);
            }
        }
    }

    fn line(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.topic),
            "data" => self.data += value,
            "" if line.is_empty() => {
                let (topic, data) =
                    (std::mem::take(&mut self.topic), std::mem::take(&mut self.data));
                if let Ok(record) = serde_json::from_str(&data) {
                    self.whole.push_back((topic, record));
                }
            }
            _ => {}
        }
    }

    pub(super) fn next(&mut self) -> Option<(String, Value)> {
        self.whole.pop_front()
    }
}
