//! Asks the brokers which topics and partitions there are and where these begin and end. Such
//! questions wait for their answers, so a thread of its own asks them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tracing::{info, warn};

use super::bell::Bell;
use super::contact::Contact;
use super::positions::Watermarks;
use super::topics::{Inbound, OUTBOUND, RPC_RESPONSES, Topics};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// All topics that are read.
    Topics,
    /// The ends of one partition of the events for sessions.
    Ends(u32),
}

#[derive(Debug)]
pub(super) enum Answer {
    Topic(Inbound, Found),
    /// `None` when nobody could tell.
    Ends(u32, Option<Watermarks>),
    /// All topics have been asked for; whether the brokers answered.
    Done(bool),
}

#[derive(Debug)]
pub(super) enum Found {
    Missing,
    /// By partition, `None` where its leader did not tell.
    Partitions(Vec<Option<Watermarks>>),
}

/// The control core's end.
pub(super) struct Surveyor {
    /// `None` at the end.
    questions: Option<Sender<Question>>,
    answers: Receiver<Answer>,
    bell: Arc<Bell>,
}

/// Makes topics that are missing.
pub(super) struct Creation {
    pub(super) config: ClientConfig,
    pub(super) partitions: u32,
}

impl Surveyor {
    /// The thread ends with what is returned.
    pub(super) fn start(
        consumer: Arc<BaseConsumer<Contact>>,
        topics: Topics,
        creation: Option<Creation>,
        bell: Arc<Bell>,
    ) -> std::io::Result<Self> {
        let (questions, asked) = channel();
        let (told, answers) = channel();
        let thread = Thread { consumer, topics, creation, asked, told, bell: Arc::clone(&bell) };
        thread::Builder::new().name("corelane-kafka".into()).spawn(move || thread.run())?;
        Ok(Self { questions: Some(questions), answers, bell })
    }

    pub(super) fn ask(&self, question: Question) {
        // The thread ends only with this.
        let _asked = self.questions.as_ref().map(|questions| questions.send(question));
    }

    pub(super) fn next(&self) -> Option<Answer> {
        if !self.bell.take() {
            return None;
        }
        let answer = self.answers.try_recv().ok();
        if answer.is_some() {
            self.bell.keep();
        }
        answer
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// Lets go of the brokers before the process ends, unless they are waited for.
impl Drop for Surveyor {
    fn drop(&mut self) {
        self.questions = None;
        let until = Instant::now() + PATIENCE_AT_THE_END;
        while self.answers.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
    }
}

/// Fields are dropped in this order: whoever finds that nothing will be told any more knows that the
/// consumer is gone.
struct Thread {
    consumer: Arc<BaseConsumer<Contact>>,
    topics: Topics,
    creation: Option<Creation>,
    asked: Receiver<Question>,
    told: Sender<Answer>,
    bell: Arc<Bell>,
}

impl Thread {
    fn run(self) {
        while let Ok(question) = self.asked.recv() {
            match question {
                Question::Topics => self.survey(),
                Question::Ends(partition) => {
                    let topic = self.topics.on_brokers(Inbound::ClientEvents);
                    self.tell(Answer::Ends(partition, self.end(topic, partition)));
                }
            }
        }
    }

    fn survey(&self) {
        let mut up = true;
        for topic in Inbound::ALL {
            match self.look_for(self.topics.on_brokers(topic)) {
                Ok(found) => {
                    if matches!(found, Found::Missing) {
                        self.create(topic);
                    }
                    self.tell(Answer::Topic(topic, found));
                }
                Err(_) => {
                    up = false;
                    break;
                }
            }
        }
        self.tell(Answer::Done(up));
    }

    fn look_for(&self, topic: &str) -> KafkaResult<Found> {
        let metadata = self.consumer.fetch_metadata(Some(topic), PATIENCE)?;
        let found = metadata.topics().iter().find(|it| it.name() == topic);
        let partitions = found.filter(|it| it.error().is_none()).map(|it| it.partitions().len());
        match partitions {
            None | Some(0) => Ok(Found::Missing),
            Some(count) => {
                let partitions: Vec<u32> = (0..count as u32).collect();
                Ok(Found::Partitions(self.ends(topic, &partitions, PATIENCE).unwrap_or_else(
                    |_| {
                        // One of many leaders does not answer; the others are asked one by one.
                        let alone = |partition: &u32| self.end(topic, *partition);
                        partitions.iter().map(alone).collect()
                    },
                )))
            }
        }
    }

    fn end(&self, topic: &str, partition: u32) -> Option<Watermarks> {
        self.ends(topic, &[partition], PATIENCE_ALONE).ok()?.pop()?
    }

    /// In two questions for all partitions: the one for the beginnings comes first, so that what is
    /// told never is a beginning after the end.
    fn ends(
        &self,
        topic: &str,
        partitions: &[u32],
        patience: Duration,
    ) -> KafkaResult<Vec<Option<Watermarks>>> {
        let low = self.offsets(topic, partitions, Offset::Beginning, patience)?;
        let high = self.offsets(topic, partitions, Offset::End, patience)?;
        let both = low.into_iter().zip(high);
        Ok(both.map(|(low, high)| Some(Watermarks { low: low?, high: high? })).collect())
    }

    fn offsets(
        &self,
        topic: &str,
        partitions: &[u32],
        which: Offset,
        patience: Duration,
    ) -> KafkaResult<Vec<Option<u64>>> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition_offset(topic, partition as i32, which)?;
        }
        let told = self.consumer.offsets_for_times(list, patience)?;
        let of = |partition: &u32| {
            let told = told.find_partition(topic, *partition as i32)?;
            match (told.error(), told.offset()) {
                (Ok(()), Offset::Offset(offset)) => u64::try_from(offset).ok(),
                _ => None,
            }
        };
        Ok(partitions.iter().map(of).collect())
    }

    /// Whether it came about shows at the next look.
    fn create(&self, topic: Inbound) {
        let Some(creation) = &self.creation else { return };
        let mut names = vec![self.topics.on_brokers(topic).to_owned()];
        if topic == Inbound::ClientEvents {
            let outbound = OUTBOUND.iter().chain([&RPC_RESPONSES]);
            names.extend(outbound.map(|name| self.topics.prefixed(name)));
        }
        let partitions = match topic {
            Inbound::ClientEvents => creation.partitions as i32,
            _ => 1,
        };
        let made = |name: &str| {
            let events = name == self.topics.on_brokers(Inbound::ClientEvents);
            let partitions = if events { partitions } else { 1 };
            create_topic(&creation.config, name, partitions)
        };
        for name in names {
            match made(&name) {
                Ok(()) => info!(topic = name, "topic made"),
                Err(error) => {
                    warn!(
                        topic = name,
                        error, "cannot make a topic; make it, or correct the rights"
                    );
                }
            }
        }
    }

    fn tell(&self, answer: Answer) {
        // At the end of the process nobody hears it.
        let _told = self.told.send(answer);
        self.bell.ring();
    }
}

/// With as many copies as the brokers make unless they are told otherwise.
fn create_topic(config: &ClientConfig, name: &str, partitions: i32) -> Result<(), String> {
    let admin: AdminClient<DefaultClientContext> =
        AdminClient::from_config(config).map_err(|error| error.to_string())?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let created = runtime.block_on(admin.create_topics([&topic], &options));
    match created.map_err(|error| error.to_string())?.pop() {
        None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(code.to_string()),
    }
}

/// For one answer of the brokers.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);
/// For that of one partition's leader.
const PATIENCE_ALONE: Duration = Duration::from_secs(1);
