//! What the demo backends say of their endpoints when they are asked by a meta request
//! (protocol §5.4).

use serde_json::{Value, json};

use super::wall_clock;

/// The four questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Info,
    RequestSchema,
    ResponseSchema,
    Everything,
}

impl Question {
    /// Over a link the channel field names the question.
    pub(super) fn from_channel(channel: u16) -> Self {
        match channel {
            1 => Self::RequestSchema,
            2 => Self::ResponseSchema,
            3 => Self::Everything,
            _ => Self::Info,
        }
    }

    /// Over HTTP it follows the endpoint's path and `/meta/`.
    pub(super) fn from_path(name: &str) -> Option<Self> {
        match name {
            "info" => Some(Self::Info),
            "request-schema" => Some(Self::RequestSchema),
            "response-schema" => Some(Self::ResponseSchema),
            "schema" => Some(Self::Everything),
            _ => None,
        }
    }

    fn meta_type(self) -> &'static str {
        match self {
            Self::Info => "endpoint-info",
            Self::RequestSchema => "request-schema",
            Self::ResponseSchema => "response-schema",
            Self::Everything => "full-schema",
        }
    }
}

/// One endpoint, described.
#[derive(Debug, Clone)]
pub(super) struct Description {
    pub(super) service: &'static str,
    pub(super) path: &'static str,
    pub(super) operation: &'static str,
    pub(super) summary: &'static str,
    /// JSON Schema.
    pub(super) request: Value,
    /// JSON Schema.
    pub(super) response: Value,
}

impl Description {
    /// The answer's body.
    pub(super) fn answer(&self, question: Question) -> String {
        let info = json!({
            "summary": self.summary,
            "description": "",
            "tags": [self.service],
            "deprecated": false,
            "operationId": self.operation,
        });
        let data = match question {
            Question::Info => info,
            Question::RequestSchema => self.request.clone(),
            Question::ResponseSchema => self.response.clone(),
            Question::Everything => json!({
                "info": info,
                "request": self.request,
                "response": self.response,
            }),
        };
        json!({
            "metaType": question.meta_type(),
            "serviceName": self.service,
            "method": "POST",
            "path": self.path,
            "data": data,
            "generatedAt": wall_clock::iso(wall_clock::unix_ms()),
            "schemaVersion": env!("CARGO_PKG_VERSION"),
        })
        .to_string()
    }
}
