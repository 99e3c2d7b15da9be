//! What the gateway has announced to a backend: endpoints by index, appended to and never reused.

use super::prefix::NO_ENDPOINT;
use crate::id::{EndpointId, ServiceId};
use crate::snapshot::{Method, Snapshot};

#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// By index on the wire.
    announced: Vec<Box<str>>,
    /// By [`EndpointId`] of the current snapshot; [`NO_ENDPOINT`] for those of other services.
    indices: Vec<u16>,
}

/// Whether the backend has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    Unchanged,
    /// The list has grown: [`super::Link::write_hello`] before any further data.
    Needed,
}

impl Endpoints {
    pub(super) fn adopt(&mut self, snapshot: &Snapshot, service: ServiceId) -> Announcement {
        let before = self.announced.len();
        self.indices.clear();
        for endpoint in &snapshot.endpoints {
            let index = if endpoint.service == service {
                self.index_of(&name_of(endpoint.method, &endpoint.path))
            } else {
                NO_ENDPOINT
            };
            self.indices.push(index);
        }
        if self.announced.len() > before { Announcement::Needed } else { Announcement::Unchanged }
    }

    pub(super) fn announced(&self) -> &[Box<str>] {
        &self.announced
    }

    pub(super) fn index(&self, endpoint: EndpointId) -> Option<u16> {
        let index = *self.indices.get(usize::from(endpoint.0))?;
        (index != NO_ENDPOINT).then_some(index)
    }

    fn index_of(&mut self, name: &str) -> u16 {
        if let Some(known) = self.announced.iter().position(|n| **n == *name) {
            return known as u16;
        }
        if self.announced.len() == usize::from(NO_ENDPOINT) {
            return NO_ENDPOINT;
        }
        self.announced.push(name.into());
        (self.announced.len() - 1) as u16
    }
}

/// The path alone for POST, as docs/LINK.md has it.
fn name_of(method: Method, path: &str) -> String {
    match method {
        Method::Post => path.to_owned(),
        Method::Get | Method::Put | Method::Delete | Method::Patch => {
            format!("{}:{path}", method.as_str())
        }
    }
}
