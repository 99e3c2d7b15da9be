//! Traced calls: what backends are told, and what a collector gets.

use std::collections::HashMap;

use rustix::process::Signal;
use serde_json::Value;
use tungstenite::client::IntoClientRequest;

use crate::gateway_process::token::Claims;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::frames::{EVENT, META, Request};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{Answer, Asked, HttpBackend};
use crate::harness::link_backend::{DATA, LinkBackend, OPEN};
use crate::harness::raw::dial;

const ALL: &str = "[tracing]\nsample = 1\n";

/// Trace and span of a `traceparent` that says that it is sampled.
fn sampled(text: &str) -> (String, String) {
    let fields: Vec<_> = text.split('-').collect();
    let [version, trace, span, flags] = fields[..] else { panic!("{text:?} has four fields") };
    assert_eq!((version, flags), ("00", "01"), "{text:?}");
    for (field, len) in [(trace, 32), (span, 16)] {
        let legal = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        assert!(field.len() == len && field.chars().all(legal), "{text:?}");
        assert!(field.chars().any(|c| c != '0'), "{text:?}");
    }
    (trace.to_owned(), span.to_owned())
}

/// What an HTTP backend was told, if anything.
fn told(asked: &Asked) -> Option<(String, String)> {
    asked.fields.get("traceparent").map(|text| sampled(text))
}

/// A collector of spans on loopback.
struct Collector(HttpBackend);

impl Collector {
    fn start() -> Self {
        Self(HttpBackend::start(|_| Answer::ok("{}")))
    }

    /// TOML that sends it the spans of this share of the calls.
    fn tracing(&self, sample: &str) -> String {
        format!("[tracing]\nsample = {sample}\notlp_endpoint = {:?}\n", self.0.url)
    }

    /// Waits until so many spans are there: by trace and span id.
    fn spans(&self, count: usize) -> HashMap<(String, String), Value> {
        let mut spans = HashMap::new();
        while spans.len() < count {
            let asked = self.0.asked();
            assert_eq!((&*asked.method, &*asked.path), ("POST", "/v1/traces"));
            assert_eq!(asked.fields["content-type"], "application/json");
            let body: Value = serde_json::from_slice(&asked.body).expect("OTLP is JSON here");
            let batch = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
            for span in batch.as_array().expect("there are spans") {
                let id = |key: &str| span[key].as_str().expect("ids are text").to_owned();
                let before = spans.insert((id("traceId"), id("spanId")), span.clone());
                assert_eq!(before, None, "sent twice");
            }
        }
        assert_eq!(spans.len(), count, "{spans:?}");
        spans
    }
}

fn attribute<'a>(span: &'a Value, name: &str) -> Option<&'a str> {
    let attributes = span["attributes"].as_array()?;
    let found = attributes.iter().find(|attribute| attribute["key"] == name)?;
    found["value"]["stringValue"].as_str().or_else(|| found["value"]["intValue"].as_str())
}

