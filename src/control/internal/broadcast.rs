//! Another node dials: the WebSocket on which broadcasts and messages of sessions cross (protocol
//! §13.4).

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use uuid::Uuid;

use super::Shared;
use crate::control::ask::{Ask, NoLinks};
use crate::control::nodes::{accept, serve_accepted};
use crate::control::problem::Problem;
use crate::control::query::Query;

/// 101; a node that is alone closes the socket at once, as the protocol has it.
pub(super) async fn join(
    State(inside): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    let instance = instance(&request)?;
    let (response, dialect) = accept(&request)
        .map_err(|_| Problem::bad_request("the request is no WebSocket handshake of version 13"))?;
    let seat = match inside.asker.ask(|answer| Ask::Link { instance, answer }).await? {
        Ok(seat) => Some(seat),
        Err(NoLinks::Alone) => None,
        Err(NoLinks::TooMany) => {
            let detail = "this node has as many links as it may";
            let next = "look for nodes that dial and do not stay";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail, next));
        }
    };
    tokio::spawn(serve_accepted(request, dialect, seat));
    Ok(response)
}

fn instance(request: &Request<Body>) -> Result<Uuid, Problem> {
    let query = Query::read(request.uri().query(), &["instanceId"])?;
    let text = query.one("instanceId")?;
    let instance = text.and_then(|text| Uuid::parse_str(text).ok());
    instance.ok_or_else(|| Problem::bad_request("instanceId is the UUID of the node that dials"))
}
