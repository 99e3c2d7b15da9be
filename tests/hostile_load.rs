//! Clients that hold half a frame, clients that flood, and all the bad ones of the load harness, while a
//! good one goes about its work.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;

use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use corelane_loadtest::hostile::{self, Persona, Plan};

use gateway_process::client::{BINARY, Client, masked, request, upgrade_request};
use gateway_process::memory::{pss_bytes, raise_open_files};
use gateway_process::{Gateway, Launch, SOON, backend};

const HALF_FRAMES: usize = 5_000;
const FLOODERS: usize = 200;

/// Messages that a session may send in a window, of which the test sees only one.
const MESSAGES_PER_WINDOW: usize = 200;

/// Messages to nowhere are weighed four times as lightly; twice the number of a window may be
/// refused before the patience ends.
const FLOOD: usize = (4 + 2) * MESSAGES_PER_WINDOW + 50;

/// Calls of the good client while the flood lasts: enough to say something, and within its rate.
const CALLS_MIN: usize = 10;
const CALLS_MAX: u64 = MESSAGES_PER_WINDOW as u64 - 10;

/// For one answer, on a machine that the tests share.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Clients that come together.
const WAVE: usize = 250;

/// A block for each half frame, what a session costs, and room for everything pooled.
const MEMORY_BOUND: u64 = 48 << 20;

/// What the bad ones of the load harness may make the gateway take.
const BAD_MEMORY_BOUND: u64 = 32 << 20;

/// Default of `shards.block_pool_bytes`.
const BLOCK_POOL: f64 = (64 << 20) as f64;

const RATE_LIMITED: u8 = 12;
const RATE_ABUSE: u16 = 4003;

#[test]
fn a_good_client_is_answered_amid_half_frames_and_floods() {
    raise_open_files();
    let gateway = Launch::new(config()).start();
    let before = pss_bytes(gateway.pid());

    let halves = half_frames(&gateway);
    let metrics = gateway.wait_for_metrics("every half frame is held", SOON, |metrics| {
        metrics.sum("corelane_blocks_in_use_bytes") >= (HALF_FRAMES * 2048) as f64
    });
    assert_eq!(metrics.sum("corelane_receive_buffers_out"), 0.0, "none keeps one\n{metrics}");

    let mut good = Client::session(gateway.public(), &gateway.token(), SOON);
    let echo = good.guid_of("/demo/echo", SOON);
    let flooders = sessions(&gateway, FLOODERS);
    let flood = thread::spawn(move || flood(flooders));
    gateway.wait_for_metrics("the flood has begun", SOON, |metrics| {
        metrics.sum("corelane_messages_received_total") > 0.0
    });
    let calls = (0..CALLS_MAX).take_while(|_| !flood.is_finished());
    let times: Vec<Duration> = calls.map(|id| call(&mut good, echo, id)).collect();
    let ended = flood.join().expect("the flood does not panic");
    assert!(times.len() >= CALLS_MIN, "{} calls were made amid the flood", times.len());
    println!(
        "{}; memory (PSS) grown by {} bytes",
        report(&times),
        pss_bytes(gateway.pid()) - before
    );
    assert_eq!(ended, [RATE_ABUSE; FLOODERS], "how the flooders ended");

    let metrics = gateway.metrics();
    let held = metrics.sum_of("corelane_responses_total", &format!("code=\"{RATE_LIMITED}\""));
    assert!(held == (2 * FLOODERS * MESSAGES_PER_WINDOW) as f64, "{metrics}");
    assert!(metrics.sum("corelane_blocks_in_use_bytes") <= BLOCK_POOL, "{metrics}");
    let grown = pss_bytes(gateway.pid()) - before;
    assert!(grown <= MEMORY_BOUND, "{grown} bytes more than at the start");
    call(&mut good, echo, CALLS_MAX);

    halves.into_iter().for_each(Client::reset);
    good.finish();
    gateway.wait_until_empty();
    gateway.stop();
}

/// Bad clients of each persona.
const EACH: usize = 8;

/// What the bad ones may send in a second, all together.
const BAD_PER_SECOND: f64 = 10_000.0;

/// Between two calls of the good client beside them, so that it keeps within its rate.
const CALL_EVERY: Duration = Duration::from_millis(25);