/// A session whose upgrade brings these fields.
fn client_with(gateway: &Gateway, fields: &[(&'static str, &str)]) -> Client {
    let url = format!("ws://{}/connect", gateway.public());
    let mut request = url.into_client_request().expect("an address makes a URL");
    let bearer = format!("Bearer {}", Claims::default().sign());
    for (name, value) in [("Authorization", &*bearer)].iter().chain(fields) {
        request.headers_mut().append(*name, value.parse().expect("fields are ASCII"));
    }
    let stream = dial(gateway.public());
    let (socket, _) = tungstenite::client::client(request, stream).expect("it is let in");
    let mut client = Client::over(socket);
    client.manifest = client.event();
    client
}

fn echo_of(client: &Client) -> Request {
    Request::to(client.service("/demo/echo"))
}

/// Ends it as systemd does, and waits until it has.
fn stop(mut gateway: Gateway) {
    gateway.signal(Signal::TERM);
    assert!(gateway.wait_for_end(PATIENCE).success());
}

#[test]
fn the_collector_gets_the_spans_that_http_backends_are_told_of() {
    let backend = HttpBackend::start(|asked| match &asked.body[..] {
        b"\"conflict\"" => Answer::status(409, ""),
        _ => Answer::ok("{}"),
    });
    let collector = Collector::start();
    let config = backend.service("/demo/echo", "") + &collector.tracing("1");
    let gateway = Setup::new(config).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    assert_eq!(client.call(&echo).code, 0);
    let good = told(&backend.asked()).expect("every call is traced");
    assert_eq!(client.call(&echo.clone().payload("\"conflict\"")).code, 53);
    let bad = told(&backend.asked()).expect("every call is traced");
    assert_eq!(client.call(&echo.clone().flags(META).channel(1)).code, 0);
    let meta = told(&backend.asked()).expect("meta requests are calls");
    client.send(&echo.clone().flags(EVENT));
    let event = told(&backend.asked()).expect("event requests are calls");
    let traces: HashMap<_, _> = [&good, &bad, &meta, &event].into_iter().cloned().collect();
    assert_eq!(traces.len(), 4, "each call is a trace of its own");

    let spans = collector.spans(4);
    let (good, bad) = (&spans[&good], &spans[&bad]);
    for span in [good, bad] {
        assert_eq!(span["name"], "demo:/demo/echo");
        assert_eq!(span["kind"], 3);
        assert_eq!(span["parentSpanId"], Value::Null);
        assert_eq!(attribute(span, "corelane.service"), Some("demo"));
        assert_eq!(attribute(span, "corelane.endpoint"), Some("/demo/echo"));
        assert_eq!(attribute(span, "corelane.shard"), Some("0"));
        let time = |key: &str| -> u64 {
            span[key].as_str().and_then(|text| text.parse().ok()).expect("times are text")
        };
        let (began, ended) = (time("startTimeUnixNano"), time("endTimeUnixNano"));
        let now = std::time::UNIX_EPOCH.elapsed().expect("1970 is over").as_nanos() as u64;
        assert!(began <= ended, "{span}");
        assert!(now - began < PATIENCE.as_nanos() as u64, "{span}");
    }
    assert_eq!(attribute(good, "corelane.response_code"), Some("0"));
    assert_eq!(good["status"]["code"], Value::Null);
    assert_eq!(attribute(bad, "corelane.response_code"), Some("53"));
    assert_eq!(bad["status"]["code"], 2);
    assert_eq!(spans[&meta]["name"], "demo:/demo/echo/meta/request-schema");
    assert_eq!(attribute(&spans[&event], "corelane.response_code"), Some("0"));
    gateway.await_metric("corelane_spans_exported_total", "", 4);
    assert_eq!(gateway.metric("corelane_calls_traced_total", ""), 4);
    assert_eq!(gateway.metric("corelane_spans_recorded_total", ""), 4);
    assert_eq!(gateway.metric("corelane_spans_dropped_total", ""), 0);
}

#[test]
fn the_collector_gets_the_spans_that_links_carry() {
    let backend = LinkBackend::listen();
    let collector = Collector::start();
    let config = backend.service("/demo/echo", "") + &collector.tracing("1");
    let gateway = Setup::new(config).start();
    let mut link = backend.link();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo")).payload("\"x\"");
    client.send(&echo);
    let open = link.expect(OPEN).json();
    let (call, request) = link.call();
    let told = call.traceparent().expect("every call is traced");
    assert_eq!(open["traceparent"], told, "it is this call that opens the session");
    assert_eq!(request, echo, "the frame stands behind the context");
    link.answer(&call, &request.answer(0, "\"y\""));
    assert_eq!(client.reply(), echo.answer(0, "\"y\""));

    client.send(&echo.clone().flags(EVENT));
    let event = link.expect(DATA);
    assert_eq!(event.tag, 0);
    let told_event = event.traceparent().expect("event requests are calls");

    // Nobody is there for the answer to this one.
    client.send(&echo);
    let (unanswered, _) = link.call();
    client.leave();

    let spans = collector.spans(3);
    let span = &spans[&sampled(&told)];
    assert_eq!(span["name"], "demo:/demo/echo");
    assert_eq!(attribute(span, "corelane.response_code"), Some("0"));
    assert!(spans.contains_key(&sampled(&told_event)));
    let span = &spans[&sampled(&unanswered.traceparent().expect("every call is traced"))];
    assert_eq!(attribute(span, "corelane.response_code"), None, "there was none: {span}");
    assert_eq!(span["status"]["code"], 2);
}

#[test]
fn calls_that_never_reach_a_backend_have_spans_too() {
    let backend = LinkBackend::listen();
    let collector = Collector::start();
    let config = backend.service("/demo/echo", "") + &collector.tracing("1");
    let gateway = Setup::new(config).start();
    let mut link = backend.link();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    client.send(&echo);
    link.expect(OPEN);
    let (call, _) = link.call();
    link.cut();
    assert_eq!(client.reply().code, 60);
    // There is no link at the moment, or the next one does not say hello.
    assert_eq!(client.call(&echo).code, 60);
    let spans = collector.spans(2);
    assert!(spans.contains_key(&sampled(&call.traceparent().expect("every call is traced"))));
    for span in spans.values() {
        assert_eq!(attribute(span, "corelane.response_code"), Some("60"));
        assert_eq!(span["status"]["message"], "Service_InternalServerError");
    }
}

#[test]
fn what_is_not_sampled_is_neither_told_nor_sent() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let (links, collector) = (LinkBackend::listen(), Collector::start());
    let brought = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let other = format!(
        "[[service]]\nname = \"other\"\naddresses = [{:?}]\nendpoints = [{{ path = \"/other\" }}]\n\
         [[role]]\nname = \"other\"\nendpoints = [\"other:*\"]\n",
        links.url
    );
    let tracing = collector.tracing("0") + "accept_from_clients = true\n";
    let roles = serde_json::json!(["user", "other"]);
    let gateway = Setup::new(backend.service("/demo/echo", "") + &other + &tracing).start();
    let mut link = links.link();
    let mut client = client_with(&gateway, &[("traceparent", brought)]);
    assert_eq!(client.call(&Request::to(client.service("/demo/echo"))).code, 0);
    let asked = backend.asked();
    assert_eq!(told(&asked), None);
    assert!(!asked.head.to_ascii_lowercase().contains("correlation"), "{}", asked.head);

    let mut client = gateway.client_of(&Claims::default().with("roles", roles));
    client.send(&Request::to(client.service("/other")));
    let open = link.expect(OPEN).json();
    assert_eq!(open.get("traceparent"), None);
    let (call, request) = link.call();
    assert_eq!(call.trace, None);
    link.answer(&call, &request.answer(0, "{}"));
    assert_eq!(client.reply().code, 0);
    for name in ["calls_traced", "spans_recorded", "spans_exported", "spans_dropped"] {
        assert_eq!(gateway.metric(&format!("corelane_{name}_total"), ""), 0, "{name}");
    }
    stop(gateway);
    assert!(collector.0.was_not_asked());
}

