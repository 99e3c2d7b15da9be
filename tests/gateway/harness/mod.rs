//! What the tests share: the running gateway, its clients and its backends.
//!
//! Nothing here waits without a deadline: whatever does not come within [`PATIENCE`] fails the
//! test that waits for it.

pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod http_backend;
pub(crate) mod https;
pub(crate) mod link_backend;
pub(crate) mod raw;
pub(crate) mod tls;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

/// How long anything may take on a machine that is busy with other things.
pub(crate) use crate::gateway_process::SOON as PATIENCE;

/// A connection of either kind between a test and the gateway.
pub(crate) trait Stream: Read + Write + Send {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}
