//! Commands as calls of scripts, and their replies.

use std::sync::Arc;
use std::time::Duration;

use corelane_shard::id::{Epoch, SessionId};
use corelane_shard::identity::{Account, Identity, Standing, UnixSeconds};
use corelane_shard::lane::{ClaimRefusal, Credential};
use corelane_shard::wire::reconnect_token::ReconnectKeys;
use redis::{FromRedisValue as _, Value};
use serde::Deserialize;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::super::{Position, StoreRules};
use super::SharedRules;
use super::command::{
    Answer, Claiming, Command, Cursor, Ending, Eviction, Found, Held, Kept, Last, Why,
};
use crate::control::redis::{Batch, Fault, Reply, Script, script};

macro_rules! ours {
    ($($Name:ident = $name:literal;)*) => { $(
        script! {
            static $Name = $name,
                concat!(include_str!("lua/prelude.lua"), include_str!(concat!("lua/", $name, ".lua")));
        }
    )* };
}

ours! {
    CLAIM = "claim";
    KEEP = "keep";
    CURSORS = "cursors";
    CONFIRM = "confirm";
    RELEASE = "release";
    REMOVE = "remove";
    END = "end";
    FIND = "find";
    POLL = "poll";
    ACCOUNT = "account";
}

/// What goes into calls besides the command.
pub(super) struct Context {
    pub(super) keys: ReconnectKeys,
    pub(super) shared: SharedRules,
    /// Before every key.
    pub(super) prefix: String,
}

/// Arguments in the making.
struct Arguments(Vec<Vec<u8>>);

impl Arguments {
    fn push(mut self, value: impl ToString) -> Self {
        self.0.push(value.to_string().into_bytes());
        self
    }

    fn push_ms(self, value: Duration) -> Self {
        self.push(value.as_millis())
    }

    fn push_cursor(self, cursor: Option<Position>) -> Self {
        self.push(cursor.map_or_else(String::new, show_position))
    }

    /// Account, tenant if it is wanted, roles and authorizations.
    fn push_standing(self, identity: &Identity, tenant: Option<&str>) -> Self {
        let mut room = [0; Hyphenated::LENGTH];
        let account = identity.account.as_ref().map_or("", |account| account.text(&mut room));
        let with_account = self.push(account);
        let with_tenant = match tenant {
            Some(tenant) => with_account.push(tenant),
            None => with_account,
        };
        let standing = &identity.standing;
        with_tenant.push(json(&standing.roles)).push(json(&standing.authorizations))
    }
}

fn json(words: &[Box<str>]) -> String {
    serde_json::to_string(words).expect("text is JSON")
}

impl Context {
    fn begin(&self, at: u64) -> Arguments {
        Arguments(vec![self.prefix.clone().into_bytes()]).push(at)
    }

    /// Adds the calls of a command; says how many.
    pub(super) fn encode(&self, command: &Command, batch: &mut Batch) -> usize {
        let mut add = |script: &'static Script, arguments: Arguments| {
            batch.script(script, arguments.0);
            1
        };
        match command {
            Command::Claim(claiming) => add(&CLAIM, self.claim(claiming)),
            Command::Keep { held, at, .. } => {
                held.iter().map(|held| add(&KEEP, self.keep(held, *at))).sum()
            }
            Command::Cursors { reached, at } => {
                let all = reached.iter().fold(
                    self.begin(*at).push_ms(self.shared.session_ttl),
                    |all, one| {
                        all.push(one.session).push(one.epoch.0).push_cursor(Some(one.position))
                    },
                );
                add(&CURSORS, all)
            }
            Command::Confirm { session, epoch, at } => {
                add(&CONFIRM, self.begin(*at).push(session).push(epoch.0))
            }
            Command::Release(release) => {
                let StoreRules { window, extension, .. } = release.rules;
                let all = self.begin(release.at).push(release.session).push(release.epoch.0);
                let all = all.push(release.ended).push(window.as_secs());
                let all = all.push_ms(window + extension).push_cursor(release.cursor);
                let all = match &release.identity {
                    Some(identity) => all.push_standing(identity, None),
                    None => all.push("").push("").push(""),
                };
                add(&RELEASE, all.push(self.shared.instance))
            }
            Command::Remove { session, epoch, at } => {
                let all = self.begin(*at).push(session).push(epoch.0);
                add(&REMOVE, all.push(self.shared.instance))
            }
            Command::End(ending) => {
                let Ending { session, reason, rules, at, .. } = &**ending;
                let all = self.begin(*at).push(session).push(at / 1000);
                let all = all.push_ms(rules.revocation_life).push(self.shared.instance);
                let closes = u8::from(reason.is_some());
                add(&END, all.push(closes).push(reason.as_deref().unwrap_or_default()))
            }
            Command::Find { session, at, .. } => add(&FIND, self.begin(*at).push(session)),
            Command::Poll { begins, at, .. } => {
                let all = self.begin(*at).push(self.shared.instance).push(self.shared.run);
                let all = all.push_ms(LEASE_LIFE).push(u8::from(*begins));
                add(&POLL, all.push(EVICTIONS_TOGETHER))
            }
            Command::OfAccount { account, at, .. } => add(&ACCOUNT, self.begin(*at).push(account)),
        }
    }

    fn claim(&self, claiming: &Claiming) -> Arguments {
        let Claiming { claimed, session, epoch, start, at, .. } = claiming;
        let (identity, used) = match &claimed.claim.credential {
            Credential::Token(identity) => (Some(&**identity), String::new()),
            Credential::Reconnect { session, seal } => {
                (None, token_text(self.keys.text(*session, *seal)))
            }
        };
        let nobody;
        let identity = match identity {
            Some(identity) => identity,
            None => {
                nobody = nobody_yet(*session);
                &nobody
            }
        };
        let all = self.live(identity, *session, *epoch, *start, *at);
        all.push(used).push_ms(claiming.rules.window)
    }

    fn keep(&self, held: &Held, at: u64) -> Arguments {
        let Held { identity, epoch, cursor } = held;
        self.live(identity, identity.session, *epoch, *cursor, at)
    }

    fn live(
        &self,
        identity: &Identity,
        session: SessionId,
        epoch: Epoch,
        cursor: Option<Position>,
        at: u64,
    ) -> Arguments {
        let SharedRules { instance, run, session_ttl, heartbeat_ttl, .. } = &self.shared;
        let token = token_text(self.keys.token(session, epoch));
        let all = self.begin(at).push(session).push(epoch.0).push(token);
        let all = all.push(instance).push(run);
        let all = all.push_standing(identity, Some(&identity.standing.tenant));
        let all =
            all.push(show_seconds(identity.issued_at)).push(show_seconds(identity.expires_at));
        all.push_cursor(cursor).push_ms(*session_ttl).push_ms(*heartbeat_ttl)
    }
}

