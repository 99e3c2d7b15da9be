//! Tokens that a test's gateway accepts.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};
use uuid::Uuid;

pub(crate) const KEY_FILE: &str = "token.key";
pub(crate) const SECRET: &str = "the secret that signs the tokens of tests";
const KEY_ID: &str = "test";
const ISSUER: &str = "corelane-tests";
const AUDIENCE: &str = "corelane";

/// The table of the key that [`Claims::sign`] signs with.
pub(crate) fn key_table() -> String {
    format!(
        "[[auth.key]]\nid = \"{KEY_ID}\"\nalgorithm = \"HS256\"\nfile = \"{KEY_FILE}\"\n\
         issuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\nnative = true\n"
    )
}

/// Claims of one token. The default names a random session and account, has the role `user` and
/// is good for an hour.
#[derive(Debug, Clone)]
pub(crate) struct Claims(Map<String, Value>);

impl Default for Claims {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let claims = json!({
            "session_key": Uuid::new_v4().simple().to_string(),
            "sub": Uuid::new_v4().to_string(),
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 3600,
            "roles": ["user"],
        });
        match claims {
            Value::Object(claims) => Self(claims),
            _ => Self(Map::new()),
        }
    }
}

impl Claims {
    /// Sets a claim; `null` removes it.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        match value {
            Value::Null => drop(self.0.remove(name)),
            value => drop(self.0.insert(name.to_owned(), value)),
        }
        self
    }

    #[must_use]
    pub(crate) fn session(self, session: Uuid) -> Self {
        self.with("session_key", session.simple().to_string().into())
    }

    #[must_use]
    pub(crate) fn sign(&self) -> String {
        self.sign_with(SECRET)
    }

    /// As the gateway accepts it once its key file holds `secret`.
    #[must_use]
    pub(crate) fn sign_with(&self, secret: &str) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(KEY_ID.to_owned());
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&header, &self.0, &key).expect("plain claims can be signed")
    }
}
