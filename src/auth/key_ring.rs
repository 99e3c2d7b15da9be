//! All keys: those of files, read at start and at a reload and watched in between, and those that
//! issuers publish, as they come in. Handed to the shards as one set.
//!
//! Runs on the control core. Shards see only the [`ArcSwap`] that this module stores into.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;
use tracing::{info, warn};

use super::claims::RANDOM_SESSION;
use super::jwks::{JwksSource, JwksSpec, UnknownKeys};
use super::key::{Key, KeyFault, KeySet, KeySpec, Published};
use crate::file_stamp::FileStamp;

/// Everything that decides about tokens, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRules {
    pub keys: Vec<KeySpec>,
    pub jwks: Vec<JwksSpec>,
    /// Claim names that may hold the session, the first present one wins.
    pub session_claims: Vec<String>,
}

impl KeyRules {
    #[must_use]
    pub fn default_session_claims() -> Vec<String> {
        ["session_key", "sid", "jti"].map(String::from).to_vec()
    }
}

/// Why a set of keys cannot be used. Each message names the key or file and the next step.
#[derive(Debug, Error)]
pub enum KeyError {
    #[error("no session claim is configured: name at least one, such as \"session_key\"")]
    NoSessionClaim,
    #[error(
        "session claim \"random\" is not the last: a claim after it would never be looked at, \
         move it to the end"
    )]
    RandomNotLast,
    #[error("a key without id is configured: give each key the `kid` of its tokens")]
    NoKeyId,
    #[error("key {id}: issuer and audience are pinned per key, set both")]
    NoParty { id: String },
    #[error("two keys have the id {id}: give each its own")]
    DuplicateId { id: String },
    #[error("the key set {url} is configured twice: once is enough")]
    DuplicateUrl { url: String },
    #[error("issuers {first} and {second} are both native: at most one issuer may be")]
    TwoNativeIssuers { first: String, second: String },
    #[error("issuer {issuer} has native keys and others: mark all of its keys or none")]
    HalfNativeIssuer { issuer: String },
    #[error("key {id}: cannot read {}: {source}; check path and permissions", file.display())]
    Unreadable { id: String, file: PathBuf, source: io::Error },
    #[error("key {id}: {}: {fault}", file.display())]
    Unusable { id: String, file: PathBuf, fault: KeyFault },
}

/// The watched files, the published sets, and what is made of them. One per process, owned by the
/// control core.
#[derive(Debug)]
pub struct KeyRing {
    session_claims: Vec<String>,
    watched: Vec<Watched>,
    sources: Vec<JwksSource>,
    unknown: Arc<UnknownKeys>,
    published: Arc<ArcSwap<KeySet>>,
}

#[derive(Debug)]
struct Watched {
    spec: KeySpec,
    /// State of the file that `key` was read from, or that was found broken after it.
    stamp: Option<FileStamp>,
    key: Arc<Key>,
}

impl KeyRing {
    /// Reads every key; the first that cannot be used is an error.
    pub fn open(rules: &KeyRules) -> Result<Self, KeyError> {
        let nothing = KeySet::new([], &[], Published::Nowhere);
        let ring = Self {
            session_claims: rules.session_claims.clone(),
            watched: read_all(rules)?,
            sources: rules.jwks.iter().map(JwksSource::new).collect(),
            unknown: Arc::default(),
            published: Arc::new(ArcSwap::from_pointee(nothing)),
        };
        ring.publish();
        Ok(ring)
    }

    /// How shards say that they have met a key nobody knows.
    #[must_use]
    pub fn unknown(&self) -> Arc<UnknownKeys> {
        Arc::clone(&self.unknown)
    }

    /// The sets that are to be fetched.
    pub fn jwks(&self) -> impl Iterator<Item = &JwksSpec> {
        self.sources.iter().map(|source| &source.spec)
    }

    /// What a fetch of the set of `spec` brought. Without keys, those taken before stay in force.
    pub fn learn(&mut self, spec: &JwksSpec, keys: Option<Vec<Arc<Key>>>) {
        let Some(at) = self.sources.iter().position(|source| source.spec == *spec) else {
            // It was configured until a moment ago.
            return;
        };
        let source = &mut self.sources[at];
        let was_current = source.current;
        source.current = keys.is_some();
        let changed = keys.as_ref().is_some_and(|keys| !same_keys(keys, &source.keys));
        if let Some(keys) = keys.filter(|_| changed) {
            source.keys = keys;
            self.warn_of_hidden(at);
        }
        if changed || self.sources[at].current != was_current {
            self.publish();
        }
    }

    fn warn_of_hidden(&self, at: usize) {
        let earlier = self.sources[..at].iter().flat_map(|source| &source.keys);
        let known: HashSet<_> = self
            .watched
            .iter()
            .map(|watched| &watched.key)
            .chain(earlier)
            .map(|key| &key.id)
            .collect();
        for key in self.sources[at].keys.iter().filter(|key| known.contains(&key.id)) {
            let url = self.sources[at].spec.url.as_str();
            warn!(key = &*key.id, url, "another key has this id and comes first");
        }
    }