#[test]
fn bad_clients_of_every_kind_are_ended_as_documented_and_a_good_one_is_answered() {
    let gateway = Launch::new(config())
        .set("session.connection_mode", "Relayed")
        .set("limits.messages_per_window", "1000")
        .set("limits.head_timeout", "2s")
        .start();
    let mut good = Client::session(gateway.public(), &gateway.token(), SOON);
    let echo = good.guid_of("/demo/echo", SOON);
    let before = pss_bytes(gateway.pid());
    let plan = Plan {
        url: format!("ws://{}/connect", gateway.public()),
        tokens: (0..EACH * Persona::ALL.len()).map(|_| gateway.token()).collect(),
        each: NonZeroUsize::new(EACH).expect("there are some"),
        per_second: BAD_PER_SECOND,
        duration: Duration::from_secs(5),
    };
    let bad = thread::spawn(move || hostile::run(&plan));
    let (mut times, mut most) = (Vec::new(), before);
    while !bad.is_finished() {
        times.push(call(&mut good, echo, times.len() as u64));
        most = most.max(pss_bytes(gateway.pid()));
        thread::sleep(CALL_EVERY);
    }
    let tally = bad.join().expect("they do not panic").expect("the gateway lets them come");
    println!("{tally}{}; memory (PSS) grown by {}", report(&times), most - before);
    assert!(tally.faults().is_empty(), "{:#?}\n{tally}", tally.faults());
    for persona in Persona::ALL {
        let opened = tally.of(persona).opened;
        assert!(opened >= EACH as u64, "{opened} of {}", persona.label());
    }
    let grown = most - before;
    assert!(grown <= BAD_MEMORY_BOUND, "{grown} bytes more than before they came");
    good.finish();
    gateway.wait_until_empty();
    gateway.stop();
}

fn config() -> String {
    let backend = backend::echo();
    format!(
        "[shards]\ncount = 1\n[limits]\nmessages_per_window = {MESSAGES_PER_WINDOW}\n\
         rate_limit_window_minutes = 10\n\
         [[service]]\nname = \"demo\"\naddresses = [\"http://{backend}\"]\npool_idle = \"100ms\"\n\
         [[service.endpoints]]\npath = \"/demo/echo\"\n\
         [[role]]\nname = \"user\"\nendpoints = [\"demo:*\"]\n"
    )
}

fn sessions(gateway: &Gateway, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::with_capacity(count);
    while clients.len() < count {
        let from = clients.len();
        for _ in 0..WAVE.min(count - from) {
            let mut client = Client::connect(gateway.public());
            client.send(upgrade_request(&gateway.token()).as_bytes());
            clients.push(client);
        }
        clients[from..].iter_mut().for_each(|client| client.accepted(SOON));
    }
    clients
}

fn half_frames(gateway: &Gateway) -> Vec<Client> {
    let mut clients = sessions(gateway, HALF_FRAMES);
    let frame = masked(BINARY, &[7; 100]);
    clients.iter_mut().for_each(|client| client.send(&frame[..frame.len() / 2]));
    clients
}

/// Sends from all clients as fast as they can, and returns the close code of each.
fn flood(mut clients: Vec<Client>) -> Vec<u16> {
    const CHUNK: usize = 10;
    // No endpoint has this GUID.
    let message = masked(BINARY, &request([0xAB; 16], 1, &[0; 1024]));
    let chunk = message.repeat(CHUNK);
    for _ in 0..FLOOD / CHUNK {
        clients.iter_mut().for_each(|client| client.send(&chunk));
    }
    let ended = clients.iter_mut().map(|client| {
        let mut refused = 0;
        let code = client.find("the close frame", SOON, |frame| {
            refused += usize::from(frame.answer().is_some_and(|(_, code)| code == RATE_LIMITED));
            frame.close_code()
        });
        assert!(refused == 2 * MESSAGES_PER_WINDOW, "refused {refused} times before the close");
        code
    });
    ended.collect()
}

fn call(client: &mut Client, guid: [u8; 16], id: u64) -> Duration {
    let payload = format!("{{\"call\":{id}}}");
    let asked = Instant::now();
    client.send(&masked(BINARY, &request(guid, id, payload.as_bytes())));
    client.find("the answer", ANSWER_WITHIN, |frame| {
        let (_, code) = frame.answer().filter(|(answered, _)| *answered == id)?;
        assert_eq!(code, 0, "call {id}");
        assert_eq!(&frame.payload[16..], payload.as_bytes());
        Some(())
    });
    asked.elapsed()
}

fn report(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let (median, slowest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    format!("{} calls amid them: median {median:?}, slowest {slowest:?}", times.len())
}
