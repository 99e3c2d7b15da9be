//! More clients than there is room for: each is told so, and one who leaves makes room.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;

use gateway_process::client::{Client, upgrade_request};
use gateway_process::http::Answer;
use gateway_process::token::Claims;
use gateway_process::{Gateway, Launch, SOON};
use uuid::Uuid;

/// The fewest that a configuration may allow.
const CONNECTIONS_MAX: usize = 64;

#[test]
fn clients_beyond_the_shards_bound_are_answered_503_and_let_in_when_there_is_room() {
    let config = format!("[shards]\ncount = 1\nconnections_max = {CONNECTIONS_MAX}\n");
    let gateway = Launch::new(config).start();
    let mut inside: Vec<Client> = (0..CONNECTIONS_MAX).map(|_| enter(&gateway)).collect();

    // All at once, so that they stand in the spare slots side by side.
    let crowd: Vec<Client> = (0..2 * CONNECTIONS_MAX).map(|_| knock(&gateway)).collect();
    for client in crowd {
        assert_full(client);
    }
    let metrics = gateway.metrics();
    let refused = metrics.sum_of("corelane_upgrades_total", "outcome=\"full\"");
    assert_eq!(refused, 2.0 * CONNECTIONS_MAX as f64, "{metrics}");
    assert_eq!(metrics.sum("corelane_sessions"), CONNECTIONS_MAX as f64, "{metrics}");

    drop(inside.pop());
    gateway.wait_for_metrics("one has left", SOON, |metrics| {
        metrics.sum("corelane_connections") < CONNECTIONS_MAX as f64
    });
    inside.push(enter(&gateway));
    assert_full(knock(&gateway));
    drop(inside);
    gateway.stop();
}

#[test]
fn the_bound_of_all_shards_holds_for_newcomers_but_not_for_a_session_that_comes_again() {
    const SESSIONS_MAX: usize = 10;
    let config = format!(
        "[shards]\ncount = 2\n[session]\nmax_concurrent_connections = {SESSIONS_MAX}\n\
         inactive_connection_timeout_minutes = 30\n"
    );
    let gateway = Launch::new(config).start();
    let known = Claims::default().session(Uuid::new_v4());
    let mut first = Client::session(gateway.public(), &known.sign(), SOON);
    let others: Vec<Client> = (1..SESSIONS_MAX).map(|_| enter(&gateway)).collect();

    assert_full(knock(&gateway));
    let again = Client::session(gateway.public(), &known.sign(), SOON);
    let code = first.find("the close frame", SOON, |frame| frame.close_code());
    assert_eq!(code, 4002, "the older connection of the session is replaced");
    assert_full(knock(&gateway));
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum_of("corelane_claims_total", "outcome=\"full\""), 2.0, "{metrics}");
    assert_eq!(metrics.sum("corelane_directory_sessions"), SESSIONS_MAX as f64, "{metrics}");

    drop(again);
    gateway.wait_for_metrics("one has left", SOON, |metrics| {
        metrics.sum("corelane_directory_sessions") < SESSIONS_MAX as f64
    });
    drop((enter(&gateway), first, others));
    gateway.stop();
}

fn knock(gateway: &Gateway) -> Client {
    let mut client = Client::connect(gateway.public());
    client.send(upgrade_request(&gateway.token()).as_bytes());
    client
}

fn enter(gateway: &Gateway) -> Client {
    Client::session(gateway.public(), &gateway.token(), SOON)
}

/// 503, when to come again, and a body for people, whole.
fn assert_full(client: Client) {
    let answer = Answer::parse(&client.until_end(SOON)).expect("an answer comes");
    assert_eq!(answer.status, 503, "{answer:?}");
    let seconds: u32 = answer
        .header("retry-after")
        .and_then(|after| after.parse().ok())
        .unwrap_or_else(|| panic!("no Retry-After: {answer:?}"));
    assert!((1..=60).contains(&seconds), "{answer:?}");
    let length = answer.header("content-length").and_then(|length| length.parse().ok());
    assert_eq!(length, Some(answer.body.len()), "{answer:?}");
    assert!(!answer.body.is_empty(), "{answer:?}");
}
