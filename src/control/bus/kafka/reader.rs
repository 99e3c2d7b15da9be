//! A consumer without a group: partitions are assigned by hand, offsets are the caller's.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tracing::warn;

use super::bell::Bell;
use super::contact::Contact;

/// One of the two readers.
pub(super) struct Reader {
    consumer: Arc<BaseConsumer<Contact>>,
    bell: Arc<Bell>,
}

/// What lay in the reader's queue.
pub(super) enum Read<'a> {
    Record(BorrowedMessage<'a>),
    /// A partition has no more for now.
    End(u32),
    /// An error, which is counted; what follows is not lost by it.
    Error,
}

impl Reader {
    pub(super) fn new(
        config: &ClientConfig,
        contact: Contact,
        bell: Arc<Bell>,
    ) -> KafkaResult<Self> {
        let mut consumer = BaseConsumer::from_config_and_context(config, contact)?;
        let rung = Arc::clone(&bell);
        consumer.set_nonempty_callback(move || rung.ring());
        Ok(Self { consumer: Arc::new(consumer), bell })
    }

    /// For questions about topics and offsets, which wait for answers.
    pub(super) fn consumer(&self) -> Arc<BaseConsumer<Contact>> {
        Arc::clone(&self.consumer)
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// What was fetched next, without waiting.
    pub(super) fn next(&self) -> Option<Read<'_>> {
        if !self.bell.take() {
            return None;
        }
        loop {
            let contact = self.consumer.context();
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(record)) => {
                    self.bell.keep();
                    return Some(Read::Record(record));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.bell.keep();
                    return Some(Read::End(u32::try_from(partition).unwrap_or(u32::MAX)));
                }
                Some(Err(_)) => {
                    // The contact has been told what it was.
                    contact.counts().read_errors.add(1);
                    self.bell.keep();
                    return Some(Read::Error);
                }
                // Nothing, or something that was for the contact: then there may be more.
                None if contact.take_served() => {}
                None => return None,
            }
        }
    }

    /// Begins to read these partitions of a topic.
    pub(super) fn assign(&self, topic: &str, partitions: &[(u32, u64)]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &(partition, from) in partitions {
            let from = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
            if let Err(error) = list.add_partition_offset(topic, partition as i32, from) {
                warn!(topic, partition, %error, "cannot read a partition");
            }
        }
        if let Err(error) = self.consumer.incremental_assign(&list) {
            warn!(topic, %error, "cannot begin to read");
        }
    }

    /// Ends reading a partition; what was fetched of it is thrown away.
    pub(super) fn unassign(&self, topic: &str, partition: u32) {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, partition as i32);
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            warn!(topic, partition, %error, "cannot end reading a partition");
        }
    }
}
