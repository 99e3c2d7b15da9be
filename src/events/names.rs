//! Which events may go to clients, and under which names.

use ahash::{AHashMap, AHashSet};
use thiserror::Error;

use super::NameDialect;

/// The list of events that services may send to clients: the protocol's own and the configured
/// ones. Immutable; a reload makes a new one.
#[derive(Debug, Clone)]
pub struct ClientEventNames {
    /// Names that pass as they are.
    exact: AHashSet<Box<str>>,
    /// By [`fold`]ed name: the spelling that every other one becomes.
    spelling: AHashMap<Box<[u8]>, Box<str>>,
}

/// A configured name that means something to the gateway itself and so can never reach a client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is an event for the gateway itself, which clients never get")]
pub struct ReservedName(pub Box<str>);

/// An event that the gateway consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Internal {
    Capabilities,
    ShortcutPublished,
    ShortcutRevoked,
}

/// What becomes of an event of some name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment<'a> {
    Forward,
    ForwardAs(&'a str),
    Consume(Internal),
    Refuse,
}

impl ClientEventNames {
    /// `configured` names are written as they stand here, whatever the dialect, also where one
    /// differs from a name of the protocol only in case, dots, hyphens or underscores.
    pub fn new(dialect: NameDialect, configured: &[impl AsRef<str>]) -> Result<Self, ReservedName> {
        let mut names = Self { exact: AHashSet::new(), spelling: AHashMap::new() };
        for hyphened in protocol_names() {
            let underscored = hyphened.replace('-', "_");
            match dialect {
                NameDialect::Hyphen => names.add(hyphened),
                NameDialect::Underscore => names.add(&underscored),
                NameDialect::Both => {
                    names.add(&underscored);
                    names.add(hyphened);
                }
            }
        }
        for name in configured.iter().map(AsRef::as_ref) {
            if fold(name, &mut Room::default()).and_then(Internal::of).is_some() {
                return Err(ReservedName(name.into()));
            }
            names.add(name);
        }
        Ok(names)
    }

    /// The last of several spellings is the one that strange ones become.
    fn add(&mut self, name: &str) {
        self.exact.insert(name.into());
        if let Some(folded) = fold(name, &mut Room::default()) {
            self.spelling.insert(folded.into(), name.into());
        }
    }

    pub(super) fn treatment(&self, name: &str) -> Treatment<'_> {
        if self.exact.contains(name) {
            return Treatment::Forward;
        }
        let mut room = Room::default();
        let Some(folded) = fold(name, &mut room) else { return Treatment::Refuse };
        if let Some(internal) = Internal::of(folded) {
            return Treatment::Consume(internal);
        }
        self.spelling.get(folded).map_or(Treatment::Refuse, |name| Treatment::ForwardAs(name))
    }
}

impl Internal {
    fn of(folded: &[u8]) -> Option<Self> {
        match folded {
            b"permission_session_capabilities" | b"permissions_session_capabilities" => {
                Some(Self::Capabilities)
            }
            b"session_shortcut_published" => Some(Self::ShortcutPublished),
            b"session_shortcut_revoked" => Some(Self::ShortcutRevoked),
            _ => None,
        }
    }
}

fn protocol_names() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("client_events.txt").lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Whether two names are spellings of one.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.bytes().map(folded).eq(other.bytes().map(folded))
}

/// `None` for a name longer than any that is known.
fn fold<'a>(name: &str, room: &'a mut Room) -> Option<&'a [u8]> {
    let place = room.0.get_mut(..name.len())?;
    for (place, byte) in place.iter_mut().zip(name.bytes()) {
        *place = folded(byte);
    }
    Some(place)
}

/// Names of all generations become equal: case and the kind of separator do not count.
fn folded(byte: u8) -> u8 {
    match byte {
        b'.' | b'-' => b'_',
        _ => byte.to_ascii_lowercase(),
    }
}

struct Room([u8; FOLDED_BYTES_MAX]);

impl Default for Room {
    fn default() -> Self {
        Self([0; FOLDED_BYTES_MAX])
    }
}

