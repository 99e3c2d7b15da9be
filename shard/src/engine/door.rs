//! Who may come in: by which routes a credential may come, which pages may connect, and who is let
//! in when the mode is Internal.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::proxies::Proxies;
use crate::id::SessionId;
use crate::identity::{Identity, Standing};
use crate::probe::CredentialRoute;
use crate::wire::handshake::{ACCEPT_BYTES_MAX, HeadLimits, Refusal, Request, SUBPROTOCOL, accept};

/// The rules of the door of one shard.
#[derive(Debug, Clone, Default)]
pub struct DoorRules {
    pub routes: CredentialRoutes,
    /// Origins whose pages may connect; empty: all.
    pub origins: Box<[Box<str>]>,
    /// Judges the clients of the Internal mode.
    pub internal: InternalAccess,
    /// Tokens of this shard that somebody else may be judging at a time.
    pub validations_max: usize,
    pub proxies: Proxies,
}

/// By which routes a token may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRoutes {
    /// `Authorization: Bearer`
    pub header: bool,
    /// `Sec-WebSocket-Protocol: corelane, bearer.<token>`
    pub subprotocol: bool,
    /// `?token=`
    pub query: bool,
    /// Name of the cookie, if one is believed.
    pub cookie: Option<Box<str>>,
}

impl Default for CredentialRoutes {
    fn default() -> Self {
        Self { header: true, subprotocol: false, query: true, cookie: None }
    }
}

/// How clients of the Internal mode prove who they are.
#[derive(Debug, Clone, Default)]
pub enum InternalAccess {
    /// There is no such mode: nobody is let in.
    #[default]
    Nobody,
    ServiceToken(ServiceToken),
    /// Whoever can reach the port.
    Network,
}

/// A shared secret, kept as its digest: compared in constant time, whatever its length.
#[derive(Debug, Clone)]
pub struct ServiceToken([u8; 32]);

impl ServiceToken {
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    #[must_use]
    pub fn matches(&self, presented: &str) -> bool {
        self.0.ct_eq(&Self::new(presented).0).into()
    }
}

impl DoorRules {
    /// Only browsers send an Origin, and they always do: whoever sends none is no page.
    pub(super) fn admits_origin(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin.filter(|_| !self.origins.is_empty()) else {
            return true;
        };
        self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin))
    }

    /// What the 101 will say.
    pub(super) fn acceptance(&self, nonce: [u8; 24], request: &Request<'_>) -> Acceptance {
        let chosen = self.routes.subprotocol && request.offers_subprotocol();
        Acceptance { nonce, subprotocol: chosen, accepts_brotli: request.accepts_brotli() }
    }
}

impl CredentialRoutes {
    /// The token by any route but the header, the one that a page has to name first.
    pub(super) fn other_token<'a>(
        &self,
        request: &Request<'a>,
        limits: &HeadLimits,
    ) -> Result<Option<(CredentialRoute, Cow<'a, str>)>, Refusal> {
        if self.subprotocol
            && let Some(token) = request.offered_token(limits)?
        {
            return Ok(Some((CredentialRoute::Subprotocol, Cow::Borrowed(token))));
        }
        if self.query
            && let Some(token) = request.target.token(limits)?
        {
            return Ok(Some((CredentialRoute::Query, token)));
        }
        if let Some(name) = &self.cookie
            && let Some(token) = request.cookie(name, limits)?
        {
            return Ok(Some((CredentialRoute::Cookie, Cow::Borrowed(token))));
        }
        Ok(None)
    }
}

impl InternalAccess {
    /// `Authorization` must be there, whatever it says: a page can be made to send neither of the two.
    pub(super) fn admit(&self, request: &Request<'_>) -> Result<CredentialRoute, Refusal> {
        if !request.is_authorized_somehow() {
            return Err(Refusal::NoCredential);
        }
        match self {
            Self::Nobody => Err(Refusal::Forbidden),
            Self::Network => Ok(CredentialRoute::Network),
            Self::ServiceToken(token) => match request.service_token()? {
                Some(presented) if token.matches(presented) => Ok(CredentialRoute::ServiceToken),
                Some(_) => Err(Refusal::BadCredential),
                None => Err(Refusal::NoCredential),
            },
        }
    }
}

/// What all clients of the Internal mode stand for.
pub(super) fn internal_standing() -> Arc<Standing> {
    Arc::new(Standing {
        tenant: "default".into(),
        roles: ["internal".into()].into(),
        authorizations: Box::default(),
    })
}

/// A client of the Internal mode: nobody's account, and a session that nobody else has.
pub(super) fn internal_identity(
    standing: &Arc<Standing>,
    random: &mut fastrand::Rng,
) -> Arc<Identity> {
    let bytes = random.u128(..).to_be_bytes();
    let session = uuid::Builder::from_random_bytes(bytes).into_uuid().as_u128();
    Arc::new(Identity {
        session: SessionId(session),
        account: None,
        standing: Arc::clone(standing),
        expires_at: None,
        issued_at: None,
    })
}

/// The answer to an upgrade that has been judged good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acceptance {
    nonce: [u8; 24],
    subprotocol: bool,
    /// Whether the client asked for compressed messages.
    pub(super) accepts_brotli: bool,
}

impl Acceptance {
    pub(super) fn write(&self, out: &mut [u8; ACCEPT_BYTES_MAX]) -> usize {
        accept(&self.nonce, self.subprotocol.then_some(SUBPROTOCOL), out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_token_matches_itself_alone() {
        let token = ServiceToken::new("the secret");
        assert!(token.matches("the secret"));
        for wrong in ["", "the secre", "the secret ", "The secret"] {
            assert!(!token.matches(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn origins_are_compared_whole_and_in_any_case() {
        let origins = ["https://game.example".into(), "null".into()].into();
        let rules = DoorRules { origins, ..DoorRules::default() };
        for good in [None, Some("https://GAME.example"), Some("null")] {
            assert!(rules.admits_origin(good), "{good:?}");
        }
        for bad in
            ["", "https://game.example.evil", "http://game.example", "https://game.example:1"]
        {
            assert!(!rules.admits_origin(Some(bad)), "{bad}");
        }
        assert!(DoorRules::default().admits_origin(Some("https://anybody.example")));
    }

    #[test]
    fn sessions_of_the_internal_mode_are_fresh_version_four_ids() {
        let (standing, mut random) = (internal_standing(), fastrand::Rng::with_seed(1));
        let [one, two] = [(); 2].map(|()| internal_identity(&standing, &mut random));
        assert_ne!(one.session, two.session);
        assert_eq!(one.session.to_string().as_bytes()[14], b'4');
        assert_eq!((&one.account, one.expires_at), (&None, None));
        assert!(Arc::ptr_eq(&one.standing, &two.standing));
        assert_eq!(*one.standing.roles, ["internal".into()]);
    }
}
