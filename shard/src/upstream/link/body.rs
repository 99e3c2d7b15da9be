//! The JSON bodies of hello, open, close, credit and goaway.

use std::io::Write as _;
use std::time::Duration;

use uuid::fmt::Hyphenated;

use super::Client;
use super::credit::Window;
use super::error::LinkError;
use super::json::{read_numbers, write_string};
use crate::id::ShardId;
use crate::upstream::trace::Trace;

/// The only version of the protocol.
const VERSION: u64 = 1;

/// How the gateway names itself in its hello.
#[derive(Debug, Clone, Copy)]
pub struct Gateway<'a> {
    pub service: &'a str,
    pub node: &'a str,
    pub shard: ShardId,
}

pub(super) fn hello(
    out: &mut Vec<u8>,
    gateway: Gateway<'_>,
    endpoints: &[Box<str>],
    credit: Window,
) {
    put(out, format_args!("{{\"versions\":[{VERSION}],\"service\":"));
    write_string(out, gateway.service);
    put(out, format_args!(",\"endpoints\":"));
    write_strings(out, endpoints);
    put(out, format_args!(",\"node\":"));
    write_string(out, gateway.node);
    let Window { messages, bytes } = credit;
    put(
        out,
        format_args!(
            ",\"shard\":{},\"credit\":{{\"messages\":{messages},\"bytes\":{bytes}}}}}",
            gateway.shard.0
        ),
    );
}

pub(super) fn open(out: &mut Vec<u8>, client: &Client<'_>, trace: Option<Trace>) {
    put(out, format_args!("{{\"account\":"));
    match &client.identity.account {
        Some(account) => write_string(out, account.text(&mut [0; Hyphenated::LENGTH])),
        None => put(out, format_args!("null")),
    }
    put(out, format_args!(",\"roles\":"));
    write_strings(out, &client.identity.standing.roles);
    put(out, format_args!(",\"tenant\":"));
    write_string(out, &client.identity.standing.tenant);
    if let Some(peer) = client.peer {
        put(out, format_args!(",\"peer\":\"{peer}\""));
    }
    if let Some(trace) = trace {
        put(out, format_args!(",\"traceparent\":\"{trace}\""));
    }
    out.push(b'}');
}

pub(super) fn close(out: &mut Vec<u8>, reason: &str) {
    put(out, format_args!("{{\"reason\":"));
    write_string(out, reason);
    out.push(b'}');
}

pub(super) fn credit(out: &mut Vec<u8>, messages: u32, bytes: u32) {
    put(out, format_args!("{{\"messages\":{messages},\"bytes\":{bytes}}}"));
}

pub(super) fn goaway(out: &mut Vec<u8>, within: Duration) {
    put(out, format_args!("{{\"deadlineMs\":{}}}", within.as_millis()));
}

/// The backend's hello: the windows of its sessions.
pub(super) fn parse_hello(body: &[u8]) -> Result<Window, LinkError> {
    let (mut version, mut messages, mut bytes) = (None, None, None);
    read_numbers(body, |parent, name, number| match (parent, name) {
        (None, b"version") => version = Some(number),
        (Some(b"credit"), b"messages") => messages = Some(number),
        (Some(b"credit"), b"bytes") => bytes = Some(number),
        _ => {}
    })?;
    match (version, messages, bytes) {
        (None, ..) => Err(LinkError::BadBody),
        (Some(version), ..) if version != VERSION => Err(LinkError::NoCommonVersion),
        (_, Some(messages @ 1..), Some(bytes @ 1..)) => {
            Ok(Window { messages: saturated(messages), bytes: saturated(bytes) })
        }
        _ => Err(LinkError::BadBody),
    }
}

/// A grant: messages and bytes given back. A member that is missing counts as zero.
pub(super) fn parse_credit(body: &[u8]) -> Result<(u32, u32), LinkError> {
    let (mut messages, mut bytes) = (0, 0);
    read_numbers(body, |parent, name, number| match (parent, name) {
        (None, b"messages") => messages = saturated(number),
        (None, b"bytes") => bytes = saturated(number),
        _ => {}
    })?;
    Ok((messages, bytes))
}

pub(super) fn parse_goaway(body: &[u8]) -> Result<Option<Duration>, LinkError> {
    let mut deadline = None;
    read_numbers(body, |parent, name, number| {
        if parent.is_none() && name == b"deadlineMs" {
            deadline = Some(Duration::from_millis(number));
        }
    })?;
    Ok(deadline)
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn write_strings(out: &mut Vec<u8>, strings: &[Box<str>]) {
    out.push(b'[');
    for (at, string) in strings.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(out, string);
    }
    out.push(b']');
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a Vec does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_needs_its_version_and_a_window() {
        let good = br#"{"version":1,"credit":{"messages":8,"bytes":4096,"x":[]},"name":"demo"}"#;
        assert_eq!(parse_hello(good), Ok(Window { messages: 8, bytes: 4096 }));
        let cases: [(&[u8], LinkError); 5] = [
            (br#"{"version":2,"credit":{"messages":8,"bytes":1}}"#, LinkError::NoCommonVersion),
            (br#"{"credit":{"messages":8,"bytes":1}}"#, LinkError::BadBody),
            (br#"{"version":1}"#, LinkError::BadBody),
            (br#"{"version":1,"credit":{"messages":0,"bytes":1}}"#, LinkError::BadBody),
            (br#"{"version":1,"messages":1,"bytes":1}"#, LinkError::BadBody),
        ];
        for (body, error) in cases {
            assert_eq!(parse_hello(body), Err(error));
        }
    }

    #[test]
    fn grants_saturate() {
        assert_eq!(parse_credit(br#"{"bytes":99999999999}"#), Ok((0, u32::MAX)));
        assert_eq!(parse_credit(b"{}"), Ok((0, 0)));
        assert_eq!(parse_credit(b""), Err(LinkError::BadBody));
    }

    #[test]
    fn a_goaway_may_name_a_deadline() {
        let deadline = Duration::from_millis(1500);
        assert_eq!(parse_goaway(br#"{"deadlineMs":1500}"#), Ok(Some(deadline)));
        assert_eq!(parse_goaway(b"{}"), Ok(None));
        let mut out = Vec::new();
        goaway(&mut out, deadline);
        assert_eq!(parse_goaway(&out), Ok(Some(deadline)));
    }
}
