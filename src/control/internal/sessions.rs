//! What services may ask about sessions (protocol §9.3 and §9.4).

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use corelane_shard::session::shortcuts::Shortcut;
use corelane_shard::snapshot::{Endpoint, Snapshot};
use corelane_shard::wire::guid::{ServiceGuids, SessionText};
use serde::{Deserialize, Serialize};

use super::{Shared, read_json, unix_ms};
use crate::control::ask::{Ask, Described};
use crate::control::asker::no_session;
use crate::control::nodes::Route;
use crate::control::problem::{self, Problem};
use crate::control::query::parse;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CapabilitiesRequest {
    session_id: String,
    /// Beginning of a service's name.
    service_filter: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CapabilitiesResponse<'a> {
    session_id: String,
    capabilities: Vec<Capability<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shortcuts: Vec<ShortcutShown<'a>>,
    version: u32,
}

#[derive(Serialize)]
struct Capability<'a> {
    guid: String,
    service: &'a str,
    endpoint: &'a str,
    method: &'static str,
    channel: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShortcutShown<'a> {
    guid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_endpoint: Option<&'a str>,
    name: String,
    description: String,
}

pub(super) async fn capabilities(
    State(inside): State<Shared>,
    body: Bytes,
) -> Result<Response, Problem> {
    let request: CapabilitiesRequest = read_json(&body)?;
    let session = parse("sessionId", &request.session_id)?;
    let Some(described) = inside.asker.find(session).await? else {
        let elsewhere = inside.at_holder(session, Route::Capabilities, &body).await?;
        return elsewhere.ok_or_else(|| no_session(session));
    };
    let Described { description, snapshot, .. } = &*described;
    let (guids, text) = (ServiceGuids::new(snapshot), SessionText::new(session));
    let wanted = request.service_filter.unwrap_or_default().to_lowercase();
    let capabilities = description.endpoints.iter().filter_map(|&id| {
        let (endpoint, service) = endpoint_of(snapshot, id)?;
        let listed =
            !endpoint.is_templated() && service.to_lowercase().starts_with(wanted.as_str());
        listed.then_some(Capability {
            guid: guids.derive(&text, id)?.to_string(),
            service,
            endpoint: &endpoint.path,
            method: endpoint.method.as_str(),
            channel: 0,
        })
    });
    let now = unix_ms();
    let stands = |shortcut: &&Shortcut| shortcut.expires_unix_ms.is_none_or(|at| at > now);
    let shortcuts = description.shortcuts.iter().filter(stands);
    Ok(problem::ok(&CapabilitiesResponse {
        session_id: session.to_string(),
        capabilities: capabilities.collect(),
        shortcuts: shortcuts.map(|shortcut| show_shortcut(shortcut, snapshot)).collect(),
        version: 1,
    }))
}

/// Named and described as in the manifest.
fn show_shortcut<'a>(shortcut: &'a Shortcut, snapshot: &'a Snapshot) -> ShortcutShown<'a> {
    let target = shortcut.target.and_then(|id| endpoint_of(snapshot, id));
    let guid = shortcut.route.to_string();
    let name = shortcut.name.as_deref().unwrap_or(&guid).to_owned();
    let description = match &shortcut.description {
        Some(description) => description.to_string(),
        None => format!("Shortcut to {name}"),
    };
    ShortcutShown {
        guid,
        target_service: target.map(|(_, service)| service),
        target_endpoint: target.map(|(endpoint, _)| &*endpoint.path),
        name,
        description,
    }
}

/// An endpoint and its service's name.
fn endpoint_of(
    snapshot: &Snapshot,
    id: corelane_shard::id::EndpointId,
) -> Option<(&Endpoint, &str)> {
    let endpoint = snapshot.endpoints.get(usize::from(id.0))?;
    let service = snapshot.services.get(usize::from(endpoint.service.0))?;
    Some((endpoint, &service.name))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccountRequest {
    account_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccountResponse {
    account_id: String,
    session_ids: Vec<String>,
}

/// Those with a connection; no answer of the control core is an empty list, too.
pub(super) async fn of_account(
    State(inside): State<Shared>,
    body: Bytes,
) -> Result<Response, Problem> {
    let AccountRequest { account_id } = read_json(&body)?;
    let account = account_id.as_str().into();
    let found = inside.asker.ask(|answer| Ask::OfAccount { account, answer }).await;
    let live = found.unwrap_or_default().into_iter().filter(|listed| listed.live);
    let session_ids = live.map(|listed| listed.identity.session.to_string()).collect();
    Ok(problem::ok(&AccountResponse { account_id, session_ids }))
}