#[test]
fn without_a_collector_contexts_go_out_all_the_same() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let gateway = Setup::new(backend.service("/demo/echo", "") + ALL).start();
    let mut client = gateway.client();
    assert_eq!(client.call(&Request::to(client.service("/demo/echo"))).code, 0);
    assert!(told(&backend.asked()).is_some());
    assert_eq!(gateway.metric("corelane_calls_traced_total", ""), 1);
    assert_eq!(gateway.metric("corelane_spans_recorded_total", ""), 0);
}

#[test]
fn a_trusted_client_has_its_calls_in_its_own_trace() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let collector = Collector::start();
    // So few that none is sampled for its own sake.
    let tracing = collector.tracing("0.000001") + "accept_from_clients = true\n";
    let mut gateway = Setup::new(backend.service("/demo/echo", "") + &tracing).start();
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let brought = format!("00-{trace}-{parent}-01");
    let mut client = client_with(&gateway, &[("traceparent", &brought)]);
    let echo = Request::to(client.service("/demo/echo"));
    let mut seen = Vec::new();
    for _ in 0..2 {
        assert_eq!(client.call(&echo).code, 0);
        let (joined, span) = told(&backend.asked()).expect("the client's calls are traced");
        assert_eq!(joined, trace);
        assert_ne!(span, parent);
        seen.push((joined, span));
    }
    let spans = collector.spans(2);
    for call in &seen {
        assert_eq!(spans[call]["parentSpanId"], parent);
    }

    let unsampled = brought.replace("-01", "-00");
    let other = "00-11112f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for fields in [
        &[][..],
        &[("traceparent", &*unsampled)],
        &[("traceparent", "00-1-2-01")],
        &[("traceparent", &*brought), ("traceparent", other)],
    ] {
        let mut client = client_with(&gateway, fields);
        assert_eq!(client.call(&echo_of(&client)).code, 0);
        assert_eq!(told(&backend.asked()), None, "{fields:?}");
    }

    // Trust that is taken back counts for those who are here.
    let tracing = tracing.replace("true", "false");
    gateway.reload(backend.service("/demo/echo", "") + &tracing);
    gateway.await_metric("corelane_reloads_total", "", 1);
    gateway.wait_until("the reload reaches the shard", PATIENCE, || {
        assert_eq!(client.call(&echo).code, 0);
        told(&backend.asked()).is_none()
    });
    let mut late = client_with(&gateway, &[("traceparent", &brought)]);
    assert_eq!(late.call(&echo_of(&late)).code, 0);
    assert_eq!(told(&backend.asked()), None);
}

