#![allow(
    clippy::all,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason
)]
use corelane_loadtest::{outcome::*, run::*, scenario::*};
struct W;
impl Watcher for W {
    fn opening(&mut self, ready: u64, wanted: u64) {
        if ready % 100 == 0 || ready == wanted {
            eprintln!("opening {ready}/{wanted}")
        }
    }
    fn interval(&mut self, i: &Interval) {
        eprintln!(
            "{:6.2}s {} sent {} recv {} err {} ready {} p99 {:.1} lagmax {}us",
            i.from_seconds,
            i.measured,
            i.sent,
            i.received,
            i.errors,
            i.ready,
            i.from_intended.quantile_us(0.99),
            i.lag_max_ns / 1000
        );
    }
}
fn main() {
    let mut args = std::env::args().skip(1);
    let scenario: Scenario =
        serde_json::from_str(&std::fs::read_to_string(args.next().unwrap()).unwrap()).unwrap();
    let tokens = std::env::var("TOKENS")
        .ok()
        .map(|f| std::fs::read_to_string(f).unwrap().lines().map(str::to_owned).collect())
        .unwrap_or_default();
    let server = std::env::var("SERVER").ok().map(|p| ServerAt::Pid(p.parse().unwrap()));
    let o = match run(&scenario, &Surroundings { tokens, server }, &mut W) {
        Ok(o) => o,
        Err(e) => {
            println!("ERROR {e}");
            std::process::exit(1)
        }
    };
    println!("connections {:?}\nmessages {:?}\nerrors {:?}", o.connections, o.messages, o.errors);
    println!("rate {:.0}/s", o.messages.measured as f64 / o.measured_seconds);
    for (n, s) in [
        ("intended", &o.latency.from_intended),
        ("send", &o.latency.from_send),
        ("lag", &o.latency.send_lag),
        ("connect", &o.latency.connect),
        ("upgrade", &o.latency.upgrade),
        ("first", &o.latency.first_message),
    ] {
        println!(
            "{n:9} n {} p50 {:.1} p99 {:.1} p999 {:.1} max {:.1}",
            s.0.len(),
            s.quantile_us(0.5),
            s.quantile_us(0.99),
            s.quantile_us(0.999),
            s.0.max() as f64 / 1e3
        );
    }
    for g in &o.generators {
        println!("gen {:?}", g);
    }
    if let Some(s) = &o.server {
        println!("server {:?} share {:.2}", s, s.cpu_us / 1e6 / o.measured_seconds);
    }
    println!("notes {:?}", o.judgement.notes);
}
