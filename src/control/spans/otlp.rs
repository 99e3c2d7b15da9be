//! A batch of spans in the JSON encoding of OTLP: an `ExportTraceServiceRequest`, whose ids are
//! hexadecimal and whose 64-bit numbers are text.

use corelane_shard::lane::Span;
use corelane_shard::snapshot::Snapshot;
use corelane_shard::wire::code::ResponseCode;
use serde_json::{Value, json};

use super::Queued;

/// Spans that go out together.
pub(super) struct Batch<'a> {
    pub(super) instance: &'a str,
    pub(super) spans: &'a [Queued],
}

/// `SPAN_KIND_CLIENT`: the gateway is the one that asks.
const KIND_CLIENT: u8 = 3;
/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u8 = 2;
/// What the flags of a span say besides the sampled bit: whether its parent is of another process
/// is known, and that it is.
const PARENT_IS_REMOTE: u32 = 0x300;
const SAMPLED: u32 = 0x01;

impl Batch<'_> {
    pub(super) fn to_json(&self) -> Vec<u8> {
        let version = env!("CARGO_PKG_VERSION");
        let spans: Vec<_> = self.spans.iter().map(span).collect();
        json!({
            "resourceSpans": [{
                "resource": {
                    "attributes": [
                        text("service.name", "corelane"),
                        text("service.instance.id", self.instance),
                        text("service.version", version),
                    ],
                },
                "scopeSpans": [{
                    "scope": { "name": "corelane", "version": version },
                    "spans": spans,
                }],
            }],
        })
        .to_string()
        .into_bytes()
    }
}

fn span(queued: &Queued) -> Value {
    let Queued { shard, span, snapshot } = queued;
    let (service, path) = names(span, snapshot);
    let suffix = span.meta.map_or("", |meta| meta.path_suffix());
    let mut attributes = vec![
        text("corelane.service", service),
        text("corelane.endpoint", path),
        number("corelane.shard", u64::from(shard.0)),
    ];
    attributes
        .extend(span.code.map(|code| number("corelane.response_code", u64::from(code.value()))));
    let mut json = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.span),
        "flags": SAMPLED,
        "name": format!("{service}:{path}{suffix}"),
        "kind": KIND_CLIENT,
        "startTimeUnixNano": span.began_unix_ns.to_string(),
        "endTimeUnixNano": span.ended_unix_ns.to_string(),
        "attributes": attributes,
        "status": status(span.code),
    });
    if let Some(parent) = span.parent {
        json["parentSpanId"] = json!(format!("{parent:016x}"));
        json["flags"] = json!(SAMPLED | PARENT_IS_REMOTE);
    }
    json
}

/// Success stays unset: whether it was one is for the backend to say.
fn status(code: Option<ResponseCode>) -> Value {
    match code {
        Some(ResponseCode::Ok) => json!({}),
        Some(code) => json!({ "code": STATUS_ERROR, "message": code.label() }),
        None => json!({ "code": STATUS_ERROR, "message": "the client left before the answer" }),
    }
}

/// Service and path of the endpoint that was called.
fn names<'a>(span: &Span, snapshot: &'a Snapshot) -> (&'a str, &'a str) {
    let endpoint = snapshot.endpoints.get(usize::from(span.endpoint.0));
    let service =
        endpoint.and_then(|endpoint| snapshot.services.get(usize::from(endpoint.service.0)));
    (service.map_or("", |service| &service.name), endpoint.map_or("", |endpoint| &endpoint.path))
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}
