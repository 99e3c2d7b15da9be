//! The exporter against collectors on loopback, and what it writes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::mpsc;
use std::thread;

use corelane_shard::id::{EndpointId, ServiceId};
use corelane_shard::wire::code::ResponseCode;
use corelane_shard::wire::meta::MetaKind;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, SourceFile, Sources};

const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration with one service of one endpoint.
fn snapshot() -> Arc<Snapshot> {
    let text = "[session]\nallow_well_known_salt = true\n[[service]]\nname = \"demo\"\n\
                addresses = [\"http://127.0.0.1:1\"]\nendpoints = [{ path = \"/demo/echo\" }]\n";
    let file = SourceFile { path: "corelane.toml".into(), text: text.into() };
    let sources = Sources { file: Some(file), ..Sources::default() };
    Arc::new(Config::load(&sources).unwrap().snapshot(1, 0))
}

fn a_span(number: u64) -> Box<Span> {
    Box::new(Span {
        trace: 0xABC,
        span: number,
        parent: None,
        endpoint: EndpointId(0),
        meta: None,
        began_unix_ns: 1_700_000_000_000_000_001,
        ended_unix_ns: 1_700_000_000_000_000_002,
        code: Some(ResponseCode::Ok),
    })
}

fn written(span: Span) -> Value {
    let queued = [Queued { shard: ShardId(5), span: Box::new(span), snapshot: snapshot() }];
    let body = Batch { instance: "node-7", spans: &queued }.to_json();
    serde_json::from_slice(&body).unwrap()
}

/// The spans of one request.
fn spans_of(body: &Value) -> &[Value] {
    body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap()
}

#[test]
fn a_span_is_written_as_the_collector_reads_it() {
    let body = written(*a_span(0xB2));
    let resource = &body["resourceSpans"][0]["resource"]["attributes"];
    let name = json!({ "key": "service.name", "value": { "stringValue": "corelane" } });
    let node = json!({ "key": "service.instance.id", "value": { "stringValue": "node-7" } });
    assert_eq!((&resource[0], &resource[1]), (&name, &node));
    assert_eq!(
        spans_of(&body),
        [json!({
            "traceId": "00000000000000000000000000000abc",
            "spanId": "00000000000000b2",
            "flags": 1,
            "name": "demo:/demo/echo",
            "kind": 3,
            "startTimeUnixNano": "1700000000000000001",
            "endTimeUnixNano": "1700000000000000002",
            "attributes": [
                { "key": "corelane.service", "value": { "stringValue": "demo" } },
                { "key": "corelane.endpoint", "value": { "stringValue": "/demo/echo" } },
                { "key": "corelane.shard", "value": { "intValue": "5" } },
                { "key": "corelane.response_code", "value": { "intValue": "0" } },
            ],
            "status": {},
        })]
    );
}

#[test]
fn a_span_says_who_asked_what_and_how_it_failed() {
    let parent = NonZeroU64::new(0xC3);
    let asked = Span { parent, meta: Some(MetaKind::Full), ..*a_span(1) };
    let body = written(Span { code: Some(ResponseCode::BackendError), ..asked });
    let [span] = spans_of(&body) else { panic!("{body}") };
    assert_eq!(span["parentSpanId"], "00000000000000c3");
    assert_eq!(span["flags"], 0x301);
    assert_eq!(span["name"], "demo:/demo/echo/meta/schema");
    assert_eq!(span["status"], json!({ "code": 2, "message": "Service_InternalServerError" }));

    let body = written(Span { code: None, ..*a_span(1) });
    let [span] = spans_of(&body) else { panic!("{body}") };
    assert_eq!(span["status"]["code"], 2);
    assert_eq!(span["attributes"].as_array().map(Vec::len), Some(3), "there is no code: {span}");
}

/// The head and the spans of each request that a collector got.
type Got = (String, Value);

/// A collector that gives these answers in turn, the last one for ever.
fn collector(answers: &[&'static str]) -> (String, mpsc::Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (sender, got) = mpsc::channel();
    let mut answers: Vec<&str> = answers.iter().rev().copied().collect();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            while let Some(request) = read_request(&stream) {
                let answer =
                    if answers.len() > 1 { answers.pop() } else { answers.last().copied() };
                // Told before it is answered: whoever saw the answer finds it.
                let told = sender.send(request);
                let sent = (&stream).write_all(answer.unwrap_or_default().as_bytes());
                if told.is_err() || sent.is_err() {
                    return;
                }
            }
        }
    });
    (url, got)
}

