//! Fetching the key sets that issuers publish: each by a task of its own, again and again, and all at
//! once when a shard has met an unknown key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelane_shard::clock::Instant;
use http_body_util::Full;
use hyper::Request;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::web::{WebClient, WebError};
use crate::auth::{JwksFault, JwksSpec, Key, KeyRing, UnknownKeys, parse_set};

/// What came of one fetch.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) spec: Arc<JwksSpec>,
    /// `None` when it failed.
    pub(super) keys: Option<Vec<Arc<Key>>>,
    /// It was made for the sake of an unknown key.
    pub(super) asked: bool,
}

#[derive(Debug, Error)]
enum FetchError {
    #[error(transparent)]
    Web(#[from] WebError),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error(transparent)]
    Fault(#[from] JwksFault),
    #[error("the URL cannot be asked: {0}")]
    Url(#[from] hyper::http::Error),
}

/// Fetches for ever. Stops when dropped.
#[derive(Debug)]
pub(super) struct KeyFetches {
    fetched: mpsc::Receiver<Fetched>,
    /// Held so that `fetched` stays open while there is no set at all.
    _report: mpsc::Sender<Fetched>,
    /// Sent to when all sets are to be fetched now.
    now: watch::Sender<()>,
    sets: usize,
    /// Fetches for the sake of an unknown key that are not over.
    awaited: usize,
    /// When the last of them were begun, until the next may be.
    begun: Option<Instant>,
    unknown: Arc<UnknownKeys>,
    _tasks: JoinSet<()>,
}

impl KeyFetches {
    pub(super) fn start(web: &WebClient, keys: &KeyRing) -> Self {
        let (report, fetched) = mpsc::channel(FETCHED_WAITING_MAX);
        let (now, _) = watch::channel(());
        let mut tasks = JoinSet::new();
        for spec in keys.jwks() {
            let (spec, web) = (Arc::new(spec.clone()), web.clone());
            tasks.spawn(fetch_for_ever(spec, web, now.subscribe(), report.clone()));
        }
        let unknown = keys.unknown();
        unknown.reopen();
        let sets = tasks.len();
        Self {
            fetched,
            _report: report,
            now,
            sets,
            awaited: 0,
            begun: None,
            unknown,
            _tasks: tasks,
        }
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Fetched> {
        self.fetched.recv().await
    }

    /// To be called now and then: has all sets fetched if a shard has asked, at most once in
    /// `interval`.
    pub(super) fn look_for_unknown_keys(&mut self, now: Instant, interval: Duration) {
        if self.awaited == 0 && self.begun.is_some_and(|begun| now >= begun + interval) {
            self.begun = None;
            self.unknown.reopen();
        }
        if self.begun.is_none() && self.unknown.is_asked() {
            self.begun = Some(now);
            self.awaited = self.sets;
            self.now.send_replace(());
        }
    }

    /// One set has been fetched and taken.
    pub(super) fn settle(&mut self, asked: bool) {
        if asked && self.awaited > 0 {
            self.awaited -= 1;
            if self.awaited == 0 {
                self.unknown.settle();
            }
        }
    }
}

/// Logs when a set's state changes, not every time.
async fn fetch_for_ever(
    spec: Arc<JwksSpec>,
    web: WebClient,
    mut now: watch::Receiver<()>,
    report: mpsc::Sender<Fetched>,
) {
    let url = spec.url.as_str();
    let (mut failing, mut reached, mut asked) = (false, false, false);
    loop {
        let fetched = fetch(&spec, &web).await;
        match &fetched {
            Err(reason) if !failing => {
                warn!(url, %reason, "key set not fetched, the keys taken before stay in force");
            }
            Ok(keys) if failing || !reached => info!(url, keys = keys.len(), "key set fetched"),
            Ok(_) | Err(_) => {}
        }
        failing = fetched.is_err();
        reached |= fetched.is_ok();
        let keys = fetched.ok();
        if report.send(Fetched { spec: Arc::clone(&spec), keys, asked }).await.is_err() {
            return;
        }
        let pause = if failing { spec.refresh.min(RETRY) } else { spec.refresh };
        asked = tokio::time::timeout(pause, now.changed()).await.is_ok();
    }
}

async fn fetch(spec: &JwksSpec, web: &WebClient) -> Result<Vec<Arc<Key>>, FetchError> {
    let request = Request::get(spec.url.as_str()).header("Accept", "application/json");
    let request = request.body(Full::new(Bytes::new()))?;
    let response = web.ask(request, BODY_BYTES_MAX, TIMEOUT).await?;
    if response.status != 200 {
        return Err(FetchError::Status(response.status));
    }
    Ok(parse_set(spec, &response.body)?)
}

const FETCHED_WAITING_MAX: usize = 16;
/// 256 keys of 8192 bits would be less.
const BODY_BYTES_MAX: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
/// After a fetch that failed.
const RETRY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::KeyRules;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    fn fetches(sets: usize) -> (KeyFetches, watch::Receiver<()>) {
        let rules = KeyRules {
            keys: vec![],
            jwks: vec![],
            session_claims: KeyRules::default_session_claims(),
        };
        let web = WebClient::new(false).unwrap();
        let mut fetches = KeyFetches::start(&web, &KeyRing::open(&rules).unwrap());
        fetches.sets = sets;
        let woken = fetches.now.subscribe();
        (fetches, woken)
    }

    #[tokio::test]
    async fn an_unknown_key_has_all_sets_fetched_once_in_a_while() {
        let (mut fetches, mut woken) = fetches(2);
        fetches.look_for_unknown_keys(at(1), INTERVAL);
        assert!(!woken.has_changed().unwrap(), "nobody has asked");
        assert!(fetches.unknown.report());
        fetches.look_for_unknown_keys(at(2), INTERVAL);
        assert!(woken.has_changed().unwrap());
        woken.mark_unchanged();

        fetches.settle(false);
        fetches.settle(true);
        assert!(fetches.unknown.report(), "one set is still out");
        fetches.settle(true);
        assert!(!fetches.unknown.report(), "not a second time so soon");
        fetches.look_for_unknown_keys(at(31), INTERVAL);
        assert!(!fetches.unknown.report());
        assert!(!woken.has_changed().unwrap());

        fetches.look_for_unknown_keys(at(32), INTERVAL);
        assert!(fetches.unknown.report());
        fetches.look_for_unknown_keys(at(33), INTERVAL);
        assert!(woken.has_changed().unwrap());
    }

    #[tokio::test]
    async fn fetches_that_hang_are_not_begun_twice() {
        let (mut fetches, mut woken) = fetches(1);
        assert!(fetches.unknown.report());
        fetches.look_for_unknown_keys(at(1), INTERVAL);
        woken.mark_unchanged();
        fetches.look_for_unknown_keys(at(100), INTERVAL);
        assert!(!woken.has_changed().unwrap());
        assert!(fetches.unknown.report(), "nothing can be said yet");
        fetches.settle(true);
        assert!(!fetches.unknown.report());
    }
}
