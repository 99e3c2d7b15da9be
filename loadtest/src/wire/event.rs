//! A stamped payload as an event: the JSON that services publish for a session and its client gets.

use crate::stamp::Stamp;

/// An event that every gateway lets through.
const BEFORE: &[u8] = br#"{"eventName":"system.notification","data":"#;
const AFTER: &[u8] = b"}";
/// Bytes beside the stamped payload.
pub(crate) const AROUND: usize = BEFORE.len() + AFTER.len();

/// Appends an event of `bytes`, at least [`AROUND`] and those of a stamp.
pub(crate) fn put(stamp: &Stamp, bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(BEFORE);
    stamp.write(bytes.saturating_sub(AROUND), out);
    out.extend_from_slice(AFTER);
}

/// The stamped payload of an event that [`put`] has written; nothing of any other.
pub(crate) fn stamped(event: &[u8]) -> Option<&[u8]> {
    event.strip_prefix(BEFORE)?.strip_suffix(AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_of_its_length_and_gives_the_stamp_back() {
        let stamp = Stamp { sender: 3, sequence: 9, intended: 77, delay: 5 };
        let mut event = Vec::new();
        put(&stamp, 200, &mut event);
        assert_eq!(event.len(), 200);
        let json: serde_json::Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(json["eventName"], "system.notification");
        let payload = stamped(&event).unwrap();
        assert_eq!(payload.len(), 200 - AROUND);
        assert_eq!(Stamp::read(payload), Ok(stamp));
        assert_eq!(stamped(br#"{"eventName":"connect.session-token"}"#), None);
    }
}
