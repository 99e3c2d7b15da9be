//! What may happen to a shard.

use arbitrary::Arbitrary;

use super::ring::Dialling;

#[derive(Debug, Arbitrary)]
pub(super) enum Step<'a> {
    /// The shard has a turn, and exchanges with its ring.
    Turn,
    Later {
        ms: u16,
    },
    Connect,
    Client {
        who: u8,
        does: Client<'a>,
    },
    Backend {
        which: u8,
        does: Backend<'a>,
    },
    Control(Control),
}

#[derive(Debug, Arbitrary)]
pub(super) enum Client<'a> {
    Upgrade {
        to: Door,
        brotli: bool,
    },
    /// A message without a meaning: what the echo route sends back.
    Message {
        text: bool,
        byte: u8,
        len: u16,
        pieces: u8,
    },
    Request {
        flags: u8,
        channel: u8,
        to: To,
        byte: u8,
        len: u16,
    },
    /// To the last RPC.
    Answer {
        code: u8,
        len: u16,
    },
    Acknowledge,
    Ping {
        len: u8,
    },
    Pong {
        right: bool,
    },
    Close {
        code: u16,
    },
    Raw {
        bytes: &'a [u8],
    },
    Fin,
    Reset,
    /// So much more it reads; then no more.
    Takes {
        bytes: u16,
    },
    TakesAll,
    ArrivesInPiecesOf {
        bytes: u8,
    },
}

/// What a client asks for at the door.
#[derive(Debug, Arbitrary)]
pub(super) enum Door {
    Echo,
    Session {
        player: u8,
    },
    /// With a token that only the auth service can judge.
    Foreign {
        player: u8,
    },
    /// With the reconnect token that a session of this player would have.
    Resumed {
        player: u8,
        epoch: u8,
    },
    Stranger,
    Health,
    Nowhere,
}

#[derive(Debug, Arbitrary)]
pub(super) enum To {
    Endpoint(u8),
    Shortcut(u8),
    /// The connection of another client.
    Peer(u8),
    Everybody,
    Nobody,
}

#[derive(Debug, Arbitrary)]
pub(super) enum Backend<'a> {
    /// Everything that has come is answered as it should be.
    Answers {
        status: u16,
        len: u16,
        chunked: bool,
    },
    Pushes {
        session: u8,
        flags: u8,
        len: u16,
    },
    Grants {
        session: u8,
        messages: u8,
        bytes: u16,
    },
    Forgets {
        session: u8,
    },
    GoesAway,
    Raw {
        bytes: &'a [u8],
    },
    Fin,
    Reset,
    Takes {
        bytes: u16,
    },
    TakesAll,
    ArrivesInPiecesOf {
        bytes: u8,
    },
    /// Of all connections that are dialled from now on.
    Dialling(Dialling),
}

#[derive(Debug, Arbitrary)]
pub(super) enum Control {
    /// Claims are kept from now on, and answered when this is called off.
    HoldsClaims(bool),
    RefusesClaims(bool),
    Event {
        player: u8,
        len: u16,
        kept: bool,
    },
    Message {
        player: u8,
        len: u16,
    },
    Rpc {
        player: u8,
        len: u16,
        ms: u16,
    },
    Capabilities {
        player: u8,
        endpoints: [u8; 2],
    },
    Publish {
        player: u8,
        route: u8,
        target: Option<u8>,
        len: u16,
    },
    RevokeRoute {
        player: u8,
        route: u8,
    },
    RevokeService {
        player: u8,
    },
    Evict {
        player: u8,
    },
    EndSession {
        player: u8,
    },
    Describe {
        player: u8,
    },
    Reload {
        messages_per_window: u8,
    },
    MoreEndpoints,
    Addresses {
        service: u8,
        count: u8,
    },
    /// No new connections, and those that are here are sent away.
    Drain,
}
