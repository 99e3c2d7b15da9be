//! A consumer without a group: partitions are assigned by hand, offsets are the caller's.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use rdkafka::ClientContext as _;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tracing::warn;

use super::bell::Bell;
use super::brokers;
use super::contact::Contact;
use super::fetched::{FetchQueue, Fetched};

/// One of the two readers.
pub(super) struct Reader {
    fetched: FetchQueue,
    consumer: Arc<BaseConsumer<Contact>>,
    /// Of what librdkafka says besides records.
    said: Arc<Bell>,
}

impl Reader {
    pub(super) fn new(
        config: &ClientConfig,
        contact: Contact,
        waker: &Arc<AtomicWaker>,
    ) -> KafkaResult<Self> {
        let mut consumer = BaseConsumer::from_config_and_context(config, contact)?;
        let said = Bell::new(waker);
        let rung = Arc::clone(&said);
        consumer.set_nonempty_callback(move || rung.ring());
        let consumer = Arc::new(consumer);
        let fetched = FetchQueue::new(Arc::clone(&consumer), Bell::new(waker))
            .ok_or_else(|| KafkaError::ClientCreation("no memory for a queue".into()))?;
        Ok(Self { fetched, consumer, said })
    }

    /// For questions about topics and offsets, which wait for answers.
    pub(super) fn consumer(&self) -> Arc<BaseConsumer<Contact>> {
        Arc::clone(&self.consumer)
    }

    /// Whether there may be something to take.
    pub(super) fn has_rung(&self) -> bool {
        self.fetched.bell().has_rung() || self.said.has_rung()
    }

    /// Has the brokers dialled again if librdkafka has forgotten them.
    pub(super) fn find_brokers(&self, brokers: &CStr) {
        brokers::find_again(self.consumer.client(), self.consumer.context(), brokers);
    }

    /// Looks again, whether it has rung or not.
    pub(super) fn look_again(&self) {
        self.fetched.bell().keep();
        self.said.keep();
    }

    /// What was fetched next, without waiting.
    pub(super) fn next(&mut self) -> Option<Fetched<'_>> {
        self.hear();
        let next = self.fetched.next();
        if let Some(Fetched::Error(code)) = next {
            let contact = self.consumer.context();
            contact.counts().read_errors.add(1);
            contact.error(KafkaError::MessageConsumption(code), "reading");
        }
        next
    }

    /// Takes what is said besides records. The contact is told what it was.
    fn hear(&self) {
        if !self.said.take() {
            return;
        }
        loop {
            match self.consumer.poll(Duration::ZERO) {
                // Records are not among it: their partitions' queues lead elsewhere.
                Some(Ok(_) | Err(_)) => self.consumer.context().counts().read_errors.add(1),
                // Nothing, or something that was for the contact: then there may be more.
                None if self.consumer.context().take_served() => {}
                None => return,
            }
        }
    }

    /// Begins to read these partitions of a topic.
    pub(super) fn assign(&self, topic: &str, partitions: &[(u32, u64)]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &(partition, from) in partitions {
            let from = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
            if !self.fetched.collect(topic, partition) {
                warn!(topic, partition, "cannot read a partition");
            } else if let Err(error) = list.add_partition_offset(topic, partition as i32, from) {
                warn!(topic, partition, %error, "cannot read a partition");
            }
        }
        if let Err(error) = self.consumer.incremental_assign(&list) {
            warn!(topic, %error, "cannot begin to read");
        }
    }

    /// Ends reading a partition; what was fetched of it is thrown away.
    pub(super) fn unassign(&mut self, topic: &str, partition: u32) {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, partition as i32);
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            warn!(topic, partition, %error, "cannot end reading a partition");
        }
        self.fetched.forget(topic, partition);
    }
}
