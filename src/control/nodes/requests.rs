//! Requests of services about sessions that another node has: they are asked of that node as they
//! came, and what it says is the answer.

use std::time::Duration;

use bytes::Bytes;
use corelane_shard::clock::Instant;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::counts::NoResponse;
use super::link::{LinkId, Phase};
use super::said::Said;
use super::{Heard, Nodes};

/// What of the internal listener is answered by the node that has the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Capabilities,
    Proxy,
    Message,
    Rpc,
    /// The description of an endpoint, for a player whose token was checked.
    Meta,
}

impl Route {
    pub(super) const ALL: [Self; 5] =
        [Self::Capabilities, Self::Proxy, Self::Message, Self::Rpc, Self::Meta];

    /// A backend is called for it.
    pub(in crate::control) fn calls_backend(self) -> bool {
        matches!(self, Self::Proxy | Self::Meta)
    }
}

/// A request as it came to the listener, which has checked who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub route: Route,
    /// JSON.
    pub body: Bytes,
}

/// What the listener of the other node would have answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Of HTTP.
    pub status: u16,
    /// The body is problem details.
    pub problem: bool,
    /// JSON, or nothing.
    pub body: Bytes,
}

/// Where the response to a request that was heard goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    link: LinkId,
    number: u32,
}

/// Somebody who waits for a response.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) until: Instant,
    pub(super) answer: oneshot::Sender<Result<Response, NoResponse>>,
}

impl Nodes {
    /// Asks a node, by its instance; `answer` hears of it once, at the latest after `within`.
    pub(in crate::control) fn request(
        &mut self,
        node: Uuid,
        request: Request,
        within: Duration,
        answer: oneshot::Sender<Result<Response, NoResponse>>,
        now: Instant,
    ) {
        if let Err((why, answer)) = self.try_request(node, request, now + within, answer) {
            self.probe.nodes.no_response(why);
            let _unheard = answer.send(Err(why));
        }
    }

    fn try_request(
        &mut self,
        node: Uuid,
        request: Request,
        until: Instant,
        answer: oneshot::Sender<Result<Response, NoResponse>>,
    ) -> Result<(), (NoResponse, oneshot::Sender<Result<Response, NoResponse>>)> {
        let mut links = self.links.values_mut();
        let open = links.find(|link| link.phase == Phase::Open && link.instance == Some(node));
        let Some(link) = open else { return Err((NoResponse::NoLink, answer)) };
        if !link.hello.as_ref().is_some_and(|hello| hello.requests) {
            return Err((NoResponse::Unable, answer));
        }
        if link.asking.len() >= ASKING_MAX {
            return Err((NoResponse::TooMany, answer));
        }
        let number = self.numbers.next();
        if link.put(Said::Request { number, request }.encode(), &self.held).is_err() {
            return Err((NoResponse::QueueFull, answer));
        }
        self.probe.nodes.requests_out.increment();
        link.asking.insert(number, Asking { until, answer });
        Ok(())
    }

    /// Nobody waits for ever.
    pub(super) fn give_up_requests(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            for (_, asking) in link.asking.extract_if(|_, asking| asking.until <= now) {
                self.probe.nodes.no_response(NoResponse::Late);
                let _unheard = asking.answer.send(Err(NoResponse::Late));
            }
        }
    }

    pub(super) fn hear_request(&mut self, link: LinkId, number: u32, request: Request) -> Heard {
        self.probe.nodes.requests_in.increment();
        let origin = Origin { link, number };
        self.answering += 1;
        if self.answering > ANSWERING_MAX {
            self.respond(origin, Response::busy());
            return Heard::Nothing;
        }
        Heard::Request(origin, request)
    }

    /// Sends the response to a request. One that finds no room is lost, and its asker hears that
    /// there was none in time.
    pub(in crate::control) fn respond(&mut self, origin: Origin, response: Response) {
        self.answering -= 1;
        let Origin { link, number } = origin;
        if let Some(link) = self.links.get(&link)
            && link.put(Said::Response { number, response }.encode(), &self.held).is_err()
        {
            self.probe.nodes.responses_lost.increment();
        }
    }

    pub(super) fn hear_response(&mut self, link: LinkId, number: u32, response: Response) {
        // Whoever came too late has been counted.
        let asking = self.links.get_mut(&link).and_then(|link| link.asking.remove(&number));
        if let Some(Asking { answer, .. }) = asking {
            let _unheard = answer.send(Ok(response));
        }
    }
}

impl Response {
    fn busy() -> Self {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "detail": format!("the node that has the session answers {ANSWERING_MAX} requests already"),
            "next": "try again in a moment",
        });
        Self { status: 503, problem: true, body: body.to_string().into() }
    }
}

/// Requests that wait for one node's responses.
const ASKING_MAX: usize = 32;
/// Requests of other nodes that are being answered.
pub const ANSWERING_MAX: usize = 32;
