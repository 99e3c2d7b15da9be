//! The harness itself: a gateway starts, answers, reloads its place in the world and ends.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;

use gateway_process::Launch;
use gateway_process::http;

#[test]
fn a_gateway_starts_answers_and_ends_with_0_and_so_after_a_restart() {
    let gateway = Launch::new("[shards]\ncount = 1\n").start();
    let health = http::request(gateway.public(), "GET", "/health").expect("/health answers");
    assert_eq!(health.status, 200, "{}", health.body);
    assert!(gateway.metrics().sum("corelane_upgrades_total") >= 1.0);
    let again = gateway.restart();
    assert!(again.metrics().sum("corelane_turns_total") > 0.0);
    again.stop();
}

#[test]
fn a_configuration_with_a_mistake_ends_with_64_and_names_it() {
    let ended = Launch::new("[shards]\ncuont = 1\n").run_to_end();
    assert_eq!(ended.status.code(), Some(64), "{}", ended.stderr);
    assert!(ended.stderr.contains("cuont") && ended.stderr.contains("count"), "{}", ended.stderr);
}
