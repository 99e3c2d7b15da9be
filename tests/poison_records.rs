//! Records of a real Kafka that break its protocol: each is counted and passed over, what stands
//! behind it in its partition is delivered, and the gateway lives on.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;
#[expect(dead_code, reason = "of these services it needs a Kafka that runs")]
mod services;

use std::ffi::{CStr, c_void};
use std::ptr;

use rdkafka::bindings::{
    rd_kafka_produceva, rd_kafka_vtype_t, rd_kafka_vu_s, rd_kafka_vu_s__bindgen_ty_1,
    rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1, rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2,
};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use uuid::Uuid;

use gateway_process::client::{BINARY, Client};
use gateway_process::token::Claims;
use gateway_process::{Launch, SOON};
use services::Kafka;

const TOPIC: &str = "bannou-client-events";

/// A record with one header, whose name rdkafka would not take.
fn send_with_header(producer: &BaseProducer, key: &str, value: &str, name: &CStr) {
    use rd_kafka_vu_s__bindgen_ty_1 as Value;

    let topic = c"bannou-client-events";
    let memory = |text: &str| rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
        ptr: text.as_ptr().cast_mut().cast(),
        size: text.len(),
    };
    let header = rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
        name: name.as_ptr(),
        val: ptr::from_ref(b"1").cast::<c_void>(),
        size: 1,
    };
    /// `RD_KAFKA_MSG_F_COPY`
    const COPY: i32 = 0x2;
    let fields = [
        (rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC, Value { cstr: topic.as_ptr() }),
        (rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY, Value { mem: memory(key) }),
        (rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE, Value { mem: memory(value) }),
        (rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: COPY }),
        (rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADER, Value { header }),
    ];
    let fields = fields.map(|(vtype, u)| rd_kafka_vu_s { vtype, u });
    let client = producer.client().native_ptr();
    #[expect(unsafe_code, reason = "rdkafka takes only names that are UTF-8")]
    // SAFETY: the client lives, each field is of its kind, and everything is copied.
    let error = unsafe { rd_kafka_produceva(client, fields.as_ptr(), fields.len()) };
    assert!(error.is_null(), "librdkafka takes any name");
}

fn notification(number: u32) -> String {
    format!(r#"{{"eventName":"system.notification","number":{number}}}"#)
}

/// The numbers of the next notifications.
fn numbers(client: &mut Client, count: usize) -> Vec<u64> {
    let next = |client: &mut Client| {
        client.find("a notification", SOON, |frame| {
            let body = frame.payload.get(31..).filter(|_| frame.opcode == BINARY)?;
            serde_json::from_slice::<serde_json::Value>(body).ok()?["number"].as_u64()
        })
    };
    (0..count).map(|_| next(client)).collect()
}

#[test]
fn a_header_name_that_is_no_text_is_counted_and_passed_over() {
    let kafka = Kafka::start();
    kafka.create_topic(TOPIC, 1, &[]);
    let config = format!("[shards]\ncount = 1\n[kafka]\nbrokers = [\"{}\"]\n", kafka.brokers());
    let gateway = Launch::new(config).start();
    gateway.wait_for_metrics("the events' partition", SOON, |metrics| {
        metrics.sum("corelane_kafka_event_partitions") == 1.0
    });
    let session = Uuid::new_v4();
    let token = Claims::default().session(session).sign();
    let mut client = Client::session(gateway.public(), &token, SOON);
    let producer: BaseProducer = kafka.client_config().create().expect("a producer");
    let key = format!("CONNECT_SESSION_{session}");
    let send = |number| {
        let value = notification(number);
        let record = BaseRecord::to(TOPIC).key(&key).payload(&value);
        producer.send(record).map_err(|(error, _)| error).expect("there is room");
    };
    send(1);
    send_with_header(&producer, &key, &notification(2), c"expires-\xff\xfe-at-ms");
    send_with_header(&producer, &key, &notification(3), c"message-id");
    send(4);
    producer.flush(SOON).expect("the broker answers");
    assert_eq!(numbers(&mut client, 3), [1, 3, 4]);
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum_of("corelane_kafka_record_faults_total", "fault=\"headers\""), 1.0);
    assert_eq!(metrics.sum("corelane_kafka_record_faults_total"), 1.0);
    gateway.stop();
}
