//! Tokens for tests and development, and a look into tokens of others.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Failure, MintArgs, output};
use crate::config::{Algorithm, AuthKey, Config};

/// Claims as the protocol's own issuer writes them, and the roles, which it keeps elsewhere.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    /// 32 hexadecimal digits.
    session_key: String,
    sub: String,
    jti: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    iss: &'a str,
    aud: &'a str,
    roles: &'a [String],
}

/// What a token is to say.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) session: Uuid,
    pub(crate) account: String,
    pub(crate) roles: &'a [String],
    pub(crate) life: Duration,
}

/// A key that can sign, and what its tokens say about it.
pub(crate) struct Issuer<'a> {
    key: &'a AuthKey,
    header: Header,
    secret: EncodingKey,
}

pub(super) fn mint(args: &MintArgs) -> Result<(), Failure> {
    let config = args.config.source().load()?;
    if args.ttl > config.auth.max_token_life {
        let message = "--ttl is longer than auth.max_token_life: the gateway would refuse it";
        return Err(Failure::Usage(message.to_owned()));
    }
    let session = args.session.as_deref().map(Uuid::parse_str).transpose();
    let session = session.map_err(|error| Failure::Usage(format!("--session: {error}")))?;
    let issuer = Issuer::choose(&config, args.key.as_deref())?;
    for _ in 0..args.count {
        let account = args.account.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let session = session.unwrap_or_else(Uuid::new_v4);
        output::line(&issuer.issue(Order {
            session,
            account,
            roles: &args.role,
            life: args.ttl,
        })?);
    }
    Ok(())
}

impl<'a> Issuer<'a> {
    /// The key of `id`, or the first one whose file holds what signing needs.
    pub(crate) fn choose(config: &'a Config, id: Option<&str>) -> Result<Self, Failure> {
        let mut reasons = String::new();
        for key in config.auth_keys.iter().filter(|key| id.is_none_or(|id| id == key.id)) {
            match Self::open(key) {
                Ok(issuer) => return Ok(issuer),
                Err(reason) => {
                    write!(reasons, "\n  key {:?}: {reason}", key.id)
                        .expect("writing to a String cannot fail");
                }
            }
        }
        let none = if reasons.is_empty() { "\n  no such [[auth.key]]" } else { "" };
        Err(Failure::Usage(format!("no configured key can sign:{none}{reasons}")))
    }

    fn open(key: &'a AuthKey) -> Result<Self, String> {
        let file = key.file.display();
        let bytes = key.read_file().map_err(|error| format!("cannot read {file}: {error}"))?;
        let (algorithm, secret) = match key.algorithm {
            Algorithm::Hs256 => {
                (jsonwebtoken::Algorithm::HS256, Ok(EncodingKey::from_secret(&bytes)))
            }
            Algorithm::Rs256 => (jsonwebtoken::Algorithm::RS256, EncodingKey::from_rsa_pem(&bytes)),
            Algorithm::Es256 => (jsonwebtoken::Algorithm::ES256, EncodingKey::from_ec_pem(&bytes)),
            Algorithm::EdDsa => (jsonwebtoken::Algorithm::EdDSA, EncodingKey::from_ed_pem(&bytes)),
        };
        let mut header = Header::new(algorithm);
        header.kid = Some(key.id.clone());
        let no_private = || format!("{file} holds no private key for {}", key.algorithm.name());
        let issuer = Self { key, header, secret: secret.map_err(|_| no_private())? };
        // A public key parses too; only signing tells.
        let trial = Order {
            session: Uuid::nil(),
            account: String::new(),
            roles: &[],
            life: Duration::ZERO,
        };
        match issuer.issue(trial) {
            Ok(_) => Ok(issuer),
            Err(_) => Err(no_private()),
        }
    }

    /// A token that is valid from now on.
    pub(crate) fn issue(&self, order: Order<'_>) -> Result<String, Failure> {
        let now = unix_seconds();
        let claims = Claims {
            session_key: order.session.simple().to_string(),
            sub: order.account,
            jti: Uuid::new_v4().to_string(),
            iat: now,
            nbf: now,
            exp: now + order.life.as_secs(),
            iss: &self.key.issuer,
            aud: &self.key.audience,
            roles: order.roles,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.secret)
            .map_err(|error| Failure::Internal(format!("signing failed: {error}")))
    }
}