    /// What every shard's authenticator reads.
    #[must_use]
    pub fn published(&self) -> Arc<ArcSwap<KeySet>> {
        Arc::clone(&self.published)
    }

    /// Takes a new configuration, whole or not at all.
    pub fn reload(&mut self, rules: &KeyRules) -> Result<(), KeyError> {
        self.watched = read_all(rules)?;
        self.session_claims.clone_from(&rules.session_claims);
        let mut old = std::mem::take(&mut self.sources);
        let take = |spec: &JwksSpec| match old.iter().position(|source| source.spec == *spec) {
            Some(at) => old.swap_remove(at),
            None => JwksSource::new(spec),
        };
        self.sources = rules.jwks.iter().map(take).collect();
        self.publish();
        Ok(())
    }

    /// Looks for changed files and reads those. A file that is broken or gone leaves its old key
    /// in force and is reported once per change. Returns how many keys were replaced.
    pub fn poll(&mut self) -> usize {
        let replaced = self.watched.iter_mut().map(Watched::refresh).filter(|new| *new).count();
        if replaced > 0 {
            self.publish();
        }
        replaced
    }

    fn publish(&self) {
        let files = self.watched.iter().map(|watched| &watched.key);
        let fetched = self.sources.iter().flat_map(|source| &source.keys);
        let keys = files.chain(fetched).map(Arc::clone);
        let published = match self.sources.iter().all(|source| source.current) {
            _ if self.sources.is_empty() => Published::Nowhere,
            true => Published::Current(Arc::clone(&self.unknown)),
            false => Published::Uncertain,
        };
        self.published.store(Arc::new(KeySet::new(keys, &self.session_claims, published)));
    }
}

impl Watched {
    /// Whether the key was replaced.
    fn refresh(&mut self) -> bool {
        let stamp = FileStamp::of(&self.spec.file);
        if stamp == self.stamp {
            return false;
        }
        // The stamp is older than the content that is read now, so a write in between is seen at
        // the next poll.
        self.stamp = stamp;
        match read_key(&self.spec) {
            Ok(key) => {
                self.key = Arc::new(key);
                info!(key = self.spec.id, file = %self.spec.file.display(), "key replaced");
                true
            }
            Err(reason) => {
                warn!(%reason, "key file not usable, the key read before stays in force");
                false
            }
        }
    }
}

fn read_all(rules: &KeyRules) -> Result<Vec<Watched>, KeyError> {
    check(rules)?;
    let watch = |spec: &KeySpec| {
        let stamp = FileStamp::of(&spec.file);
        let key = Arc::new(read_key(spec)?);
        Ok(Watched { spec: spec.clone(), stamp, key })
    };
    rules.keys.iter().map(watch).collect()
}

fn check(rules: &KeyRules) -> Result<(), KeyError> {
    if rules.session_claims.is_empty() {
        return Err(KeyError::NoSessionClaim);
    }
    if rules.session_claims.iter().rev().skip(1).any(|claim| claim == RANDOM_SESSION) {
        return Err(KeyError::RandomNotLast);
    }
    let mut urls = HashSet::new();
    for JwksSpec { url, issuer, audience, .. } in &rules.jwks {
        if issuer.is_empty() || audience.is_empty() {
            return Err(KeyError::NoParty { id: url.clone() });
        }
        if !urls.insert(url) {
            return Err(KeyError::DuplicateUrl { url: url.clone() });
        }
    }
    let mut ids = HashSet::new();
    for KeySpec { id, issuer, audience, .. } in &rules.keys {
        if id.is_empty() {
            return Err(KeyError::NoKeyId);
        }
        if issuer.is_empty() || audience.is_empty() {
            return Err(KeyError::NoParty { id: id.clone() });
        }
        if !ids.insert(id) {
            return Err(KeyError::DuplicateId { id: id.clone() });
        }
    }
    let files = rules.keys.iter().map(|key| (key.native, &key.issuer));
    let issuers = files.chain(rules.jwks.iter().map(|set| (set.native, &set.issuer)));
    let Some((_, native)) = issuers.clone().find(|(native, _)| *native) else {
        return Ok(());
    };
    for (is_native, issuer) in issuers {
        if is_native && issuer != native {
            let (first, second) = (native.clone(), issuer.clone());
            return Err(KeyError::TwoNativeIssuers { first, second });
        }
        if !is_native && issuer == native {
            return Err(KeyError::HalfNativeIssuer { issuer: native.clone() });
        }
    }
    Ok(())
}

fn read_key(spec: &KeySpec) -> Result<Key, KeyError> {
    let content = read_bounded(&spec.file).map_err(|source| KeyError::Unreadable {
        id: spec.id.clone(),
        file: spec.file.clone(),
        source,
    })?;
    Key::new(spec, &content).map_err(|fault| KeyError::Unusable {
        id: spec.id.clone(),
        file: spec.file.clone(),
        fault,
    })
}

fn read_bounded(file: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(file)?.take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any key"));
    }
    Ok(content)
}

fn same_keys(these: &[Arc<Key>], those: &[Arc<Key>]) -> bool {
    these.len() == those.len() && these.iter().zip(those).all(|(this, that)| this.is_same(that))
}

const KEY_FILE_BYTES_MAX: u64 = 64 << 10;
