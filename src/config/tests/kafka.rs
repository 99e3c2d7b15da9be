//! Brokers, and what is passed on to librdkafka.

use super::*;

fn passed_on(text: &str) -> Result<Vec<(String, String)>, Refused> {
    load(text).map(|config| config.kafka.librdkafka.settings().to_vec())
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn settings_are_passed_on_however_their_names_are_written() {
    let expected =
        pairs(&[("linger.ms", "7"), ("sasl.username", "u"), ("security.protocol", "ssl")]);
    let bare =
        "[kafka.librdkafka]\nsecurity.protocol = \"ssl\"\nlinger.ms = 7\nsasl.username = \"u\"";
    assert_eq!(passed_on(bare).unwrap(), expected);
    let quoted = "[kafka]\nlibrdkafka = { \"linger.ms\" = 7, \"sasl.username\" = \"u\", \
                  \"security.protocol\" = \"ssl\" }";
    assert_eq!(passed_on(quoted).unwrap(), expected);
    let text = " security.protocol=ssl, linger.ms = 7,sasl.username=u";
    let variable = with_variable("CORELANE_KAFKA_LIBRDKAFKA", text).unwrap();
    assert_eq!(variable.kafka.librdkafka.settings(), expected);
}

#[test]
fn settings_that_the_gateway_makes_itself_are_refused_by_name() {
    for name in ["group.id", "enable.idempotence", "bootstrap.servers", "partitioner"] {
        let text = format!("[kafka.librdkafka]\n{name} = \"x\"");
        assert_refused(passed_on(&text).map(|_| Config::default()), &["kafka.librdkafka", name]);
    }
}

#[test]
fn what_librdkafka_does_not_know_is_refused_without_its_value() {
    for text in [
        "no.such.setting = \"hush\"",
        "security.protocol = \"hush\"",
        "linger.ms = [1]",
        "sasl.password = 1.5",
    ] {
        let lines = refusals(load(&format!("[kafka.librdkafka]\n{text}")));
        let name = text.split(' ').next().unwrap();
        assert!(lines.len() == 1 && lines[0].contains(name), "{lines:?}");
        assert!(!lines[0].contains("hush"), "{lines:?}");
    }
    let twice = with_variable("CORELANE_KAFKA_LIBRDKAFKA", "linger.ms=1,linger.ms=2");
    assert_refused(twice, &["`linger.ms` twice"]);
    assert_refused(with_variable("CORELANE_KAFKA_LIBRDKAFKA", "hush"), &["without \"=\""]);
}

#[test]
fn secrets_among_them_are_never_shown() {
    let text = "[kafka.librdkafka]\nsasl.password = \"hush\"\nssl.key.pem = \"\"\"\nhush\n\"\"\"\n";
    let config = load(text).unwrap();
    assert!(!format!("{config:?}").contains("hush"));
    let shown = config.shown.json();
    assert!(shown.contains("kafka.librdkafka") && !shown.contains("hush"), "{shown}");
    let wrong = format!("{text}group.id = \"hush\"\n");
    let report = format!("{:?}", miette::Report::new(load(&wrong).unwrap_err()));
    assert!(report.contains("group.id") && !report.contains("hush"), "{report}");
}

#[test]
fn brokers_are_hosts_with_ports_and_prefixes_what_topics_may_be_called() {
    let config = load("[kafka]\nbrokers = [\"a:1\", \"10.0.0.1:9092\"]\ntopic_prefix = \"eu.\"");
    assert_eq!(config.unwrap().kafka.brokers, ["a:1", "10.0.0.1:9092"]);
    for brokers in ["a", "a:0", "kafka://a:1", "a b:1"] {
        let text = format!("[kafka]\nbrokers = [{brokers:?}]");
        assert_refused(load(&text), &["kafka.brokers"]);
    }
    assert_refused(load("[kafka]\ntopic_prefix = \"eu/\""), &["kafka.topic_prefix"]);
}
