//! The shard's doorbell with loom's atomics in place of the processor's, and its model.

#[path = "../../../shard/src/lane/doorbell.rs"]
pub mod doorbell;
