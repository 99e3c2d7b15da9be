//! Asking the auth service about tokens: one request each, a circuit breaker before all of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{ConnectionKey, ShardId};
use corelane_shard::identity::{AuthRefusal, Validated};
use corelane_shard::snapshot::BreakerLimits;
use corelane_shard::upstream::breaker::{Breaker, Pass, Standing};
use http_body_util::Full;
use hyper::Request;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::probe::{ControlProbe, ValidationOutcome};
use super::turn::Question;
use super::web::{Response, WebClient, WebError};
use crate::auth::{Told, understand};

/// Where the auth service is, and how long it is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationRules {
    pub url: String,
    pub timeout: Duration,
    pub breaker: BreakerLimits,
}

impl ValidationRules {
    pub(super) fn is_https(&self) -> bool {
        self.url.starts_with("https:")
    }
}

/// Questions to the auth service that are under way; as many as the shards let clients wait for.
pub(super) struct Validations {
    rules: Arc<ValidationRules>,
    web: WebClient,
    breaker: Breaker,
    tasks: JoinSet<Answer>,
    probe: Arc<ControlProbe>,
}

/// What became of a question; [`Validations::conclude`] says what it means.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) shard: ShardId,
    pub(super) key: ConnectionKey,
    pass: Pass,
    response: Result<Response, WebError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Waits,
    /// The service is not asked at present.
    Refused,
}

impl Validations {
    pub(super) fn new(rules: ValidationRules, web: WebClient, probe: Arc<ControlProbe>) -> Self {
        let (rules, breaker) = (Arc::new(rules), Breaker::new());
        Self { rules, web, breaker, tasks: JoinSet::new(), probe }
    }

    pub(super) fn ask(&mut self, question: Question, now: Instant) -> Asked {
        let Question { shard, key, token } = question;
        let Some(pass) = self.breaker.admit(now, &self.rules.breaker) else {
            self.probe.validated(ValidationOutcome::BreakerOpen);
            return Asked::Refused;
        };
        let (web, rules) = (self.web.clone(), Arc::clone(&self.rules));
        self.tasks.spawn(async move {
            let response = post(&web, &rules, &token).await;
            Answer { shard, key, pass, response }
        });
        Asked::Waits
    }

    /// Cancel safe. Waits for ever while nothing is asked.
    pub(super) async fn next(&mut self) -> Answer {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(answer)) => return answer,
                // A task neither is cancelled nor outlives a panic of its own.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    pub(super) fn conclude(
        &mut self,
        answer: Answer,
        now: Now,
    ) -> Result<Box<Validated>, AuthRefusal> {
        use ValidationOutcome as Outcome;
        let (outcome, told) = match answer.response {
            Err(WebError::Unreachable(_)) => (Outcome::Unreachable, Err(AuthRefusal::Unavailable)),
            Err(WebError::TimedOut(_)) => (Outcome::TimedOut, Err(AuthRefusal::Unavailable)),
            Err(WebError::TooLong(_)) => (Outcome::Malformed, Err(AuthRefusal::Unavailable)),
            Ok(Response { status, ref body }) => match understand(status, body, now.unix_ms) {
                Told::Accepted(validated) => (Outcome::Accepted, Ok(validated)),
                Told::Refused => (Outcome::Refused, Err(AuthRefusal::NotAccepted)),
                Told::ServerError => (Outcome::ServerError, Err(AuthRefusal::Unavailable)),
                Told::Malformed => (Outcome::Malformed, Err(AuthRefusal::Unavailable)),
            },
        };
        self.probe.validated(outcome);
        let before = self.breaker.standing();
        if matches!(told, Err(AuthRefusal::Unavailable)) {
            self.breaker.failed(answer.pass, now.mono, &self.rules.breaker);
        } else {
            self.breaker.succeeded(answer.pass);
        }
        self.log_change(before, &answer.response);
        told
    }

    /// One line when it is given up, one when it is well again.
    fn log_change(&self, before: Standing, response: &Result<Response, WebError>) {
        let url = self.rules.url.as_str();
        match (before, self.breaker.standing()) {
            (Standing::Closed, Standing::Open) => {
                let reason = match response {
                    Ok(response) => format!("it answers with status {}", response.status),
                    Err(error) => error.to_string(),
                };
                warn!(url, reason, "auth service not asked for a while");
            }
            (Standing::Open | Standing::HalfOpen, Standing::Closed) => {
                info!(url, "auth service well again");
            }
            _ => {}
        }
    }
}

async fn post(web: &WebClient, rules: &ValidationRules, token: &str) -> Result<Response, WebError> {
    let request = Request::post(rules.url.as_str())
        .header("Authorization", format!("Bearer {token}"))
        .header("Content-Type", "application/json; charset=utf-8")
        .header("Content-Length", "0")
        .body(Full::new(Bytes::new()))
        .map_err(|error| WebError::Unreachable(error.to_string()))?;
    web.ask(request, BODY_BYTES_MAX, rules.timeout).await
}

/// An account with very many roles needs a few KiB.
const BODY_BYTES_MAX: usize = 64 << 10;
