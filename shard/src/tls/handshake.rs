//! The handshake, as far as it gets with the bytes that are there.

use rustls::Error;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

/// How far the handshake got. All up to `consumed` is done with.
pub(super) enum Shaken {
    NeedMore {
        consumed: usize,
    },
    /// `plain` came right behind it.
    Done {
        consumed: usize,
        plain: Vec<u8>,
    },
    /// The peer has thought better of it.
    Closed,
}

/// Lets the handshake take `input`. What is to be sent is appended to `outgoing`, the alert that goes
/// with an error too.
pub(super) fn advance(
    connection: &mut UnbufferedServerConnection,
    input: &mut [u8],
    outgoing: &mut Vec<u8>,
) -> Result<Shaken, Error> {
    let mut consumed = 0;
    let mut plain = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } =
            connection.process_tls_records(&mut input[consumed..]);
        let shaken = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, outgoing)?;
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It is: `outgoing` leaves before anything else.
                data.done();
                None
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    plain.extend_from_slice(record?.payload);
                }
                None
            }
            Ok(ConnectionState::BlockedHandshake) => Some(Shaken::NeedMore { consumed: 0 }),
            Ok(ConnectionState::WriteTraffic(_)) => {
                Some(Shaken::Done { consumed: 0, plain: std::mem::take(&mut plain) })
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Shaken::Closed),
            Ok(_) => return Err(Error::General("a state of early data, which is off".into())),
            Err(error) => {
                encode_alert(connection, outgoing);
                return Err(error);
            }
        };
        consumed += discard;
        match shaken {
            None => {}
            Some(Shaken::NeedMore { .. }) => return Ok(Shaken::NeedMore { consumed }),
            Some(Shaken::Done { plain, .. }) => return Ok(Shaken::Done { consumed, plain }),
            Some(Shaken::Closed) => return Ok(Shaken::Closed),
        }
    }
}

fn encode(
    mut data: EncodeTlsData<'_, ServerConnectionData>,
    outgoing: &mut Vec<u8>,
) -> Result<(), Error> {
    let before = outgoing.len();
    // The first attempt says how much it takes.
    while let Err(refused) = data.encode(&mut outgoing[before..]) {
        let EncodeError::InsufficientSize(size) = refused else {
            return Err(Error::General(refused.to_string()));
        };
        outgoing.resize(before + size.required_size, 0);
    }
    Ok(())
}

/// After an error only the alert is fetched: rustls would look for records that it has not discarded, and
/// panics where they are not shown.
fn encode_alert(connection: &mut UnbufferedServerConnection, outgoing: &mut Vec<u8>) {
    while connection.wants_write() {
        let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } =
            connection.process_tls_records(&mut [])
        else {
            return;
        };
        if encode(data, outgoing).is_err() {
            return;
        }
    }
}
