//! The conformance profile: what a WebSocket test suite sends and production refuses.

use super::{Config, Profile};

/// Longest message of the profile; suites send 16 MiB.
const MESSAGE_BYTES: usize = 31 << 20;
/// Room for the echo of such messages beside their assembly.
const POOL_BYTES: usize = 512 << 20;
const COUNT: u32 = 1_000_000;

/// Raises the limits that the profile names; never lowers one.
pub(super) fn apply(config: &mut Config) {
    if config.limits.profile != Profile::Conformance {
        return;
    }
    let limits = &mut config.limits;
    limits.messages_per_window = 0;
    raise(&mut limits.fragments_max, COUNT);
    raise(&mut limits.control_frames_per_second, COUNT);
    raise(&mut limits.message_bytes_hard, MESSAGE_BYTES);
    raise(&mut limits.outbox_bytes_max, 4 * MESSAGE_BYTES);
    raise(&mut limits.outbox_messages_max, 1 << 16);
    raise(&mut config.session.buffer_size, MESSAGE_BYTES);
    raise(&mut config.shards.block_pool_bytes, POOL_BYTES);
}

fn raise<T: Ord + Copy>(limit: &mut T, to: T) {
    *limit = (*limit).max(to);
}
