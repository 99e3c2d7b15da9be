//! `corelane call`: a small blocking client. It connects like a game would, waits for the manifest,
//! and calls one endpoint. [`listen`] stays instead.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::{Request, Response};
use tungstenite::http::{HeaderValue, StatusCode, Uri};
use tungstenite::{Error, Message, WebSocket};
use uuid::Uuid;

use super::frame::{EVENT, Frame, Kind, RESPONSE, code_name};
use super::{CallArgs, Failure, output};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    event_name: String,
    session_id: Option<String>,
    #[serde(default)]
    available_apis: Vec<Api>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Api {
    #[serde(deserialize_with = "uuid")]
    service_id: Uuid,
    endpoint: String,
    service: String,
}

fn uuid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
    Uuid::parse_str(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(super) fn run(args: &CallArgs) -> Result<(), Failure> {
    let request = request(&args.url, &args.token)?;
    let mut client = Client::connect(request, args.timeout)?;
    let manifest = client.manifest()?;
    let Some(wanted) = &args.endpoint else {
        output::line(&table(&manifest));
        return client.close();
    };
    output::notice(&table(&manifest));
    let api = find(&manifest, wanted)?;
    let frame = Frame {
        flags: 0,
        channel: args.channel,
        sequence: 0,
        message_id: 1,
        kind: Kind::Request { guid: api.service_id },
        payload: args.payload.as_bytes(),
    };
    let asked = Instant::now();
    let (code, payload) = client.call(&frame)?;
    let took = asked.elapsed().as_secs_f64() * 1e3;
    output::notice(&format!("code {code} ({}) after {took:.1} ms", code_name(code)));
    if !payload.is_empty() {
        output::line(&output::payload(&payload));
    }
    client.close()?;
    match code {
        0 => Ok(()),
        code => Err(Failure::Unavailable(format!("the call was answered {code}"))),
    }
}

struct Client {
    socket: WebSocket<TcpStream>,
    timeout: Duration,
}

impl Client {
    fn connect(request: Request, timeout: Duration) -> Result<Self, Failure> {
        let uri = request.uri().clone();
        let stream = dial(&uri, timeout)?;
        let upgraded = tungstenite::client::client(request, stream);
        let (socket, _) = upgraded.map_err(|error| match error {
            HandshakeError::Failure(Error::Http(response)) => refused(&uri, &response),
            HandshakeError::Failure(error) => broken("the upgrade failed", &error),
            HandshakeError::Interrupted(_) => {
                let seconds = timeout.as_secs_f64();
                Failure::Unavailable(format!("{uri} did not answer the upgrade in {seconds} s"))
            }
        })?;
        Ok(Self { socket, timeout })
    }

    /// The first event that is a manifest, in either spelling of its name.
    fn manifest(&mut self) -> Result<Manifest, Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let bytes = self.receive(deadline, "the manifest")?;
            let Ok(frame) = Frame::decode(&bytes) else {
                continue;
            };
            if frame.flags & (EVENT | RESPONSE) != EVENT {
                continue;
            }
            let Ok(manifest) = serde_json::from_slice::<Manifest>(frame.payload) else {
                continue;
            };
            if manifest.event_name.replace('_', "-") == "connect.capability-manifest" {
                return Ok(manifest);
            }
        }
    }

    /// Code and payload of the answer to `request`. What else arrives is for those who listen.
    fn call(&mut self, request: &Frame<'_>) -> Result<(u8, Vec<u8>), Failure> {
        let message = Message::binary(request.encode());
        self.socket.send(message).map_err(|error| broken("cannot send the call", &error))?;
        let deadline = Instant::now() + self.timeout;
        loop {
            let bytes = self.receive(deadline, "the answer")?;
            match Frame::decode(&bytes) {
                Ok(Frame { kind: Kind::Response { code }, message_id, payload, .. })
                    if message_id == request.message_id =>
                {
                    return Ok((code, payload.to_vec()));
                }
                Ok(_) => {}
                Err(error) => output::notice(&format!("not a message of the protocol: {error}")),
            }
        }
    }

    /// The next binary message.
    fn receive(&mut self, deadline: Instant, what: &str) -> Result<Vec<u8>, Failure> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let late = || Failure::Unavailable(format!("gave up waiting for {what}"));
            if left.is_zero() {
                return Err(late());
            }
            let set = self.socket.get_ref().set_read_timeout(Some(left));
            set.map_err(|error| Failure::Internal(format!("cannot set a time-out: {error}")))?;
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => return Ok(bytes.to_vec()),
                Ok(Message::Close(frame)) => {
                    let why = frame.map(|frame| {
                        format!(": {} {}", u16::from(frame.code), output::printable(&frame.reason))
                    });
                    let why = why.unwrap_or_default();
                    return Err(Failure::Unavailable(format!(
                        "the gateway closed the connection while waiting for {what}{why}"
                    )));
                }
                Ok(_) => {}
                Err(Error::Io(error)) if is_late(&error) => return Err(late()),
                Err(error) => return Err(broken(&format!("while waiting for {what}"), &error)),
            }
        }
    }

    fn close(mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(1);
        // The result is already there: a gateway that does not say good-bye is no failure.
        drop(self.socket.close(None));
        while self.receive(deadline, "the close").is_ok() {}
        Ok(())
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn broken(what: &str, error: &Error) -> Failure {
    Failure::Unavailable(format!("{what}: {error}"))
}

/// `ws://host:port[/path]`; `http://` means the same, and the path is `/connect` if left out.
fn request(url: &str, token: &str) -> Result<Request, Failure> {
    let usage = |message: &str| Failure::Usage(format!("{url}: {message}"));
    if url.starts_with("wss://") || url.starts_with("https://") {
        return Err(usage("this client speaks no TLS"));
    }
    let rest = url.strip_prefix("ws://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| usage("expected ws://host:port"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let path = if rest.contains('/') { "" } else { "/connect" };
    let request = format!("ws://{rest}{path}").into_client_request();
    let mut request = request.map_err(|_| usage("not a URL"))?;
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| Failure::Usage("the token contains characters no header may".to_owned()))?;
    bearer.set_sensitive(true);
    request.headers_mut().insert("Authorization", bearer);
    Ok(request)
}

fn dial(uri: &Uri, timeout: Duration) -> Result<TcpStream, Failure> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    let unreachable =
        |error: &io::Error| Failure::Unavailable(format!("cannot reach {host}:{port}: {error}"));
    let addresses = (host, port).to_socket_addrs().map_err(|error| unreachable(&error))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                let set = stream.set_nodelay(true);
                let set = set.and_then(|()| stream.set_read_timeout(Some(timeout)));
                let set = set.and_then(|()| stream.set_write_timeout(Some(timeout)));
                set.map_err(|error| unreachable(&error))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(unreachable(&last))
}

