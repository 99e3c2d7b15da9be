//! What the process still does when its drain has ended, each within its time: other nodes are told,
//! sessions written, the bus and the collector of spans waited for.

use std::future::poll_fn;
use std::time::Duration;

use tracing::warn;

use super::Loop;
use crate::control::bus::EventBus;
use crate::control::port::{Bell, ShardPort};
use crate::control::store::SessionStore;

impl<P: ShardPort, B: Bell, S: SessionStore, E: EventBus> Loop<P, B, S, E> {
    pub(super) async fn say_good_bye(&mut self) {
        self.close_links().await;
        self.settle_store().await;
        self.finish_publishing().await;
        self.finish_exporting().await;
    }

    /// The other nodes are told that this one goes, as far as they read.
    async fn close_links(&mut self) {
        if let Some(registry) = self.registry.take() {
            registry.leave().await;
        }
        let (Some(nodes), Some(mut links)) = (self.core.nodes.take(), self.links.take()) else {
            return;
        };
        let mut nodes = nodes;
        nodes.shut_down(self.clock.now().mono);
        // With the last task its way to here ends.
        drop(nodes);
        let gone = async { while links.recv().await.is_some() {} };
        let _some_do_not_read = tokio::time::timeout(LINKS_CLOSE, gone).await;
    }

    /// What the last sessions left is written before the process ends, unless that takes too long.
    async fn settle_store(&mut self) {
        let until = tokio::time::Instant::now() + SETTLE_MAX;
        while self.core.store.is_unsettled() && tokio::time::Instant::now() < until {
            let wait = SETTLE_MAX / 100;
            let news = poll_fn(|context| self.core.store.poll_news(context));
            let _news_or_time = tokio::time::timeout(wait, news).await;
            self.core.keep_sessions(self.clock.now());
        }
    }

    /// What is on its way to the bus gets there before the process ends, as far as the drain's time
    /// reaches.
    async fn finish_publishing(&mut self) {
        let now = self.clock.now().mono;
        let time = self.core.ends_by().map_or(Duration::ZERO, |end| end.since(now));
        let flushed = poll_fn(|context| self.core.bus.poll_flushed(context));
        if tokio::time::timeout(time, flushed).await.is_err() {
            warn!("the bus did not take the last records in time");
        }
    }

    /// The last spans leave before the process does, as far as the drain's time reaches.
    async fn finish_exporting(&mut self) {
        self.core.spans = None;
        if let Some(exporter) = self.exporter.take() {
            let now = self.clock.now().mono;
            exporter.finish(self.core.ends_by().map_or(Duration::ZERO, |end| end.since(now))).await;
        }
    }
}

const LINKS_CLOSE: Duration = Duration::from_secs(1);
/// For the last writes of the session store.
const SETTLE_MAX: Duration = Duration::from_secs(1);