fn read_request(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let len = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; len.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).ok()?))
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
const BAD: &str = "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n";
const PARTIAL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n\
                       {\"partialSuccess\":{\"rejectedSpans\":\"2\"}}";

/// Puts so many spans, ends the queue and waits until all is done.
fn export(url: &str, spans: u64) -> Arc<ControlProbe> {
    let probe = Arc::<ControlProbe>::default();
    let export = SpanExport { collector: url.to_owned(), instance: "node-0".into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (queue, Exporter(task)) = Exporter::start(&export, Arc::clone(&probe));
        let snapshot = snapshot();
        for number in 1..=spans {
            queue.put(ShardId(0), a_span(number), &snapshot);
        }
        drop(queue);
        timeout(PATIENCE, task).await.unwrap().unwrap();
    });
    probe
}

#[test]
fn spans_arrive_in_batches_over_one_connection() {
    let (url, got) = collector(&[OK]);
    let probe = export(&url, 700);
    let (head, first) = got.try_recv().unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    let (_, second) = got.try_recv().unwrap();
    assert_eq!([spans_of(&first).len(), spans_of(&second).len()], [512, 188]);
    assert_eq!(spans_of(&second)[187]["spanId"], format!("{:016x}", 700));
    assert!(got.try_recv().is_err());
    assert_eq!(probe.spans_exported.read(), 700);
    assert_eq!(probe.span_export_failures.read(), 0);
}

#[test]
fn a_busy_collector_is_asked_once_more() {
    let (url, got) = collector(&[BUSY, OK]);
    let probe = export(&url, 3);
    let sent: Vec<_> = got.try_iter().map(|(_, body)| body).collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0], sent[1], "the same spans");
    assert_eq!((probe.spans_exported.read(), probe.span_export_failures.read()), (3, 1));
    assert_eq!(probe.spans_dropped(SpanDrop::CollectorDown), 0);
}

#[test]
fn a_collector_that_stays_busy_costs_the_spans() {
    let (url, got) = collector(&[BUSY]);
    let probe = export(&url, 3);
    assert_eq!(got.try_iter().count(), 2, "once more and then no more");
    assert_eq!((probe.spans_exported.read(), probe.span_export_failures.read()), (0, 2));
    assert_eq!(probe.spans_dropped(SpanDrop::CollectorDown), 3);
}

#[test]
fn a_collector_that_is_not_there_costs_the_spans() {
    // Its port is taken by somebody who does not listen.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    let probe = export(&format!("http://{address}/v1/traces"), 3);
    assert_eq!(probe.spans_dropped(SpanDrop::CollectorDown), 3);
    assert_eq!(probe.span_export_failures.read(), 2);
}

#[test]
fn what_a_collector_does_not_want_is_not_sent_again() {
    let (url, got) = collector(&[BAD]);
    let probe = export(&url, 3);
    assert_eq!(got.try_iter().count(), 1);
    assert_eq!(probe.spans_dropped(SpanDrop::Rejected), 3);

    let (url, got) = collector(&[PARTIAL]);
    let probe = export(&url, 3);
    assert_eq!(got.try_iter().count(), 1);
    assert_eq!((probe.spans_exported.read(), probe.spans_dropped(SpanDrop::Rejected)), (1, 2));
}

#[test]
fn a_collector_without_an_answer_bounds_what_waits() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/traces", silent.local_addr().unwrap());
    let probe = Arc::<ControlProbe>::default();
    let export = SpanExport { collector: url, instance: "node-0".into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (queue, exporter) = Exporter::start(&export, Arc::clone(&probe));
        let snapshot = snapshot();
        for number in 1..=QUEUE_SPANS as u64 + 10 {
            queue.put(ShardId(0), a_span(number), &snapshot);
        }
        assert_eq!(probe.spans_dropped(SpanDrop::QueueFull), 10);
        drop(queue);
        let begun = Instant::now();
        exporter.finish(Duration::from_secs(60)).await;
        assert!(begun.elapsed() < POST_TIMEOUT, "the end of the process waits for no collector");
    });
}

#[test]
fn names_are_those_of_the_configuration_that_came_with_the_span() {
    let (url, got) = collector(&[OK]);
    let export = SpanExport { collector: url, instance: "node-0".into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let empty = Arc::new(Config::default().snapshot(1, 0));
        let (queue, Exporter(task)) = Exporter::start(&export, Arc::default());
        queue.put(ShardId(0), a_span(1), &empty);
        queue.put(ShardId(0), a_span(2), &snapshot());
        drop(queue);
        timeout(PATIENCE, task).await.unwrap().unwrap();
    });
    let (_, body) = got.try_recv().unwrap();
    let [unknown, known] = spans_of(&body) else { panic!("{body}") };
    assert_eq!(unknown["name"], ":", "nobody knows it, and nothing breaks");
    assert_eq!(known["name"], "demo:/demo/echo");
    assert_eq!(snapshot().endpoints[0].service, ServiceId(0));
}
