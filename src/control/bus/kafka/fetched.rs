//! What librdkafka has fetched, taken many records at once.
//!
//! Calls librdkafka itself: rdkafka hands out one record after the other, each by an event and an
//! allocation of its own, and it panics at a header name that is no UTF-8, which a record may have
//! whoever wrote it.
#![expect(unsafe_code, reason = "librdkafka is C")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_header_get_all, rd_kafka_message_destroy,
    rd_kafka_message_headers, rd_kafka_message_t, rd_kafka_queue_cb_event_enable,
    rd_kafka_queue_destroy, rd_kafka_queue_forward, rd_kafka_queue_get_partition,
    rd_kafka_queue_new, rd_kafka_queue_t, rd_kafka_resp_err_t, rd_kafka_t, rd_kafka_topic_name,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;

use super::bell::Bell;
use super::contact::Contact;

/// Where librdkafka puts what it fetches of the partitions that are read.
pub(super) struct FetchQueue {
    queue: NonNull<rd_kafka_queue_t>,
    /// Taken from librdkafka and not looked at yet, the oldest last.
    taken: Vec<Message>,
    /// librdkafka's threads ring it.
    bell: Arc<Bell>,
    /// What was taken lives in its memory.
    consumer: Arc<BaseConsumer<Contact>>,
}

/// What stands in the queue: a record, or an error of its partition.
pub(super) enum Fetched<'a> {
    Record(FetchedRecord<'a>),
    /// The partition has no more for now.
    End(u32),
    /// The partition begins after, or ends before, where it was to be read next: it is read no more
    /// until it is assigned again.
    OutOfRange {
        topic: Box<[u8]>,
        partition: u32,
    },
    /// What follows is not lost by it.
    Error(RDKafkaErrorCode),
}

/// One record in librdkafka's memory.
pub(super) struct FetchedRecord<'a> {
    message: Message,
    queue: PhantomData<&'a FetchQueue>,
}

/// A header cannot be read, or its name is no UTF-8, which Kafka's protocol asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BrokenHeaders;

impl FetchQueue {
    /// Nothing, if librdkafka has no memory for it.
    pub(super) fn new(consumer: Arc<BaseConsumer<Contact>>, bell: Arc<Bell>) -> Option<Self> {
        // SAFETY: the client lives as long as the consumer.
        let queue = unsafe { rd_kafka_queue_new(consumer.client().native_ptr()) };
        let queue = NonNull::new(queue)?;
        let heard = Arc::as_ptr(&bell).cast_mut().cast();
        // SAFETY: the bell lives until the queue has been told to be silent, in `drop`.
        unsafe { rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(ring), heard) };
        Some(Self { queue, taken: Vec::with_capacity(BATCH), bell, consumer })
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// What is fetched of the partition from now on comes here. Says whether librdkafka knows such a
    /// partition.
    pub(super) fn collect(&self, topic: &str, partition: u32) -> bool {
        let (Ok(topic), Ok(partition)) = (CString::new(topic), i32::try_from(partition)) else {
            return false;
        };
        let client = self.consumer.client().native_ptr();
        // SAFETY: the client lives, and the name is copied.
        let of_partition =
            unsafe { rd_kafka_queue_get_partition(client, topic.as_ptr(), partition) };
        let Some(of_partition) = NonNull::new(of_partition) else { return false };
        // SAFETY: both queues are ours; librdkafka counts who else needs them.
        unsafe { rd_kafka_queue_forward(of_partition.as_ptr(), self.queue.as_ptr()) };
        // SAFETY: gives up the reference that was got above, which nobody uses any more.
        unsafe { rd_kafka_queue_destroy(of_partition.as_ptr()) };
        true
    }

    /// Throws away what was taken of a partition and not looked at.
    pub(super) fn forget(&mut self, topic: &str, partition: u32) {
        self.taken.retain(|message| {
            message.partition() != partition || message.topic() != topic.as_bytes()
        });
    }

