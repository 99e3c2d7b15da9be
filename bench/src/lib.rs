//! What the measuring programs of this package share: a private io_uring with one provided-buffer
//! ring and the servers on it, a little WebSocket, and the reading of CPU time from `/proc`. The gateway's own code is not used here, so that
//! a mistake in it cannot hide in the yardstick.

pub mod cpu_time;
pub mod net_ring;
pub mod receive_buffers;
pub mod server_arguments;
pub mod slots;
pub mod websocket;
