//! The description of the listener itself: the OpenAPI document, and what of it the protocol wants
//! to be asked for endpoint by endpoint (protocol §9.9).

use axum::extract::{MatchedPath, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Shared, unix_ms};
use crate::control::problem::{Problem, json_text, ok};
use crate::events::Timestamp;

/// `docs/openapi.json`.
pub(super) const DOCUMENT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json"));

/// What is asked about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Info,
    RequestSchema,
    ResponseSchema,
    Full,
}

impl Kind {
    pub(super) const ALL: [Self; 4] =
        [Self::Info, Self::RequestSchema, Self::ResponseSchema, Self::Full];

    pub(super) fn of(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.suffix() == suffix)
    }

    /// Behind `/meta/`.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::RequestSchema => "request-schema",
            Self::ResponseSchema => "response-schema",
            Self::Full => "schema",
        }
    }

    /// `metaType` of the answer.
    fn name(self) -> &'static str {
        match self {
            Self::Info => "endpoint-info",
            Self::RequestSchema => "request-schema",
            Self::ResponseSchema => "response-schema",
            Self::Full => "full-schema",
        }
    }

    pub(super) fn words() -> String {
        Self::ALL.map(Self::suffix).join(", ")
    }
}

/// The document, parsed.
#[derive(Debug)]
pub(super) struct Description(Value);

impl Description {
    pub(super) fn new() -> Self {
        Self(serde_json::from_str(DOCUMENT).unwrap_or_default())
    }

    /// What the document says of a POST; schemas stand on their own, without references.
    fn data(&self, path: &str, kind: Kind) -> Value {
        let operation = &self.0["paths"][path]["post"];
        let request = || self.whole(&operation["requestBody"]["content"][JSON]["schema"]);
        let response = || self.whole(&operation["responses"]["200"]["content"][JSON]["schema"]);
        let info = || {
            json!({
                "summary": operation["summary"],
                "description": operation["description"],
                "tags": operation["tags"],
                "deprecated": false,
                "operationId": operation["operationId"],
            })
        };
        match kind {
            Kind::Info => info(),
            Kind::RequestSchema => request(),
            Kind::ResponseSchema => response(),
            Kind::Full => json!({ "info": info(), "request": request(), "response": response() }),
        }
    }

    /// The document has no schema within itself.
    fn whole(&self, schema: &Value) -> Value {
        match schema {
            Value::Object(fields) => match fields.get("$ref").and_then(Value::as_str) {
                Some(reference) => {
                    let place = reference.trim_start_matches('#');
                    self.whole(self.0.pointer(place).unwrap_or(&Value::Null))
                }
                None => {
                    let whole =
                        |(name, field): (&String, &Value)| (name.clone(), self.whole(field));
                    Value::Object(fields.iter().map(whole).collect())
                }
            },
            Value::Array(items) => items.iter().map(|item| self.whole(item)).collect(),
            plain => plain.clone(),
        }
    }
}

pub(super) async fn document() -> Response {
    json_text(StatusCode::OK, DOCUMENT)
}

pub(super) async fn meta(
    State(inside): State<Shared>,
    matched: MatchedPath,
    Path(kind): Path<String>,
) -> Result<Response, Problem> {
    let kind = Kind::of(&kind).ok_or_else(|| {
        let detail = format!("{kind:?} is not one of {}", Kind::words());
        Problem::new(StatusCode::NOT_FOUND, detail, "ask for one of these")
    })?;
    let path = matched.as_str().trim_end_matches("/meta/{kind}");
    Ok(ok(&json!({
        "metaType": kind.name(),
        "serviceName": "Connect",
        "method": "POST",
        "path": path,
        "data": inside.description.data(path, kind),
        "generatedAt": Timestamp(unix_ms()),
        "schemaVersion": env!("CARGO_PKG_VERSION"),
    })))
}

const JSON: &str = "application/json";
