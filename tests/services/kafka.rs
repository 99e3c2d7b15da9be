//! A Kafka of a test's own: one node that is broker and controller.

use std::ffi::CString;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::{ClientConfig, ClientContext};

use super::folder::Folder;
use super::process::{Failed, Process};
use super::{Place, SOON, on_free_ports, pause, port, program, running};

const TEMPLATE: &str = include_str!("../../scripts/services/kafka.properties");
const READY: &str = "Kafka Server started";
/// Where `scripts/dev-up --install` puts the jars, and the file that says that all are there.
const JARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/services/kafka");
const COMPLETE: &str = "complete";
/// 16 bytes in base64url.
const CLUSTER: &str = "Y29yZWxhbmUtc2VydmljZQ";
/// It serves one test and ends soon: warming up and collecting in parallel do not pay.
const JAVA: [&str; 4] = ["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// How a Kafka is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Lines behind the template; the last of a name counts.
    more: String,
    place: Place,
}

impl Setup {
    /// Its clients reach it not on loopback but on `host`; it is started through a program such as
    /// `ip netns exec NAME`. Ports are looked for where this process is.
    #[must_use]
    pub(crate) fn at(self, host: Ipv4Addr, through: &[&str]) -> Self {
        let there = Self { place: Place::new(host, through), ..self };
        let clients = format!("PLAINTEXT://{host}:@PORT@");
        let listeners = format!("{clients},CONTROLLER://127.0.0.1:@CONTROLLER@");
        there.setting("listeners", &listeners).setting("advertised.listeners", &clients)
    }

    /// A line of server.properties.
    #[must_use]
    pub(crate) fn setting(mut self, name: &str, value: &str) -> Self {
        writeln!(self.more, "{name}={value}").expect("text grows");
        self
    }

    #[must_use]
    pub(crate) fn start(self) -> Kafka {
        let complete = Path::new(JARS).join(COMPLETE);
        assert!(complete.is_file(), "Kafka is not in {JARS}: run scripts/dev-up --install");
        on_free_ports(|| {
            let (folder, port, controller) = (Folder::new(), port::free(), port::free());
            let values = [("PORT", &*port.to_string()), ("CONTROLLER", &*controller.to_string())];
            folder.fill("kafka.properties", &format!("{TEMPLATE}{}", self.more), &values);
            format_log(&folder);
            let process = Some(launch(&self.place, &folder)?);
            Ok(Kafka { process, folder, place: self.place.clone(), port })
        })
    }
}

/// A Kafka that runs, or did and may again.
#[derive(Debug)]
pub(crate) struct Kafka {
    process: Option<Process>,
    folder: Folder,
    place: Place,
    port: u16,
}

impl Kafka {
    #[must_use]
    pub(crate) fn start() -> Self {
        Self::setup().start()
    }

    #[must_use]
    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    /// The one for all tests of this program that do it no harm. Each should use topics of its own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Kafka> = LazyLock::new(Kafka::start);
        &SHARED
    }

    /// For the configuration: `host:port`.
    #[must_use]
    pub(crate) fn brokers(&self) -> String {
        format!("{}:{}", self.place.host, self.port)
    }

    /// For clients of the test's own.
    #[must_use]
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        // A broker that comes back is found at once.
        config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
        config
    }

    #[must_use]
    pub(crate) fn pid(&mut self) -> u32 {
        running(&mut self.process).id()
    }

    /// Answers nobody from here on, though connections stand and new ones are made.
    pub(crate) fn pause(&mut self) {
        running(&mut self.process).freeze();
    }

    pub(crate) fn resume(&mut self) {
        running(&mut self.process).thaw();
    }

    /// At once, as when the power fails. What it has acknowledged stays, for its pages are the
    /// kernel's.
    pub(crate) fn kill(&mut self) {
        drop(self.process.take().expect("it runs"));
    }

    /// In order; [`Self::restart`] starts it again.
    pub(crate) fn stop(&mut self) {
        self.process.take().expect("it runs").stop();
    }

    /// Runs again on the same ports and with what is in its folder, after an orderly end if it ran.
    pub(crate) fn restart(&mut self) {
        if self.process.is_some() {
            self.stop();
        }
        let until = Instant::now() + SOON;
        self.process = Some(loop {
            match launch(&self.place, &self.folder) {
                Ok(process) => break process,
                // Somebody passes by; nobody else stays on these ports.
                Err(failed) if failed.port_was_taken() && Instant::now() < until => pause(),
                Err(failed) => panic!("Kafka: {failed}"),
            }
        });
    }

    /// librdkafka forgets all brokers when one that was just started names none
    /// (confluentinc/librdkafka#5301): tells a client again which there are. Does no harm if it knows.
    #[expect(unsafe_code, reason = "rdkafka lacks this call")]
    pub(crate) fn tell_brokers<C: ClientContext>(client: &Client<C>, brokers: &str) {
        let brokers = CString::new(brokers).expect("an address has no zero");
        // SAFETY: the client is alive, and librdkafka copies the text, which ends with a zero.
        unsafe { rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
    }

    /// With settings such as `("retention.ms", "1000")`. Every partition can be written to when it
    /// returns.
    pub(crate) fn create_topic(&self, name: &str, partitions: usize, settings: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions as i32, TopicReplication::Fixed(1));
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let admin: AdminClient<DefaultClientContext> =
            self.client_config().create().expect("a legal configuration");
        let options = AdminOptions::new().operation_timeout(Some(SOON));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let created = runtime
            .expect("a runtime of one thread")
            .block_on(admin.create_topics([&topic], &options));
        let created = created.unwrap_or_else(|error| panic!("topic {name}: {error}"));
        assert!(created.iter().all(Result::is_ok), "topic {name}: {created:?}");
        let until = Instant::now() + SOON;
        let is_led = || {
            let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(5));
            let Ok(metadata) = metadata else {
                Self::tell_brokers(admin.inner(), &self.brokers());
                return None;
            };
            let led = metadata.topics().first()?.partitions().iter();
            Some(led.filter(|it| it.leader() >= 0).count() == partitions)
        };
        while is_led() != Some(true) {
            assert!(Instant::now() < until, "topic {name} has partitions that nobody leads");
            pause();
        }
    }
}

fn java(folder: &Folder) -> (Vec<PathBuf>, PathBuf) {
    let words = [program("java").into_os_string().into_string().expect("a path of text")];
    let words = words.into_iter().chain(JAVA.map(str::to_owned));
    let classes = ["-cp".to_owned(), format!("{JARS}/*")];
    let words = words.chain(classes).map(PathBuf::from).collect();
    (words, folder.path().join("kafka.properties"))
}

/// Kafka starts only where it has been told which cluster it belongs to.
fn format_log(folder: &Folder) {
    let (words, properties) = java(folder);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]);
    let output = command.arg(properties).output().expect("java runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Kafka cannot prepare its folder:\n{said}");
}

fn launch(place: &Place, folder: &Folder) -> Result<Process, Failed> {
    let (words, properties) = java(folder);
    let words = words.into_iter().chain(["kafka.Kafka".into(), properties]);
    Process::start(&place.command(words), folder.path().join("log"), READY)
}
