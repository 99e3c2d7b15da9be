//! Calls that a service makes in a session's name (protocol §9.5).
//!
//! What the session may call is decided by the path as it is configured, before its placeholders are
//! filled; so what fills one must stay within its segment.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use corelane_shard::snapshot::{self, Endpoint};
use hyper::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::backend::{self, Call, CallError};
use super::{Shared, read_json};
use crate::control::ask::Described;
use crate::control::asker::no_session;
use crate::control::nodes::Route;
use crate::control::problem::{Problem, ok, with_status};
use crate::control::query::parse;

/// `headers` may be there and is ignored, as the protocol has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProxyRequest<'a> {
    session_id: String,
    target_service: String,
    target_endpoint: String,
    method: String,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    path_parameters: Option<BTreeMap<String, String>>,
    query_parameters: Option<BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyResponse {
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Milliseconds.
    execution_time: u64,
}

/// The backend's answer, whatever its status, is a 200.
pub(super) async fn proxy(State(inside): State<Shared>, body: Bytes) -> Result<Response, Problem> {
    let request: ProxyRequest<'_> = read_json(&body)?;
    let session = parse("sessionId", &request.session_id)?;
    let method = method(&request.method)?;
    let Some(described) = inside.asker.find(session).await? else {
        let elsewhere = inside.at_holder(session, Route::Proxy, &body).await?;
        return elsewhere.ok_or_else(|| no_session(session));
    };
    let endpoint = granted(&described, &request, method)?;
    let id = endpoint.service;
    let service = &described.snapshot.services[usize::from(id.0)];
    backend::check_http(service)?;
    let target = target(&request)?;
    let json = request.body.map(RawValue::get).filter(|json| *json != "null");
    let bare = matches!(method, snapshot::Method::Get | snapshot::Method::Delete);
    let call = Call {
        session,
        method: Method::from_bytes(method.as_str().as_bytes()).unwrap_or(Method::POST),
        target,
        body: json.filter(|_| !bare),
    };
    let started = Instant::now();
    let answer = backend::call(&inside, id, service, call).await;
    let execution_time = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(match answer {
        Ok(answer) => {
            let mut headers = BTreeMap::<String, Vec<String>>::new();
            for (name, value) in &answer.headers {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                headers.entry(name.to_string()).or_default().push(value);
            }
            ok(&ProxyResponse {
                status_code: answer.status.as_u16(),
                response: Some(String::from_utf8_lossy(&answer.body).into_owned()),
                headers: Some(headers),
                error: None,
                execution_time,
            })
        }
        // Nothing was tried.
        Err(reason @ (CallError::TooMany | CallError::Core(_))) => {
            return Err(Problem::overloaded(reason.to_string()));
        }
        Err(reason) => {
            let unavailable = ProxyResponse {
                status_code: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
                response: None,
                headers: None,
                error: Some(reason.to_string()),
                execution_time,
            };
            with_status(StatusCode::INTERNAL_SERVER_ERROR, &unavailable)
        }
    })
}

fn method(word: &str) -> Result<snapshot::Method, Problem> {
    use snapshot::Method::{Delete, Get, Patch, Post, Put};
    let mut methods = [Get, Post, Put, Delete, Patch].into_iter();
    methods.find(|method| method.as_str().eq_ignore_ascii_case(word)).ok_or_else(|| {
        let detail = format!("method = {word:?}: expected GET, POST, PUT, DELETE or PATCH");
        Problem::bad_request(detail)
    })
}

