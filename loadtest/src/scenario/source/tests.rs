use super::*;
use crate::scenario::{Arrival, Bound, Metric, Ready, Tls, TlsSuite, TlsVersion, Traffic};

const GOOD: &str = r#"name = "x"

[target]
url = "ws://127.0.0.1:1/"
protocol = "corelane"

[traffic]
kind = "call"
endpoints = ["/a", "/b"]

[arrival]
mode = "poisson"
rate = 100

[thresholds]
p99_us = { at_most = 250 }
"#;

fn taken(text: &str, settings: &[&str]) -> Scenario {
    let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).collect();
    parse("x.toml", text, &settings, Path::new("")).unwrap()
}

/// The places, messages and helps of all mistakes in `text`.
fn refusals(text: &str) -> Vec<String> {
    match parse("x.toml", text, &[], Path::new("")) {
        Ok(scenario) => panic!("taken: {scenario:?}"),
        Err(Refused::Mistakes { mistakes }) => mistakes
            .iter()
            .map(|mistake| format!("{mistake} {}", mistake.help.as_deref().unwrap_or_default()))
            .collect(),
        Err(other) => panic!("{other}"),
    }
}

#[track_caller]
fn refused_with(from: &str, to: &str, place: &str, words: &str) {
    assert!(GOOD.contains(from), "{from}");
    let refusals = refusals(&GOOD.replace(from, to));
    let found =
        refusals.iter().any(|r| r.starts_with(&format!("x.toml:{place}: ")) && r.contains(words));
    assert!(found, "no mistake at {place} with {words:?} in {refusals:#?}");
}

#[test]
fn a_file_with_the_least_keys_gets_defaults() {
    let scenario = taken(GOOD, &[]);
    assert_eq!(scenario.arrival, Arrival::Poisson { rate: 100.0, window: None });
    assert_eq!((scenario.connections.count, scenario.payload_bytes), (64, 200));
    let threshold = &scenario.thresholds[0];
    assert_eq!((threshold.metric, threshold.bound), (Metric::P99Us, Bound::AtMost(250.0)));
}

#[test]
fn mistakes_are_named_with_their_place_and_the_nearest_name() {
    refused_with("rate = 100", "rrate = 100", "13:1", "did you mean `rate`?");
    refused_with("[arrival]", "[arival]", "11:2", "did you mean `arrival`?");
    refused_with("\"poisson\"", "\"poison\"", "12:8", "did you mean `poisson`?");
    refused_with("rate = 100", "rate = \"fast\"", "13:8", "invalid type");
    refused_with("rate = 100", "rate = 0", "13:8", "not a rate");
    refused_with("p99_us", "p99", "16:1", "did you mean `p99_us`?");
    refused_with("name = \"x\"", "name = ", "1:8", "");
}

#[test]
fn keys_that_mean_nothing_together_are_refused() {
    refused_with("rate = 100", "", "12:8", "`rate`");
    refused_with("rate = 100", "rate = 100\nin_flight = 3", "14:13", "no effect");
    refused_with("kind = \"call\"", "kind = \"hold\"", "9:13", "`endpoints` has no effect");
    refused_with("kind = \"call\"", "kind = \"call\"\nmembers = 2", "9:11", "no effect");
    refused_with("kind = \"call\"", "kind = \"call\"\ntimes = 2", "9:9", "no effect");
    refused_with("endpoints = [\"/a\", \"/b\"]", "payload_bytes = 3", "9:17", "48 to");
    refused_with("endpoints = [\"/a\", \"/b\"]", "", "8:8", "`endpoints`");
    refused_with("\"corelane\"", "\"nats\"", "8:8", "protocol nats");
    refused_with("{ at_most = 250 }", "{}", "16:10", "`at_most`");
}

#[test]
fn reconnects_are_repeated_by_a_plan_only() {
    let storm = GOOD
        .replace("kind = \"call\"", "kind = \"reconnect\"\ntimes = 5")
        .replace("endpoints = [\"/a\", \"/b\"]\n", "");
    let traffic = taken(&storm, &[]).traffic;
    assert_eq!(traffic, Traffic::Reconnect { ready: Ready::Upgraded, times: 5 });
    let once = storm.replace("times = 5", "");
    let traffic = taken(&once, &[]).traffic;
    assert_eq!(traffic, Traffic::Reconnect { ready: Ready::Upgraded, times: 1 });
    let closed =
        storm.replace("mode = \"poisson\"\nrate = 100", "mode = \"closed\"\nin_flight = 1");
    assert!(refusals(&closed)[0].contains("`times` has no effect with the mode closed"));
}