/// What a status at the door means for who sees it.
fn refused(uri: &Uri, response: &Response) -> Failure {
    let status = response.status();
    let meaning = match status {
        StatusCode::UNAUTHORIZED => "the token was refused: wrong key, expired or revoked",
        StatusCode::SERVICE_UNAVAILABLE => "the gateway is full, draining or cannot check tokens",
        StatusCode::TOO_MANY_REQUESTS => "too many connections from here",
        StatusCode::CONFLICT => "a newer connection took this session",
        StatusCode::FORBIDDEN => "this origin or client is not welcome",
        StatusCode::NOT_FOUND => "there is nothing at this path; a gateway serves /connect",
        _ => "the upgrade was refused",
    };
    let retry = response.headers().get("Retry-After").and_then(|value| value.to_str().ok());
    let retry = retry.map(|after| format!("; try again after {after} s")).unwrap_or_default();
    Failure::Unavailable(format!("{uri}: {status}: {meaning}{retry}"))
}

fn find<'a>(manifest: &'a Manifest, wanted: &str) -> Result<&'a Api, Failure> {
    let names = |api: &&Api| {
        let rest = wanted.strip_prefix(api.service.as_str());
        let rest = rest.map(|rest| rest.strip_prefix(':').unwrap_or(rest));
        api.endpoint == wanted || rest == Some(&api.endpoint)
    };
    let mut found = manifest.available_apis.iter().filter(names);
    match (found.next(), found.next()) {
        (Some(api), None) => Ok(api),
        (Some(one), Some(other)) => Err(Failure::Usage(format!(
            "{wanted:?} is ambiguous: {}:{} or {}:{}",
            one.service, one.endpoint, other.service, other.endpoint
        ))),
        (None, _) => Err(Failure::Usage(format!("this session may not call {wanted:?}"))),
    }
}

fn table(manifest: &Manifest) -> String {
    let session = manifest.session_id.as_deref().unwrap_or("unknown");
    let count = manifest.available_apis.len();
    let mut out = format!("session {}, {count} endpoints", output::printable(session));
    let width = manifest.available_apis.iter().map(|api| api.service.chars().count()).max();
    let width = width.unwrap_or(0);
    for api in &manifest.available_apis {
        let line = format!("\n  {}  {:<width$}  {}", api.service_id, api.service, api.endpoint);
        out += &output::printable(&line);
    }
    out
}

pub(super) mod listen;
#[cfg(test)]
mod tests;