/// The endpoint if the session may call it: of several of one path the one with this method.
fn granted<'a>(
    described: &'a Described,
    request: &ProxyRequest<'_>,
    method: snapshot::Method,
) -> Result<&'a Endpoint, Problem> {
    let snapshot = &described.snapshot;
    let may_call = described.description.endpoints.iter();
    let mut endpoints =
        may_call.filter_map(|id| snapshot.endpoints.get(usize::from(id.0))).filter(|endpoint| {
            let service = snapshot.services.get(usize::from(endpoint.service.0));
            service.is_some_and(|service| *service.name == request.target_service)
        });
    let wanted = |endpoint: &&Endpoint| {
        *endpoint.path == request.target_endpoint && endpoint.method == method
    };
    endpoints.find(wanted).ok_or_else(|| {
        let detail = format!(
            "the session may not call {} {}:{}",
            method.as_str(),
            request.target_service,
            request.target_endpoint
        );
        let next = "grant it to one of the session's roles, or by a capabilities event";
        Problem::new(StatusCode::FORBIDDEN, detail, next)
    })
}

/// The path with its placeholders filled, and the query.
fn target(request: &ProxyRequest<'_>) -> Result<Uri, Problem> {
    let mut target = request.target_endpoint.clone();
    for (name, value) in request.path_parameters.iter().flatten() {
        check_segment(name, value)?;
        target = target.replace(&format!("{{{name}}}"), value);
    }
    if let Some(open) = target.find('{') {
        let rest = &target[open..];
        let placeholder = rest.find('}').map_or(rest, |close| &rest[..=close]);
        let detail = format!("pathParameters has no value for {placeholder}");
        return Err(Problem::bad_request(detail));
    }
    let mut divider = if target.contains('?') { '&' } else { '?' };
    for (name, value) in request.query_parameters.iter().flatten() {
        target.push(divider);
        target.extend(utf8_percent_encode(name, RESERVED));
        target.push('=');
        target.extend(utf8_percent_encode(value, RESERVED));
        divider = '&';
    }
    target.parse().map_err(|reason| {
        Problem::bad_request(format!("{target:?} is no path of a request: {reason}"))
    })
}

/// Values are put in as they are; what is escaped in them stays so.
fn check_segment(name: &str, value: &str) -> Result<(), Problem> {
    let lower = value.to_ascii_lowercase();
    let dots = lower.replace("%2e", ".");
    let leaves =
        ["/", "\\", "?", "#", "{", "}", "%2f", "%5c"].iter().any(|part| lower.contains(part));
    let is_segment = !value.is_empty()
        && value.bytes().all(|byte| byte.is_ascii_graphic())
        && !leaves
        && !matches!(&*dots, "." | "..");
    if is_segment {
        return Ok(());
    }
    Err(Problem::bad_request(format!(
        "pathParameters.{name} = {value:?} is not one segment of a path; escape what is not \
         letters and digits, but no \"/\""
    )))
}

/// All but RFC 3986's unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    fn request(endpoint: &str, parameters: &[(&str, &str)]) -> Result<String, Problem> {
        let owned = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
        };
        let request = ProxyRequest {
            session_id: String::new(),
            target_service: String::new(),
            target_endpoint: endpoint.to_owned(),
            method: String::new(),
            body: None,
            path_parameters: owned(parameters),
            query_parameters: owned(&[("q", "a b&c=d/ü"), ("r", "")]),
        };
        target(&request).map(|uri| uri.to_string())
    }

    #[test]
    fn placeholders_are_filled_and_queries_escaped() {
        let target = request("/demo/{id}/of/{id}", &[("id", "a%20b"), ("other", "x")]).unwrap();
        assert_eq!(target, "/demo/a%20b/of/a%20b?q=a%20b%26c%3Dd%2F%C3%BC&r=");
        let missing = request("/demo/{id}", &[]).unwrap_err();
        assert!(missing.detail.contains("{id}"), "{}", missing.detail);
    }

    #[test]
    fn a_parameter_cannot_leave_its_segment() {
        for value in
            ["", "..", ".", "%2e%2E", "a/b", "a%2Fb", "a?b", "a#b", "a b", "a\r\nb", "\\", "{x}"]
        {
            let refused = request("/demo/{id}", &[("id", value)]).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{value:?}");
        }
        for value in ["7", "...", "a.b", "%C3%BC", "a:b@c"] {
            assert!(request("/demo/{id}", &[("id", value)]).is_ok(), "{value:?}");
        }
    }
}