pub(super) fn inspect(token: &str) -> Result<(), Failure> {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|error| Failure::Usage(format!("cannot read standard input: {error}")))?;
    }
    let text = text.trim();
    let text = text.strip_prefix("Bearer ").unwrap_or(text);
    let shown = describe(text, unix_seconds());
    output::line(&shown.map_err(|reason| Failure::Usage(format!("not a JWT: {reason}")))?);
    Ok(())
}

fn describe(token: &str, now: u64) -> Result<String, String> {
    let parts: Vec<&str> = token.split('.').collect();
    let &[header, claims, signature] = parts.as_slice() else {
        return Err(format!("{} parts between dots, expected 3", parts.len()));
    };
    let header = json_part("header", header)?;
    let claims = json_part("claims", claims)?;
    let mut out = String::from("signature NOT verified: anybody can write these claims\n");
    let pretty = |value: &Value| {
        serde_json::to_string_pretty(value).map(|text| output::printable(&text)).unwrap_or_default()
    };
    out += &format!("header {}\nclaims {}\n", pretty(&header), pretty(&claims));
    for (claim, past, future) in [
        ("iat", "issued {} ago", "issued in {} (clock?)"),
        ("nbf", "valid since {}", "NOT VALID for another {}"),
        ("exp", "EXPIRED {} ago", "expires in {}"),
    ] {
        let Some(at) = claims.get(claim).and_then(Value::as_u64) else {
            continue;
        };
        let sentence = if at <= now { past } else { future };
        out += &sentence.replace("{}", &span(at.abs_diff(now)));
        out.push('\n');
    }
    if claims.get("exp").is_none() {
        out += "never expires\n";
    }
    if signature.is_empty() {
        out += "has NO signature\n";
    }
    out.truncate(out.trim_end().len());
    Ok(out)
}

fn json_part(name: &str, part: &str) -> Result<Value, String> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| format!("its {name} is not base64url"))?;
    serde_json::from_slice(&bytes).map_err(|_| format!("its {name} is not JSON"))
}

/// The two largest units.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_minted_token_verifies_and_says_what_was_asked() {
        let secret = "0123456789abcdef0123456789abcdef";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, format!("{secret}\n")).unwrap();
        let mut config = Config::default();
        config.auth_keys.push(AuthKey {
            id: "first".into(),
            algorithm: Algorithm::Hs256,
            file: file.clone(),
            issuer: "us".into(),
            audience: "them".into(),
            native: true,
        });
        let issuer = Issuer::choose(&config, None).unwrap_or_else(|error| panic!("{error}"));
        let now = unix_seconds();
        let token = issuer.issue(Order {
            session: Uuid::from_u128(7),
            account: "anna".into(),
            roles: &["user".to_owned()],
            life: Duration::from_secs(60),
        });

        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
        rules.set_audience(&["them"]);
        rules.set_issuer(&["us"]);
        let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
        let data = jsonwebtoken::decode::<Value>(token.unwrap(), &key, &rules).unwrap();
        assert_eq!(data.header.kid.as_deref(), Some("first"));
        assert_eq!(data.claims["session_key"], "00000000000000000000000000000007");
        assert_eq!(data.claims["sub"], "anna");
        assert_eq!(data.claims["roles"][0], "user");
        let issued = data.claims["iat"].as_u64().unwrap();
        assert!((now..now + 10).contains(&issued), "{issued}");
        assert_eq!(data.claims["exp"], issued + 60);
        assert!(Issuer::choose(&config, Some("second")).is_err());
    }

    fn token(claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", part("{\"alg\":\"HS256\"}"), part(claims))
    }

    #[test]
    fn inspection_says_unverified_and_how_long_it_lasts() {
        let text = describe(&token("{\"exp\":3661,\"nbf\":0,\"sub\":\"a\"}"), 0).unwrap();
        assert!(text.starts_with("signature NOT verified"), "{text}");
        assert!(text.contains("expires in 1 h 1 min") && text.contains("\"sub\": \"a\""), "{text}");
        let text = describe(&token("{\"exp\":10}"), 100).unwrap();
        assert!(text.contains("EXPIRED 1 min 30 s ago"), "{text}");
        assert!(describe(&token("{}"), 0).unwrap().contains("never expires"));
    }

    #[test]
    fn what_is_no_token_says_why() {
        assert!(describe("a.b", 0).unwrap_err().contains("2 parts"));
        assert!(describe("!.b.c", 0).unwrap_err().contains("header is not base64url"));
        assert!(
            describe(&format!("{}.YQ.c", "e30"), 0).unwrap_err().contains("claims is not JSON")
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}", now: u64) {
            drop(describe(&text, now));
            drop(describe(&token(&text), now));
        }
    }
}