#[test]
fn tls_is_asked_for_by_keys_and_by_settings() {
    let secure = GOOD.replace("ws://", "wss://");
    assert_eq!(taken(&secure, &[]).tls, Tls::default());
    let text = secure.replace(
        "[arrival]",
        "[tls]\nca = \"a.pem\"\nversion = \"1.3\"\nsuite = \"TLS_AES_128_GCM_SHA256\"\n\n[arrival]",
    );
    let tls = parse("x.toml", &text, &[], Path::new("beside")).unwrap().tls;
    let expected = Tls {
        ca: Some("beside/a.pem".into()),
        version: Some(TlsVersion::V13),
        suite: Some(TlsSuite::Aes128Gcm),
        ..Tls::default()
    };
    assert_eq!(tls, expected);
    let tls = taken(&secure, &["tls.verify=false", "tls.resume=true", "tls.version=1.2"]).tls;
    let expected =
        Tls { verify: false, resume: true, version: Some(TlsVersion::V12), ..Tls::default() };
    assert_eq!(tls, expected);
    let tls = taken(&secure, &["tls.server_name=game.example", "tls.ca=/etc/x.pem"]).tls;
    assert_eq!(tls.server_name.as_deref(), Some("game.example"));
    assert_eq!(tls.ca.as_deref(), Some(Path::new("/etc/x.pem")));
}

#[test]
fn tls_keys_without_effect_are_refused() {
    refused_with("[arrival]", "[tls]\nresume = true\n[arrival]", "11:1", "begin with wss://");
    let secure = |table: &str| {
        refusals(
            &GOOD.replace("ws://", "wss://").replace("[arrival]", &format!("{table}[arrival]")),
        )
    };
    let [unread] = &secure("[tls]\nverify = false\nca = \"a\"\n")[..] else { panic!() };
    assert!(unread.contains("13:6") && unread.contains("every certificate is taken"), "{unread}");
    let suite = "[tls]\nversion = \"1.2\"\nsuite = \"TLS_AES_128_GCM_SHA256\"\n";
    let [other] = &secure(suite)[..] else { panic!() };
    assert!(other.contains("13:9") && other.contains("those of 1.3"), "{other}");
    let [old] = &secure("[tls]\nversion = \"1.1\"\n")[..] else { panic!() };
    assert!(old.contains("12:11") && old.contains("not a version of TLS"), "{old}");
    let [unknown] = &secure("[tls]\nverifiy = false\n")[..] else { panic!() };
    assert!(unknown.contains("did you mean `verify`?"), "{unknown}");
}

#[test]
fn every_mistake_is_found_in_one_look() {
    let text = GOOD.replace("rate = 100", "in_flight = 3").replace("{ at_most = 250 }", "{}");
    assert_eq!(refusals(&text).len(), 3, "{:?}", refusals(&text));
}

#[test]
fn settings_replace_values_and_a_new_mode_starts_with_no_keys() {
    let scenario = taken(GOOD, &["connections.count=7", "target.url=ws://h:2/x"]);
    assert_eq!((scenario.connections.count, &scenario.target.url[..]), (7, "ws://h:2/x"));
    let scenario = taken(GOOD, &["arrival.mode=closed", "arrival.in_flight=16"]);
    assert_eq!(scenario.arrival, Arrival::Closed { in_flight: 16 });
    let wrong = load("echo", &["connections".to_owned()]).unwrap_err();
    assert!(wrong.to_string().contains("KEY=VALUE"), "{wrong}");
}

#[test]
fn a_pattern_names_many_endpoints() {
    let text = GOOD.replace(
        "endpoints = [\"/a\", \"/b\"]",
        "endpoint_pattern = \"/e-{}\"\nendpoint_count = 3",
    );
    let Traffic::Call { endpoints, .. } = taken(&text, &[]).traffic else { panic!() };
    assert_eq!(endpoints, ["/e-0", "/e-1", "/e-2"]);
}

#[test]
fn replayed_offsets_come_from_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("good.txt"), "# ns\n0\n1500\n1500\n").unwrap();
    fs::write(folder.join("bad.txt"), "5\n4\n").unwrap();
    let text =
        |file| GOOD.replace("\"poisson\"\nrate = 100", &format!("\"replay\"\nfile = \"{file}\""));
    let scenario = parse("x.toml", &text("good.txt"), &[], folder).unwrap();
    let Arrival::Replay { offsets, .. } = scenario.arrival else { panic!() };
    assert_eq!(offsets, [0, 1500, 1500]);
    for (file, words) in [("bad.txt", "bad.txt:2"), ("none.txt", "none.txt")] {
        let refused = parse("x.toml", &text(file), &[], folder).unwrap_err();
        assert!(format!("{refused:?}").contains(words), "{refused:?}");
    }
}

#[test]
fn an_unknown_scenario_is_told_its_nearest_neighbour() {
    let refused = load("call-lnk", &[]).unwrap_err();
    let Refused::NotFound { help, .. } = refused else { panic!() };
    assert_eq!(help, "there is a built-in scenario call-link");
}