/// What a reconnect token says of whom it belongs to.
fn nobody_yet(session: SessionId) -> Identity {
    let standing =
        Standing { tenant: "".into(), roles: Box::default(), authorizations: Box::default() };
    let standing = Arc::new(standing);
    Identity { session, account: None, standing, expires_at: None, issued_at: None }
}

fn token_text(token: corelane_shard::wire::reconnect_token::TokenText) -> String {
    String::from_utf8_lossy(&token).into_owned()
}

fn show_position(position: Position) -> String {
    format!("{}:{}", position.partition, position.offset)
}

fn show_seconds(at: Option<UnixSeconds>) -> String {
    at.map_or_else(String::new, |at| at.get().to_string())
}

fn read_position(text: &str) -> Option<Position> {
    let (partition, offset) = text.split_once(':')?;
    Some(Position { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
}

fn read_cursor(text: &str) -> Option<Cursor> {
    match text.strip_prefix('?') {
        Some(since) => read_position(since).map(Cursor::Unknown),
        None => read_position(text).map(Cursor::At),
    }
}

fn read_last(node: &str, run: &str, epoch: &str, foreign: &str) -> Option<Last> {
    let (node, run) = Uuid::parse_str(node).ok().zip(Uuid::parse_str(run).ok())?;
    let epoch = Epoch(epoch.parse().ok()?);
    Some(Last { node, run, epoch, foreign: Epoch(foreign.parse().unwrap_or(0)) })
}

/// Reads the replies to the calls of one command.
pub(super) fn decode(command: &Command, replies: Vec<Reply>) -> Result<Answer, Fault> {
    if let Command::Keep { .. } = command {
        let kept = |reply: Reply| match words(reply.ok()?).ok()?.as_slice() {
            [word] if word == "newer" => Some(Kept::Newer),
            [word] if word == "ended" => Some(Kept::Ended),
            [word] if word == "kept" || word == "written" => Some(Kept::Ours),
            _ => None,
        };
        return Ok(Answer::Kept(replies.into_iter().map(kept).collect()));
    }
    let reply = replies.into_iter().next().ok_or_else(meaningless)??;
    let words = words(reply)?;
    let read = match command {
        Command::Claim(claiming) => claim_answer(claiming, &words),
        Command::Cursors { .. } => {
            one(&words).and_then(|count| Some(Answer::Written { fenced: count.parse().ok()? }))
        }
        Command::Poll { .. } => poll_answer(&words),
        Command::OfAccount { .. } => Some(Answer::OfAccount(of_account(&words))),
        Command::End(_) => one(&words).map(|word| Answer::Ended { existed: word == "ended" }),
        Command::Find { .. } => one(&words).map(|word| Answer::Found(Uuid::parse_str(word).ok())),
        _ => one(&words).map(|word| Answer::Written { fenced: u64::from(word == "outdated") }),
    };
    read.ok_or_else(meaningless)
}

fn one(words: &[String]) -> Option<&String> {
    words.first()
}

/// A reply as texts, single ones as a list of one.
fn words(value: Value) -> Result<Vec<String>, Fault> {
    let list = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    let text = |value: Value| String::from_redis_value(value).map_err(|_| meaningless());
    list.into_iter().map(text).collect()
}

fn meaningless() -> Fault {
    Fault::Server("a reply that means nothing".into())
}

fn claim_answer(claiming: &Claiming, words: &[String]) -> Option<Answer> {
    match words {
        [word, why] if word == "refused" => Some(Answer::Refused(match why.as_str() {
            "revoked" => ClaimRefusal::Revoked,
            "mismatch" => ClaimRefusal::Mismatch,
            _ => ClaimRefusal::Unknown,
        })),
        [word, session, epoch] if word == "retry" => Some(Answer::Retry {
            session: session.parse().ok()?,
            epoch: Epoch(epoch.parse().ok()?),
        }),
        [word, session, existed, node, run, epoch, foreign, cursor, who @ .., older]
            if word == "granted" =>
        {
            let identity = match &claiming.claimed.claim.credential {
                Credential::Token(identity) => Arc::clone(identity),
                Credential::Reconnect { .. } => Arc::new(identity(session.parse().ok()?, who)?),
            };
            Some(Answer::Granted(Box::new(Found {
                identity,
                existed: existed == "1",
                last: read_last(node, run, epoch, foreign),
                cursor: read_cursor(cursor),
                older: older == "1",
            })))
        }
        _ => None,
    }
}

/// Account, tenant, roles, authorizations, and when the token was made and expires.
fn identity(session: SessionId, words: &[String]) -> Option<Identity> {
    let [account, tenant, roles, authorizations, issued, expires] = words else { return None };
    let seconds = |text: &String| text.parse().ok().and_then(UnixSeconds::new);
    let standing = Standing {
        tenant: tenant.as_str().into(),
        roles: sorted(serde_json::from_str(roles).ok()?),
        authorizations: sorted(serde_json::from_str(authorizations).ok()?),
    };
    Some(Identity {
        session,
        account: (!account.is_empty()).then(|| Account::from(account.as_str())),
        standing: Arc::new(standing),
        expires_at: seconds(expires),
        issued_at: seconds(issued),
    })
}

fn sorted(mut words: Vec<Box<str>>) -> Box<[Box<str>]> {
    words.sort_unstable();
    words.dedup();
    words.into()
}

fn poll_answer(words: &[String]) -> Option<Answer> {
    match words {
        [word] if word == "taken" => Some(Answer::Taken),
        [word, born, entries @ ..] if word == "held" => {
            let evictions = entries.iter().filter_map(|entry| eviction(entry)).collect();
            Some(Answer::Held { born: born.parse().ok()?, evictions })
        }
        _ => None,
    }
}

#[derive(Deserialize)]
struct EvictionEntry {
    sid: String,
    epoch: String,
    why: String,
    reason: Option<Box<str>>,
}

/// One that means nothing is passed over: it cannot be put back.
fn eviction(entry: &str) -> Option<Eviction> {
    let EvictionEntry { sid, epoch, why, reason } = serde_json::from_str(entry).ok()?;
    let why = match why.as_str() {
        "replaced" => Why::Replaced,
        "ended" => Why::Ended { reason },
        _ => return None,
    };
    Some(Eviction { session: sid.parse().ok()?, epoch: Epoch(epoch.parse().ok()?), why })
}

/// A session's record, as far as anybody wants to know it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SessionRecord {
    session_id: String,
    account_id: Option<String>,
    #[serde(default)]
    user_roles: Vec<Box<str>>,
    #[serde(default)]
    authorizations: Vec<Box<str>>,
}

/// Records, each followed by its tenant.
fn of_account(words: &[String]) -> Vec<Identity> {
    let (pairs, _) = words.as_chunks::<2>();
    let identity = |[record, tenant]: &[String; 2]| {
        let record: SessionRecord = serde_json::from_str(record).ok()?;
        let standing = Standing {
            tenant: if tenant.is_empty() { "default" } else { tenant }.into(),
            roles: sorted(record.user_roles),
            authorizations: sorted(record.authorizations),
        };
        Some(Identity {
            session: record.session_id.parse().ok()?,
            account: record.account_id.as_deref().map(Account::from),
            standing: Arc::new(standing),
            expires_at: None,
            issued_at: None,
        })
    };
    pairs.iter().filter_map(identity).collect()
}

/// How long another process that wants to be this node would find that there is one, if it asked.
const LEASE_LIFE: Duration = Duration::from_secs(10);
const EVICTIONS_TOGETHER: usize = 128;