/// As long as a configured name may be.
const FOLDED_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    fn names(dialect: NameDialect, configured: &[&str]) -> ClientEventNames {
        ClientEventNames::new(dialect, configured).unwrap()
    }

    #[test]
    fn the_protocols_list_is_whole_and_no_two_of_it_are_confused() {
        let names = names(NameDialect::Hyphen, &NONE);
        assert_eq!(protocol_names().count(), 74);
        assert_eq!(names.exact.len(), 74);
        assert_eq!(names.spelling.len(), 74);
        for name in protocol_names() {
            assert_eq!(names.treatment(name), Treatment::Forward, "{name}");
        }
    }

    #[test]
    fn other_spellings_become_the_present_one() {
        let names = names(NameDialect::Hyphen, &NONE);
        for (spelled, present) in [
            ("game_session.player_joined", "game-session.player-joined"),
            ("Game-Session.Player-Joined", "game-session.player-joined"),
            ("game-session_player-joined", "game-session.player-joined"),
            ("asset_bundle_creation_complete", "asset.bundle.creation.complete"),
            ("voice.peer_joined", "voice.peer.joined"),
            ("connect.capability_manifest", "connect.capability-manifest"),
        ] {
            assert_eq!(names.treatment(spelled), Treatment::ForwardAs(present), "{spelled}");
        }
    }

    #[test]
    fn unknown_empty_and_endless_names_are_refused() {
        let names = names(NameDialect::Both, &NONE);
        let endless = "x".repeat(5000);
        for name in ["", "game-session", "connect.session-token", "asset.ready ", "Ä", &endless] {
            assert_eq!(names.treatment(name), Treatment::Refuse, "{name}");
        }
    }

    #[test]
    fn the_gateways_own_events_are_consumed_in_every_spelling() {
        let names = names(NameDialect::Hyphen, &NONE);
        for (name, internal) in [
            ("permission.session-capabilities", Internal::Capabilities),
            ("permission.session_capabilities", Internal::Capabilities),
            ("Permissions_session_capabilities", Internal::Capabilities),
            ("session.shortcut-published", Internal::ShortcutPublished),
            ("session.shortcut_published", Internal::ShortcutPublished),
            ("Session_shortcut_published", Internal::ShortcutPublished),
            ("session.shortcut-revoked", Internal::ShortcutRevoked),
            ("session.shortcut_revoked", Internal::ShortcutRevoked),
            ("Session_shortcut_revoked", Internal::ShortcutRevoked),
        ] {
            assert_eq!(names.treatment(name), Treatment::Consume(internal), "{name}");
        }
    }

    #[test]
    fn the_dialect_decides_the_spelling_of_the_protocols_names() {
        let (hyphen, underscore) = ("game-session.chat-received", "game_session.chat_received");
        let old = names(NameDialect::Underscore, &NONE);
        assert_eq!(old.treatment(underscore), Treatment::Forward);
        assert_eq!(old.treatment(hyphen), Treatment::ForwardAs(underscore));
        let both = names(NameDialect::Both, &NONE);
        assert_eq!(both.treatment(underscore), Treatment::Forward);
        assert_eq!(both.treatment(hyphen), Treatment::Forward);
        let odd = "Game_Session_Chat_Received";
        assert_eq!(both.treatment(odd), Treatment::ForwardAs(hyphen));
    }

    #[test]
    fn a_configured_name_is_written_as_it_is_configured() {
        let names = names(NameDialect::Hyphen, &["arena.round_over", "voice.peer_joined"]);
        assert_eq!(names.treatment("arena.round_over"), Treatment::Forward);
        let respelled = Treatment::ForwardAs("arena.round_over");
        assert_eq!(names.treatment("Arena.Round-Over"), respelled);
        assert_eq!(names.treatment("voice.peer_joined"), Treatment::Forward);
        assert_eq!(names.treatment("voice.peer.joined"), Treatment::Forward);
        let respelled = Treatment::ForwardAs("voice.peer_joined");
        assert_eq!(names.treatment("voice_peer_joined"), respelled);
    }

    #[test]
    fn a_configured_name_cannot_open_what_is_meant_for_the_gateway() {
        for name in ["session.shortcut-published", "Permission.Session.Capabilities"] {
            let refused = ClientEventNames::new(NameDialect::Hyphen, &["a.b", name]);
            assert_eq!(refused.unwrap_err(), ReservedName(name.into()));
        }
    }
}
