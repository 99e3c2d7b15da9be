//! The way of a span out of the process: a bounded queue from the shards' lanes, and a task that
//! posts batches of it to a collector. Whatever the collector does, all it costs is spans.

mod otlp;
mod post;

use std::sync::Arc;
use std::time::Duration;

use corelane_shard::id::ShardId;
use corelane_shard::lane::Span;
use corelane_shard::snapshot::Snapshot;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use self::otlp::Batch;
use self::post::{Delivery, Post, PostError};
use super::probe::{ControlProbe, SpanDrop};

/// Where the spans of a process go, and what it calls itself there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanExport {
    /// URL of the collector's traces.
    pub collector: String,
    /// This process among its like.
    pub instance: String,
}

/// A span with what its names are looked up in.
#[derive(Debug)]
struct Queued {
    shard: ShardId,
    span: Box<Span>,
    snapshot: Arc<Snapshot>,
}

/// The control core's end: takes spans as they come from the lanes and never waits.
#[derive(Debug)]
pub(super) struct SpanQueue {
    queue: mpsc::Sender<Queued>,
    probe: Arc<ControlProbe>,
}

impl SpanQueue {
    /// `snapshot` is the newest: it knows everything that a shard may name.
    pub(super) fn put(&self, shard: ShardId, span: Box<Span>, snapshot: &Arc<Snapshot>) {
        let queued = Queued { shard, span, snapshot: Arc::clone(snapshot) };
        if self.queue.try_send(queued).is_err() {
            self.probe.span_dropped(SpanDrop::QueueFull, 1);
        }
    }
}

/// The task that posts. It ends with its queue.
#[derive(Debug)]
pub(super) struct Exporter(JoinHandle<()>);

impl Exporter {
    /// Starts the task on the present runtime.
    pub(super) fn start(export: &SpanExport, probe: Arc<ControlProbe>) -> (SpanQueue, Self) {
        let (queue, spans) = mpsc::channel(QUEUE_SPANS);
        let task = Task {
            spans,
            post: Post::new(&export.collector),
            export: export.clone(),
            health: Health::Unknown,
            probe: Arc::clone(&probe),
        };
        (SpanQueue { queue, probe }, Self(tokio::spawn(task.run())))
    }

    /// After the queue is gone: what it held is posted, if that does not take long.
    pub(super) async fn finish(self, within: Duration) {
        if timeout(within.min(LAST_POST), self.0).await.is_err() {
            warn!("the collector did not take the last spans in time");
        }
    }
}

struct Task {
    spans: mpsc::Receiver<Queued>,
    post: Post,
    export: SpanExport,
    health: Health,
    probe: Arc<ControlProbe>,
}

/// What is known of the collector: a line is logged when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Unknown,
    Good,
    Bad,
}

impl Task {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_SPANS);
        while self.gather(&mut batch).await {
            let body = Batch { instance: &self.export.instance, spans: &batch }.to_json();
            let spans = batch.len() as u64;
            batch.clear();
            let outcome = self.deliver(&body).await;
            self.conclude(spans, outcome);
        }
    }

    /// Waits for a span and, for a while, for company. `false` when none will come any more.
    async fn gather(&mut self, batch: &mut Vec<Queued>) -> bool {
        if self.spans.recv_many(batch, BATCH_SPANS).await == 0 {
            return false;
        }
        let until = Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_SPANS {
            let more = self.spans.recv_many(batch, BATCH_SPANS - batch.len());
            // Time is up, or the queue is gone.
            if timeout_at(until, more).await.unwrap_or(0) == 0 {
                break;
            }
        }
        true
    }

    /// Twice at most, and the second time only if that could help.
    async fn deliver(&self, body: &[u8]) -> Result<Delivery, PostError> {
        match self.attempt(body).await {
            Err(error) if error.is_passing() => {
                sleep(RETRY_PAUSE).await;
                self.attempt(body).await
            }
            outcome => outcome,
        }
    }

    async fn attempt(&self, body: &[u8]) -> Result<Delivery, PostError> {
        let outcome = timeout(POST_TIMEOUT, self.post.send(body.to_vec())).await;
        let outcome = outcome.unwrap_or(Err(PostError::Slow));
        if outcome.is_err() {
            self.probe.span_export_failures.increment();
        }
        outcome
    }

    fn conclude(&mut self, spans: u64, outcome: Result<Delivery, PostError>) {
        let before = self.health;
        match outcome {
            Ok(Delivery { rejected, complaint }) => {
                let rejected = rejected.min(spans);
                self.probe.spans_exported.add(spans - rejected);
                self.probe.span_dropped(SpanDrop::Rejected, rejected);
                self.health = if rejected == 0 { Health::Good } else { Health::Bad };
                if self.health != before {
                    let collector = &self.export.collector;
                    match self.health {
                        Health::Bad => {
                            warn!(%collector, rejected, ?complaint, "spans are rejected")
                        }
                        _ => info!(%collector, "the collector takes spans"),
                    }
                }
            }
            Err(reason) => {
                self.health = Health::Bad;
                let drop =
                    if reason.is_passing() { SpanDrop::CollectorDown } else { SpanDrop::Rejected };
                self.probe.span_dropped(drop, spans);
                if before != Health::Bad {
                    let collector = &self.export.collector;
                    warn!(%collector, %reason, "spans are dropped until the collector takes them");
                }
            }
        }
    }
}

/// Spans that wait for the collector. About 100 bytes each.
const QUEUE_SPANS: usize = 4096;
const BATCH_SPANS: usize = 512;
/// How long the first span of a batch waits for company.
const BATCH_WAIT: Duration = Duration::from_secs(1);
const POST_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// For what is left when everything else has ended.
const LAST_POST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
