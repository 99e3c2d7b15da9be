//! Rings whose memory is there before the first message.

use rtrb::{Consumer, Producer, RingBuffer};

/// A ring whose every place was written once: its pages belong to the process from the start, and
/// no message waits for the kernel to find one.
pub(super) fn ring<T>(capacity: usize, filler: impl Fn() -> T) -> (Producer<T>, Consumer<T>) {
    let (mut producer, mut consumer) = RingBuffer::new(capacity);
    while producer.push(filler()).is_ok() {}
    while consumer.pop().is_ok() {}
    (producer, consumer)
}
