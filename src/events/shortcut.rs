//! The events that give a session a shortcut and take it away.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use corelane_shard::session::shortcuts::Shortcuts;
use corelane_shard::wire::guid::Guid;
use serde::Deserialize;

use super::Timestamp;
use super::order::{
    self, PublishedShortcut, Revocation, ShortcutFault, ShortcutTarget, TargetField, Unusable,
};
use super::text::Text;

/// `json` is known to be an object.
pub(super) fn read(json: &str) -> Result<PublishedShortcut, Unusable> {
    let published: Published<'_> =
        serde_json::from_str(json).map_err(|_| Unusable::BadShortcut(ShortcutFault::Form))?;
    let written = published.shortcut;
    let metadata = written.metadata.unwrap_or_default();
    Ok(PublishedShortcut {
        route: guid(written.route_guid).ok_or(Unusable::BadShortcut(ShortcutFault::RouteGuid))?,
        target_guid: guid(written.target_guid)
            .ok_or(Unusable::BadShortcut(ShortcutFault::TargetGuid))?,
        target: metadata.target()?,
        payload: payload(written.bound_payload)?,
        expires: metadata.expires()?,
        name: bounded(metadata.name)?,
        description: bounded(metadata.description)?,
        source_service: bounded(metadata.source_service)?,
    })
}

/// `json` is known to be an object. A route GUID comes before a service.
pub(super) fn read_revocation(json: &str) -> Result<Revocation, Unusable> {
    let written: WrittenRevocation<'_> =
        serde_json::from_str(json).map_err(|_| Unusable::BadRevocation)?;
    let revocation = match written.route_guid {
        Some(route) => guid(Some(route)).map(Revocation::ByRoute),
        None => present(written.revoke_by_service).map(|s| Revocation::ByService(s.into())),
    };
    revocation.ok_or(Unusable::BadRevocation)
}

#[derive(Deserialize)]
struct Published<'a> {
    #[serde(borrow)]
    shortcut: Written<'a>,
}

/// What else a service says about its shortcut is for others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(borrow)]
    route_guid: Option<Text<'a>>,
    #[serde(borrow)]
    target_guid: Option<Text<'a>>,
    #[serde(borrow)]
    bound_payload: Option<Text<'a>>,
    #[serde(borrow)]
    metadata: Option<Metadata<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    #[serde(borrow)]
    source_service: Option<Text<'a>>,
    #[serde(borrow)]
    target_service: Option<Text<'a>>,
    #[serde(borrow)]
    target_method: Option<Text<'a>>,
    #[serde(borrow)]
    target_endpoint: Option<Text<'a>>,
    #[serde(borrow)]
    expires_at: Option<Text<'a>>,
    /// Not what publishers write, but what older gateways look for.
    #[serde(borrow, rename = "expires_at")]
    expires_at_underscored: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRevocation<'a> {
    #[serde(borrow)]
    route_guid: Option<Text<'a>>,
    #[serde(borrow)]
    revoke_by_service: Option<Text<'a>>,
}

impl Metadata<'_> {
    fn target(&self) -> Result<ShortcutTarget, Unusable> {
        let service = field(&self.target_service, TargetField::Service)?;
        let method = field(&self.target_method, TargetField::Method)?;
        let path = field(&self.target_endpoint, TargetField::Endpoint)?;
        let fault = |fault| Err(Unusable::BadShortcut(fault));
        let Some(method) = order::method(method) else { return fault(ShortcutFault::Method) };
        // It becomes a part of a request line.
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return fault(ShortcutFault::Endpoint);
        }
        if [service, path].iter().any(|text| text.len() > PublishedShortcut::TEXT_BYTES_MAX) {
            return fault(ShortcutFault::TooLong);
        }
        Ok(ShortcutTarget { service: service.into(), method, path: path.into() })
    }

    fn expires(&self) -> Result<Option<Timestamp>, Unusable> {
        let written = self.expires_at.as_ref().or(self.expires_at_underscored.as_ref());
        let Some(Text(text)) = written else { return Ok(None) };
        let expires = Timestamp::parse(text);
        expires.map(Some).ok_or(Unusable::BadShortcut(ShortcutFault::Expiry))
    }
}

fn field<'t>(text: &'t Option<Text<'_>>, field: TargetField) -> Result<&'t str, Unusable> {
    let text = text.as_ref().map_or("", |Text(text)| text);
    if text.is_empty() { Err(Unusable::NoShortcutTarget(field)) } else { Ok(text) }
}

fn present(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    text.map(|Text(text)| text).filter(|text| !text.is_empty())
}

fn guid(text: Option<Text<'_>>) -> Option<Guid> {
    text?.0.parse().ok()
}

/// A text that the session keeps, if there is one.
fn bounded(text: Option<Text<'_>>) -> Result<Option<Box<str>>, Unusable> {
    match present(text) {
        Some(text) if text.len() > PublishedShortcut::TEXT_BYTES_MAX => {
            Err(Unusable::BadShortcut(ShortcutFault::TooLong))
        }
        text => Ok(text.map(Into::into)),
    }
}

/// Base64 if it can be read as such (blanks do not count), else the text itself: that is how
/// publishers have always been understood, also where they meant a text such as `null`.
fn payload(bound: Option<Text<'_>>) -> Result<Box<[u8]>, Unusable> {
    let text = bound.map_or(Cow::Borrowed(""), |Text(text)| text);
    let packed: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let payload = STANDARD.decode(packed).unwrap_or_else(|_| text.into_owned().into_bytes());
    if payload.len() > Shortcuts::PAYLOAD_MAX {
        return Err(Unusable::BadShortcut(ShortcutFault::TooLong));
    }
    Ok(payload.into())
}

#[cfg(test)]
mod tests;
