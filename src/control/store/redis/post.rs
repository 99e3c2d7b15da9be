//! Carries commands to Redis: those of one turn leave together, and no others until they are answered.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use corelane_shard::wire::reconnect_token::ReconnectKeys;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::command::{Command, News};
use super::wire::{self, decode};
use super::{Courier, SharedRules};
use crate::control::redis::{Batch, Redis, Status};

/// A task that talks to Redis, and the queues between.
#[derive(Debug)]
pub struct Post {
    commands: mpsc::Sender<Command>,
    /// One for each command at most, and one for each connection.
    news: mpsc::UnboundedReceiver<News>,
    /// Taken while somebody waited for them.
    heard: VecDeque<News>,
    carrier: JoinHandle<()>,
}

impl Post {
    /// To be called within the control core's runtime. While there is no connection at first,
    /// commands wait for as long as one may take.
    #[must_use]
    pub fn start(redis: Redis, server_salt: &str, shared: SharedRules, patience: Duration) -> Self {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (tell, news) = mpsc::unbounded_channel();
        let prefix = format!("{}connect:", redis.prefix());
        let keys = ReconnectKeys::from_salt(server_salt);
        let context = wire::Context { keys, shared, prefix };
        let carrier = tokio::spawn(carry(redis, context, queue, tell, patience));
        Self { commands, news, heard: VecDeque::new(), carrier }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

impl Courier for Post {
    fn send(&mut self, command: Command) -> Result<(), Command> {
        self.commands.try_send(command).map_err(mpsc::error::TrySendError::into_inner)
    }

    fn news(&mut self) -> Option<News> {
        self.heard.pop_front().or_else(|| self.news.try_recv().ok())
    }

    fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.heard.is_empty() {
            return Poll::Ready(());
        }
        match self.news.poll_recv(context) {
            Poll::Ready(Some(news)) => {
                self.heard.push_back(news);
                Poll::Ready(())
            }
            // Without the carrier nothing will ever come.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

async fn carry(
    redis: Redis,
    context: wire::Context,
    mut queue: mpsc::Receiver<Command>,
    tell: mpsc::UnboundedSender<News>,
    patience: Duration,
) {
    let mut watch = redis.watch();
    if watch.status() == Status::Down {
        // Whether it came or not is told below.
        let _in_time = tokio::time::timeout(patience, watch.changed()).await;
    }
    let mut said = None;
    loop {
        let status = watch.status();
        if said != Some(status) {
            said = Some(status);
            let news = match status {
                Status::Down => News::Disconnected,
                Status::Up(_) => News::Connected,
            };
            if tell.send(news).is_err() {
                return;
            }
        }
        let command = tokio::select! {
            biased;
            () = watch.changed() => continue,
            command = queue.recv() => command,
        };
        let Some(command) = command else { return };
        let mut commands = vec![command];
        while commands.len() < TOGETHER_MAX
            && let Ok(command) = queue.try_recv()
        {
            commands.push(command);
        }
        for news in ask(&redis, &context, commands).await {
            if tell.send(news).is_err() {
                return;
            }
        }
    }
}

async fn ask(redis: &Redis, context: &wire::Context, commands: Vec<Command>) -> Vec<News> {
    let mut batch = Batch::default();
    let counts: Vec<usize> =
        commands.iter().map(|command| context.encode(command, &mut batch)).collect();
    let mut outcome = redis.run(&batch).await.map(|replies| replies.into_iter());
    let answered = |(command, count): (Command, usize)| {
        let answer = match &mut outcome {
            Ok(replies) => decode(&command, replies.by_ref().take(count).collect()),
            Err(fault) => Err(fault.clone()),
        };
        News::Answered(command, answer)
    };
    commands.into_iter().zip(counts).map(answered).collect()
}

/// Commands that wait; of more, claims are refused.
const COMMANDS_MAX: usize = 4096;
/// Of these, what leaves at once: a pipeline that takes too long is given up as a whole.
const TOGETHER_MAX: usize = 256;
