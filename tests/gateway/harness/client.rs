//! A game client: a session over tungstenite.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use super::frames::{EVENT, Guid, RESPONSE, Reply, Request, guid};
use super::raw::dial;

pub(crate) struct Client<S = TcpStream> {
    pub(crate) socket: WebSocket<S>,
    pub(crate) manifest: Value,
    /// Arrived while something else was waited for.
    replies: VecDeque<Reply>,
    requests: VecDeque<Request>,
}

impl Client {
    /// Connects and reads the manifest.
    pub(crate) fn connect(address: SocketAddr, token: &str) -> Self {
        Self::try_connect(address, token)
            .unwrap_or_else(|status| panic!("refused with status {status}"))
    }

    /// The status of the refusal if there is one.
    pub(crate) fn try_connect(address: SocketAddr, token: &str) -> Result<Self, u16> {
        Self::try_credential(address, &format!("Bearer {token}"))
    }

    /// Takes a session up with a reconnect token.
    pub(crate) fn try_resume(address: SocketAddr, token: &str) -> Result<Self, u16> {
        Self::try_credential(address, &format!("Reconnect {token}"))
    }

    fn try_credential(address: SocketAddr, credential: &str) -> Result<Self, u16> {
        Self::try_upgrade(dial(address), address, credential)
    }
}

impl<S: Read + Write> Client<S> {
    /// Over a stream that stands already.
    pub(crate) fn try_upgrade(
        stream: S,
        address: SocketAddr,
        credential: &str,
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{address}/connect")
            .into_client_request()
            .expect("an address makes a URL");
        let credential = HeaderValue::from_str(credential);
        request.headers_mut().insert("Authorization", credential.expect("a token is ASCII"));
        match tungstenite::client::client(request, stream) {
            Ok((socket, _)) => {
                let mut client = Self::over(socket);
                client.manifest = client.event();
                Ok(client)
            }
            Err(HandshakeError::Failure(Error::Http(response))) => Err(response.status().as_u16()),
            Err(error) => panic!("the upgrade failed: {error}"),
        }
    }

    /// For a socket that is upgraded already; its manifest is yet to come.
    pub(crate) fn over(socket: WebSocket<S>) -> Self {
        let (replies, requests) = (VecDeque::new(), VecDeque::new());
        Self { socket, manifest: Value::Null, replies, requests }
    }

    /// GUID of an endpoint, by its path.
    pub(crate) fn service(&self, path: &str) -> Guid {
        let apis = self.manifest["availableApis"].as_array().expect("a manifest lists");
        let api = apis.iter().find(|api| api["endpoint"] == path);
        let api = api.unwrap_or_else(|| panic!("{path} is not in {}", self.manifest));
        guid(api["serviceId"].as_str().expect("a GUID is text"))
    }

    /// The GUID under which others reach this client.
    pub(crate) fn peer(&self) -> Guid {
        guid(self.manifest["peerGuid"].as_str().expect("the mode is Relayed"))
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.send_message(Message::binary(request.encode()));
    }

    /// In one write: the gateway takes them in one turn, so they share its clock.
    pub(crate) fn send_together(&mut self, requests: &[Request]) {
        for request in requests {
            let message = Message::binary(request.encode());
            self.socket.write(message).expect("the connection is open");
        }
        self.socket.flush().expect("the connection is open");
    }

    pub(crate) fn send_message(&mut self, message: Message) {
        self.socket.send(message).expect("the connection is open");
    }

    pub(crate) fn call(&mut self, request: &Request) -> Reply {
        self.send(request);
        self.reply()
    }

    /// The next message with a 16-byte header.
    pub(crate) fn reply(&mut self) -> Reply {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return reply;
            }
            self.read();
        }
    }

    /// The next message with a 31-byte header.
    pub(crate) fn request(&mut self) -> Request {
        loop {
            if let Some(request) = self.requests.pop_front() {
                return request;
            }
            self.read();
        }
    }

    /// The payload of the next message with a 31-byte header, which is an event.
    pub(crate) fn event(&mut self) -> Value {
        let event = self.request();
        assert_eq!(event.flags & EVENT, EVENT, "not an event: {event:?}");
        event.json()
    }

    fn read(&mut self) {
        match self.socket.read() {
            Ok(Message::Binary(bytes)) if bytes[0] & RESPONSE != 0 => {
                self.replies.push_back(Reply::decode(&bytes));
            }
            Ok(Message::Binary(bytes)) => self.requests.push_back(Request::decode(&bytes)),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            other => panic!("waited for a message, got {other:?}"),
        }
    }

    /// Reads until the gateway says why it closes, answers that, and sees the stream end.
    pub(crate) fn close_reason(&mut self) -> (u16, String) {
        let reason = loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => {
                    break (frame.code.into(), frame.reason.to_string());
                }
                Ok(Message::Close(None)) => break (1005, String::new()),
                Ok(_) => {}
                Err(error) => panic!("ended without a close frame: {error}"),
            }
        };
        loop {
            match self.socket.read() {
                Err(Error::ConnectionClosed) => return reason,
                Ok(_) => {}
                Err(error) => panic!("closed with {reason:?}, then {error}"),
            }
        }
    }

    /// Says good-bye and waits for the answer.
    pub(crate) fn leave(mut self) {
        self.socket.close(None).expect("the connection is open");
        loop {
            match self.socket.read() {
                Err(Error::ConnectionClosed) => return,
                Ok(_) => {}
                Err(error) => panic!("the close was not answered: {error}"),
            }
        }
    }

    /// Nothing that was sent before is unanswered: the next reply is the one to this message,
    /// which no service knows.
    pub(crate) fn expect_no_reply(&mut self) {
        let marker = Request::to([0x11; 16]).id(0xdead);
        let reply = self.call(&marker);
        assert_eq!((reply.id, reply.code), (0xdead, 30), "an answer that nobody waits for");
        assert!(self.requests.is_empty(), "a message that nobody waits for: {:?}", self.requests);
    }
}