    /// The next record, without waiting.
    pub(super) fn next(&mut self) -> Option<Fetched<'_>> {
        if self.taken.is_empty() && !self.take_more() {
            return None;
        }
        let message = self.taken.pop()?;
        Some(match message.error() {
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                Fetched::Record(FetchedRecord { message, queue: PhantomData })
            }
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                Fetched::End(message.partition())
            }
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET => Fetched::OutOfRange {
                topic: message.topic().into(),
                partition: message.partition(),
            },
            code => Fetched::Error(code.into()),
        })
    }

    fn take_more(&mut self) -> bool {
        if !self.bell.take() {
            return false;
        }
        let mut messages = [ptr::null_mut(); BATCH];
        // SAFETY: there is room for so many, and without a time to wait it does not wait.
        let count = unsafe {
            rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, messages.as_mut_ptr(), BATCH)
        };
        let count = usize::try_from(count).unwrap_or(0).min(BATCH);
        self.taken
            .extend(messages[..count].iter().rev().filter_map(|it| NonNull::new(*it)).map(Message));
        if count > 0 {
            // There may be more.
            self.bell.keep();
        }
        count > 0
    }
}

impl Drop for FetchQueue {
    fn drop(&mut self) {
        self.taken.clear();
        // SAFETY: the queue is ours; whoever rings has it locked, so nobody does afterwards.
        unsafe { rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut()) };
        // SAFETY: ours, and not used any more. What librdkafka still brings there is thrown away.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// On a thread of librdkafka: the queue was empty and is not any more.
unsafe extern "C" fn ring(_: *mut rd_kafka_t, bell: *mut c_void) {
    // SAFETY: what it was given with the queue, which outlives every call.
    let bell = unsafe { &*bell.cast::<Bell>() };
    bell.ring();
}

impl FetchedRecord<'_> {
    /// As the brokers call it.
    pub(super) fn topic(&self) -> &[u8] {
        self.message.topic()
    }

    pub(super) fn partition(&self) -> u32 {
        self.message.partition()
    }

    pub(super) fn offset(&self) -> u64 {
        u64::try_from(self.message.as_ref().offset).unwrap_or(0)
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        let message = self.message.as_ref();
        self.bytes(message.key, message.key_len)
    }

    pub(super) fn value(&self) -> Option<&[u8]> {
        let message = self.message.as_ref();
        self.bytes(message.payload, message.len)
    }

    /// Name and value of each header, in order.
    pub(super) fn headers(
        &self,
        mut each: impl FnMut(&str, Option<&[u8]>),
    ) -> Result<(), BrokenHeaders> {
        use rd_kafka_resp_err_t::{RD_KAFKA_RESP_ERR__NOENT, RD_KAFKA_RESP_ERR_NO_ERROR};

        let mut headers = ptr::null_mut();
        // SAFETY: the record is alive, and so are its headers as long as it is.
        match unsafe { rd_kafka_message_headers(self.message.0.as_ptr(), &raw mut headers) } {
            RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RD_KAFKA_RESP_ERR__NOENT => return Ok(()),
            _ => return Err(BrokenHeaders),
        }
        for at in 0.. {
            let (mut name, mut value): (*const c_char, *const c_void) = (ptr::null(), ptr::null());
            let mut len = 0;
            // SAFETY: the headers are alive, and the places for what it says are ours.
            let found = unsafe {
                rd_kafka_header_get_all(headers, at, &raw mut name, &raw mut value, &raw mut len)
            };
            if found != RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            // SAFETY: librdkafka ends every name with a NUL.
            let name = unsafe { CStr::from_ptr(name) };
            each(name.to_str().map_err(|_| BrokenHeaders)?, self.bytes(value, len));
        }
        Ok(())
    }

    /// Bytes that belong to the record.
    fn bytes(&self, start: *const c_void, len: usize) -> Option<&[u8]> {
        // SAFETY: librdkafka says where they lie and how many they are; they live as long as the record.
        (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), len) })
    }
}

/// A message of librdkafka, which is ours to give back.
struct Message(NonNull<rd_kafka_message_t>);

impl Message {
    fn as_ref(&self) -> &rd_kafka_message_t {
        // SAFETY: it is alive until it is dropped here.
        unsafe { self.0.as_ref() }
    }

    fn error(&self) -> rd_kafka_resp_err_t {
        self.as_ref().err
    }

    fn partition(&self) -> u32 {
        u32::try_from(self.as_ref().partition).unwrap_or(u32::MAX)
    }

    fn topic(&self) -> &[u8] {
        let topic = self.as_ref().rkt;
        if topic.is_null() {
            return &[];
        }
        // SAFETY: a message keeps its topic.
        let name = unsafe { rd_kafka_topic_name(topic) };
        // SAFETY: a text that ends with a NUL and lives as long as the topic.
        unsafe { CStr::from_ptr(name) }.to_bytes()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: ours, and given back once.
        unsafe { rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}

/// Records that are taken at once. They keep the answers of brokers in memory that they came in.
const BATCH: usize = 256;
