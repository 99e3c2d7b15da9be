//! The services that tests break, unbroken: they start, answer, stand still, end, keep what they are
//! to keep, and leave nothing behind. So do the instances of `scripts/dev-up`.

#[expect(dead_code, reason = "each test takes the part of the services that it needs")]
mod services;

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use services::process::is_gone_within;
use services::{Kafka, Redis};

const SOON: Duration = Duration::from_secs(60);

/// Long enough for an answer that will not come to have come.
const A_WHILE: Duration = Duration::from_millis(300);

/// Before a client is told again what it may have forgotten.
const A_MOMENT: Duration = Duration::from_secs(2);

#[test]
fn a_redis_answers_and_nothing_of_it_is_left() {
    let mut redis = Redis::start();
    assert_eq!(redis.cli(&["ping"]), "PONG");
    assert_eq!(redis.cli(&["set", "key", "a value"]), "OK");
    assert_eq!(redis.cli(&["get", "key"]), "a value");
    assert!(redis.try_cli(&["no-such-command"]).is_err());
    let (pid, folder) = (redis.pid(), redis.folder().to_owned());
    drop(redis);
    assert!(is_gone_within(pid, SOON));
    assert!(!folder.exists());
}

#[test]
fn a_redis_with_persistence_keeps_over_a_kill_what_it_has_answered() {
    let mut redis = Redis::setup().persistent().start();
    let (pid, address) = (redis.pid(), redis.address());
    redis.cli(&["set", "key", "kept"]);
    redis.kill();
    assert!(is_gone_within(pid, SOON));
    redis.restart();
    assert_eq!((redis.cli(&["get", "key"]).as_str(), redis.address()), ("kept", address));
    assert_ne!(redis.pid(), pid);
}

#[test]
fn a_redis_without_persistence_forgets_and_is_seen_to_be_another() {
    let mut redis = Redis::start();
    let run_id = |redis: &Redis| {
        let info = redis.cli(&["info", "server"]);
        let line = info.lines().find(|line| line.starts_with("run_id:")).expect("a run id");
        line.to_owned()
    };
    let before = run_id(&redis);
    redis.cli(&["set", "key", "lost"]);
    redis.restart();
    assert_eq!(redis.cli(&["get", "key"]), "");
    assert_ne!(run_id(&redis), before);
}

#[test]
fn a_redis_lets_in_who_knows_the_password_and_users_do_what_they_may() {
    let redis = Redis::setup()
        .password("open sesame".replace(' ', "-").as_str())
        .user("gateway", "secret", "~connect:* +get +set")
        .start();
    assert_eq!(redis.cli(&["ping"]), "PONG");
    let as_user = |password: &str, words: &[&str]| {
        redis.try_cli(
            &[&["--user", "gateway", "--pass", password, "--no-auth-warning"], words].concat(),
        )
    };
    assert_eq!(as_user("secret", &["set", "connect:a", "1"]).as_deref(), Ok("OK"));
    for (password, words) in [
        ("secret", &["set", "other", "1"][..]),
        ("secret", &["flushall"]),
        ("wrong", &["get", "connect:a"]),
    ] {
        assert!(as_user(password, words).is_err(), "{words:?}");
    }
    let mut stranger = Wire::to(redis.address());
    assert!(stranger.ask(SOON).expect("an answer").starts_with("-NOAUTH"));
}

#[test]
fn a_paused_redis_takes_connections_and_answers_when_it_is_resumed() {
    let mut redis = Redis::start();
    redis.pause();
    let mut wire = Wire::to(redis.address());
    assert_eq!(wire.ask(A_WHILE), None);
    redis.resume();
    assert_eq!(wire.answer(SOON).as_deref(), Some("+PONG\r\n"));
}

/// A connection that speaks Redis byte by byte.
struct Wire(TcpStream);

impl Wire {
    fn to(address: SocketAddr) -> Self {
        Self(TcpStream::connect_timeout(&address, SOON).expect("Redis listens"))
    }

    fn ask(&mut self, within: Duration) -> Option<String> {
        self.0.write_all(b"PING\r\n").expect("the kernel takes it");
        self.answer(within)
    }

    /// One line; `None` if none comes.
    fn answer(&mut self, within: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(within)).expect("a legal time-out");
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            match self.0.read_exact(&mut byte) {
                Ok(()) => line.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
        Some(String::from_utf8(line).expect("text"))
    }
}

#[test]
#[ignore = "the part of the next test that is killed"]
fn holds_a_redis_until_it_is_killed() {
    let mut redis = Redis::start();
    println!("\nholds {} {}", redis.pid(), redis.folder().display());
    std::io::stdin().read_to_end(&mut Vec::new()).expect("nothing comes before the end");
}

