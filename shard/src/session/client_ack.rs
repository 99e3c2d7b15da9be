//! `connect.ack`: how a client's application says which event it has handled.

use serde::Deserialize;

/// The message is no `connect.ack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MalformedAck;

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(rename = "eventName")]
    event_name: &'a str,
    sequence: &'a str,
}

/// The message id that `payload` names: the last event that was handled.
pub(super) fn sequence(payload: &[u8]) -> Result<u64, MalformedAck> {
    let written: Written<'_> = serde_json::from_slice(payload).map_err(|_| MalformedAck)?;
    if written.event_name != "connect.ack" {
        return Err(MalformedAck);
    }
    let digits = written.sequence.bytes().all(|byte| byte.is_ascii_digit());
    written.sequence.parse().ok().filter(|_| digits).ok_or(MalformedAck)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_text_is_the_sequence_and_nothing_else_is() {
        let read = |json: &str| sequence(json.as_bytes());
        assert_eq!(read(r#"{"eventName":"connect.ack","sequence":"117"}"#), Ok(117));
        let greatest = r#"{"sequence":"18446744073709551615","eventName":"connect.ack","x":[]}"#;
        assert_eq!(read(greatest), Ok(u64::MAX));
        for malformed in [
            "",
            "null",
            r#"{"eventName":"connect.ack"}"#,
            r#"{"eventName":"connect.ack","sequence":117}"#,
            r#"{"eventName":"connect.ack","sequence":"+117"}"#,
            r#"{"eventName":"connect.ack","sequence":""}"#,
            r#"{"eventName":"connect.ack","sequence":"18446744073709551616"}"#,
            r#"{"eventName":"connect.nack","sequence":"117"}"#,
        ] {
            assert_eq!(read(malformed), Err(MalformedAck), "{malformed}");
        }
    }
}
