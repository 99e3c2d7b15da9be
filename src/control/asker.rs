//! A handler's way to the control core: one question, one answer, and not waiting for ever.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ask::{Ask, Asking, Described, NoSession};
use super::problem::Problem;
use axum::http::StatusCode;
use corelane_shard::id::SessionId;

/// Cheap to clone; one for each listener.
#[derive(Debug, Clone)]
pub(super) struct Asker(Asking);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Unanswered {
    #[error("too many requests wait for the control core")]
    Busy,
    #[error("the control core does not answer: a shard does not keep up, or the process ends")]
    Silent,
}

impl Asker {
    pub(super) fn new(asking: Asking) -> Self {
        Self(asking)
    }

    pub(super) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(question(answer)).map_err(|_| Unanswered::Busy)?;
        let answered = timeout(ANSWER_MAX, answered).await.map_err(|_| Unanswered::Silent)?;
        answered.map_err(|_| Unanswered::Silent)
    }

    /// As [`Self::ask`], where the control core itself sees to it that there is an answer in time.
    pub(super) async fn ask_patiently<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(question(answer)).map_err(|_| Unanswered::Busy)?;
        answered.await.map_err(|_| Unanswered::Silent)
    }

    /// All that is known of a session, if it has a connection here.
    pub(super) async fn find(
        &self,
        session: SessionId,
    ) -> Result<Option<Box<Described>>, Unanswered> {
        let described = self.ask(|answer| Ask::Describe { session, answer }).await?;
        Ok(described.ok())
    }

    /// As [`Self::find`]; 404 if it has none.
    pub(super) async fn describe(&self, session: SessionId) -> Result<Box<Described>, Problem> {
        self.find(session).await?.ok_or_else(|| no_session(session))
    }
}

/// 404.
pub(super) fn no_session(session: SessionId) -> Problem {
    let detail = format!("session {session}: {NoSession}");
    Problem::new(StatusCode::NOT_FOUND, detail, "look it up by its account; it may have ended")
}

impl From<Unanswered> for Problem {
    fn from(why: Unanswered) -> Self {
        Self::overloaded(why.to_string())
    }
}

const ANSWER_MAX: Duration = Duration::from_secs(5);