#[test]
fn a_killed_test_takes_its_redis_and_its_folder_along() {
    let mut test = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "holds_a_redis_until_it_is_killed", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a test runs");
    let output = BufReader::new(test.stdout.take().expect("it is piped"));
    let held = output.lines().map_while(Result::ok).find_map(|line| {
        let (pid, folder) = line.strip_prefix("holds ")?.split_once(' ')?;
        Some((pid.parse::<u32>().ok()?, PathBuf::from(folder)))
    });
    let (pid, folder) = held.expect("it says what it holds");
    assert!(folder.exists() && Path::new(&format!("/proc/{pid}")).exists());
    test.kill().expect("it runs");
    test.wait().expect("it is ours");
    assert!(is_gone_within(pid, SOON), "Redis lives on");
    await_that("the folder is gone", || !folder.exists());
}

#[test]
#[should_panic(expected = "no-such-service is not in PATH: run scripts/dev-up --install")]
fn a_missing_program_is_named_with_what_to_do() {
    services::program("no-such-service");
}

#[test]
fn kafka_keeps_what_it_has_acknowledged_over_an_end_a_kill_and_a_pause() {
    let mut kafka = Kafka::start();
    kafka.create_topic("events", 2, &[("retention.ms", "600000")]);
    let producer: BaseProducer = kafka
        .client_config()
        .set("enable.idempotence", "true")
        .create()
        .expect("a legal configuration");
    let consumer: BaseConsumer = kafka
        .client_config()
        .set("group.id", "not used")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a legal configuration");
    let mut from = TopicPartitionList::new();
    from.add_partition_offset("events", 1, Offset::Beginning).expect("a legal offset");
    consumer.assign(&from).expect("partition 1 is there");

    let send = |number: u32, within: Duration| {
        let payload = number.to_string();
        let record = BaseRecord::<(), str>::to("events").payload(&payload).partition(1);
        producer.send(record).map_err(|(error, _)| error).expect("the queue has room");
        producer.flush(within).is_ok()
    };
    let brokers = kafka.brokers();
    let flush = || {
        let until = Instant::now() + SOON;
        while producer.flush(A_MOMENT).is_err() {
            assert!(Instant::now() < until, "Kafka does not take what is left");
            Kafka::tell_brokers(producer.client(), &brokers);
        }
    };
    let receive = |within: Duration| {
        let until = Instant::now() + within;
        let mut told = Instant::now();
        loop {
            if told.elapsed() > A_MOMENT {
                told = Instant::now();
                Kafka::tell_brokers(consumer.client(), &brokers);
            }
            match consumer.poll(Duration::from_millis(10)) {
                Some(Ok(message)) => {
                    return message.payload_view::<str>().and_then(Result::ok)?.parse::<u32>().ok();
                }
                // It says of each broken connection that it is broken.
                Some(Err(_)) | None if Instant::now() < until => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    assert!(send(1, SOON));
    kafka.stop();
    assert!(!send(2, A_WHILE), "nobody is there to acknowledge");
    kafka.restart();
    flush();
    let pid = kafka.pid();
    kafka.kill();
    assert!(is_gone_within(pid, SOON));
    kafka.restart();
    assert_eq!([receive(SOON), receive(SOON)], [Some(1), Some(2)]);
    kafka.pause();
    assert!(!send(3, A_WHILE));
    assert_eq!(receive(A_WHILE), None);
    kafka.resume();
    flush();
    assert_eq!(receive(SOON), Some(3));
}

#[test]
fn a_development_instance_starts_once_stays_and_is_removed() {
    let parent = tempfile::tempdir().expect("the system has a place for files");
    let folder = parent.path().join("services");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let port = services::port::free().to_string();
    let up = |port: &str| {
        let mut command = Command::new(scripts.join("dev-up"));
        command.args(["redis", "--json", "--redis-port", port, "--folder"]).arg(&folder);
        command.output().expect("dev-up runs")
    };
    let json = |output: Output| {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let first = json(up(&port));
    assert_eq!(first["redis"]["url"], format!("redis://127.0.0.1:{port}"));
    let pid = first["redis"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.expect("a process id");
    assert_eq!(json(up(&port)), first);

    let elsewhere = up("1");
    assert!(!elsewhere.status.success());
    let said = String::from_utf8_lossy(&elsewhere.stderr);
    assert!(said.contains(&port) && said.contains("scripts/dev-down redis"), "{said}");

    let mut down = Command::new(scripts.join("dev-down"));
    let down = down.arg("--folder").arg(&folder).status().expect("dev-down runs");
    assert!(down.success());
    assert!(!folder.exists());
    // Whoever has inherited it may take its time to take note.
    await_that("Redis has ended", || {
        TcpStream::connect(("127.0.0.1", port.parse::<u16>().expect("a port"))).is_err()
            && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it.is_empty())
            || !Path::new(&format!("/proc/{pid}")).exists()
    });
}

#[test]
fn dev_up_leaves_the_port_of_another_program_alone() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it listens").port().to_string();
    let folder = tempfile::tempdir().expect("the system has a place for files");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/dev-up");
    let mut up = Command::new(script);
    up.args(["redis", "--redis-port", &port, "--folder"]).arg(folder.path());
    let output = up.output().expect("dev-up runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(&port) && said.contains("--redis-port"), "{said}");
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
