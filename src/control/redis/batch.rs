//! Calls that leave together, and scripts, which the server may have forgotten.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, ToRedisArgs, Value};
use sha1::{Digest as _, Sha1};

use super::Fault;

/// What one call is answered.
pub type Reply = Result<Value, Fault>;

/// A Lua script, called by its digest and loaded when the server does not have it.
#[derive(Debug)]
pub struct Script {
    /// Metric label.
    pub name: &'static str,
    text: &'static str,
    digest: LazyLock<String, fn() -> String>,
}

/// Declares a static [`Script`].
macro_rules! script {
    ($(#[$doc:meta])* $visible:vis static $Name:ident = $label:literal, $text:expr;) => {
        $(#[$doc])*
        $visible static $Name: $crate::control::redis::Script =
            $crate::control::redis::Script::new($label, $text, || {
                $crate::control::redis::Script::digest_of($text)
            });
    };
}
pub(in crate::control) use script;

impl Script {
    pub const fn new(name: &'static str, text: &'static str, digest: fn() -> String) -> Self {
        Self { name, text, digest: LazyLock::new(digest) }
    }

    /// As the server names a script.
    #[must_use]
    pub fn digest_of(text: &str) -> String {
        Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Calls in the order in which they are to be made.
#[derive(Debug, Default)]
pub struct Batch(Vec<Call>);

#[derive(Debug)]
struct Call {
    kind: &'static str,
    command: Cmd,
    script: Option<&'static Script>,
}

impl Batch {
    /// `kind` is a metric label.
    pub fn command(&mut self, kind: &'static str, command: Cmd) {
        self.0.push(Call { kind, command, script: None });
    }

    /// Calls a script, which finds everything in `ARGV`.
    pub fn script<A: ToRedisArgs>(
        &mut self,
        script: &'static Script,
        arguments: impl IntoIterator<Item = A>,
    ) {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.digest.as_str()).arg(0);
        arguments.into_iter().for_each(|argument| {
            command.arg(argument);
        });
        self.0.push(Call { kind: script.name, command, script: Some(script) });
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|call| call.kind)
    }

    pub(super) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<Reply>, Fault> {
        let mut replies = send(connection, self.0.iter().map(|call| &call.command)).await?;
        let unknown: Vec<usize> =
            (0..replies.len()).filter(|at| matches!(replies[*at], Err(Fault::NoScript))).collect();
        if unknown.is_empty() {
            return Ok(replies);
        }
        // Loaded and called again in one go; none of them has done anything yet.
        let scripts: BTreeMap<&str, &Script> = unknown
            .iter()
            .filter_map(|at| self.0[*at].script)
            .map(|script| (script.name, script))
            .collect();
        let loads: Vec<Cmd> = scripts.values().map(|script| load(script)).collect();
        let again = unknown.iter().map(|at| &self.0[*at].command);
        let second = send(connection, loads.iter().chain(again)).await?;
        for (at, reply) in unknown.into_iter().zip(second.into_iter().skip(loads.len())) {
            replies[at] = reply;
        }
        Ok(replies)
    }
}

fn load(script: &Script) -> Cmd {
    let mut command = redis::cmd("SCRIPT");
    command.arg("LOAD").arg(script.text);
    command
}

async fn send(
    connection: &mut MultiplexedConnection,
    commands: impl Iterator<Item = &Cmd>,
) -> Result<Vec<Reply>, Fault> {
    let mut pipeline = Pipeline::new();
    commands.for_each(|command| {
        pipeline.add_command(command.clone());
    });
    let count = pipeline.len();
    let values = connection.send_packed_commands(&pipeline, 0, count).await?;
    let replies: Vec<Reply> = values
        .into_iter()
        .map(|value| match value {
            Value::ServerError(error) => Err(Fault::from(&error)),
            value => Ok(value),
        })
        .collect();
    if replies.len() == count { Ok(replies) } else { Err(Fault::Unreachable) }
}