#[test]
fn a_correlation_id_is_the_trace_id_or_a_fresh_number() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    for (sample, traced) in [("0", false), ("1", true)] {
        let tracing = format!("[tracing]\nsample = {sample}\ncorrelation_id = true\n");
        let gateway = Setup::new(backend.service("/demo/echo", "") + &tracing).start();
        let mut client = gateway.client();
        let mut ids = Vec::new();
        for _ in 0..2 {
            assert_eq!(client.call(&echo_of(&client)).code, 0);
            let asked = backend.asked();
            let id = asked.fields["x-correlation-id"].clone();
            assert!(id.len() == 32 && u128::from_str_radix(&id, 16).is_ok(), "{id:?}");
            assert_eq!(told(&asked).map(|(trace, _)| trace), traced.then(|| id.clone()));
            ids.push(id);
        }
        assert_ne!(ids[0], ids[1]);
    }
}

#[test]
fn a_collector_that_is_down_costs_spans_and_one_line() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let place = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = place.local_addr().expect("it is bound");
    drop(place);
    let tracing = format!("{ALL}otlp_endpoint = \"http://{address}\"\n");
    let gateway = Setup::new(backend.service("/demo/echo", "") + &tracing).start();
    let mut client = gateway.client();
    let down = "reason=\"collector_down\"";
    for calls in 1..=2 {
        assert_eq!(client.call(&echo_of(&client)).code, 0);
        gateway.await_metric("corelane_spans_dropped_total", down, calls);
    }
    assert_eq!(gateway.metric("corelane_span_export_failures_total", ""), 4, "each tried twice");
    let lines = |text: &str| gateway.log().text().matches(text).count();
    assert_eq!(lines("spans are dropped"), 1);

    let _collector = HttpBackend::start_at(address, |_| Answer::ok("{}"));
    assert_eq!(client.call(&echo_of(&client)).code, 0);
    gateway.await_metric("corelane_spans_exported_total", "", 1);
    gateway.await_log("the collector takes spans");
    assert_eq!(lines("spans are dropped"), 1);
}

#[test]
fn the_last_spans_leave_before_the_process_does() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let collector = Collector::start();
    let config = backend.service("/demo/echo", "") + &collector.tracing("1");
    let gateway = Setup::new(config).start();
    let mut client = gateway.client();
    assert_eq!(client.call(&echo_of(&client)).code, 0);
    let told = told(&backend.asked()).expect("every call is traced");
    // So that the drain is over before a batch would have gone by itself.
    client.leave();
    stop(gateway);
    assert!(collector.spans(1).contains_key(&told));
}
