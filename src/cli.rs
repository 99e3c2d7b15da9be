//! The command line: what the operator, the load tester and the developer type.

mod call;
mod check;
mod frame;
pub(crate) mod output;
pub(crate) mod token;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;
use tracing::field::{debug, display};

use crate::config::{self, Config, ConfigSource, LoadError, Refused};
use crate::control::Exit;
use crate::{dev, gateway, logging};

/// WebSocket edge gateway for games, one thread per core.
#[derive(Debug, Parser)]
#[command(name = "corelane", disable_version_flag = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(ServeArgs),
    /// Run gateway, demo backend and a token in one process, for development.
    Dev(DevArgs),
    /// Check a configuration: problems, memory, and which keys a reload can change.
    Check(ConfigArgs),
    /// Print things about the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make or read tokens.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Connect as a client, print what may be called, and call it.
    Call(CallArgs),
    /// Connect as a client, stay, and print what comes.
    Listen(ListenArgs),
    /// Explain frames.
    Frame {
        #[command(subcommand)]
        command: FrameCommand,
    },
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// A complete corelane.toml: every key, its default and what it does.
    Defaults,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print tokens that the configured gateway accepts, one a line.
    Mint(MintArgs),
    /// Print header and claims of a token, without verifying it.
    Inspect {
        /// The token; `-` reads standard input.
        token: String,
    },
}

#[derive(Debug, Subcommand)]
enum FrameCommand {
    /// Explain one frame: 31- or 16-byte header, with or without a WebSocket frame around it.
    Decode {
        /// Hexadecimal bytes; standard input if left out.
        hex: Option<String>,
    },
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "CORELANE_CONFIG")]
    config: PathBuf,
    /// Set one key, stronger than file and environment: `--set limits.fragments_max=8`.
    #[arg(long, value_name = "TABLE.KEY=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Number of shards (shards.count).
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Addresses to listen on, separated by commas (listen.public.address).
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

/// Arguments of `corelane dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Number of shards.
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Public port; 8080 if left out, 0 for any that is free.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Serve wss:// too, on the port above the public one, or 8443; says how to trust its certificate.
    #[arg(long)]
    pub tls: bool,
    /// Print address, token and endpoints as one line of JSON.
    #[arg(long)]
    pub json: bool,
    /// The demo service answers, and pushes nothing by itself: for load and for counting messages.
    #[arg(long)]
    pub quiet: bool,
    /// Keep configuration and keys in this folder.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct MintArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Account, the token's `sub`; random if left out.
    #[arg(long)]
    account: Option<String>,
    /// Session, a UUID with or without hyphens; random if left out.
    #[arg(long)]
    session: Option<String>,
    /// Roles.
    #[arg(long, value_name = "ROLE", default_value = "user", value_delimiter = ',')]
    role: Vec<String>,
    /// How many tokens, each of a session and account of its own unless given.
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u32,
    /// How long they are valid.
    #[arg(long, default_value = "1h", value_parser = parse_time)]
    ttl: Duration,
    /// Sign with the [[auth.key]] of this id; the first that can sign if left out.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
}

#[derive(Debug, Args)]
struct ListenArgs {
    /// The gateway, such as ws://127.0.0.1:8080.
    url: String,
    /// The token. Other users see arguments: better give it as CORELANE_TOKEN.
    #[arg(long, env = "CORELANE_TOKEN", hide_env_values = true)]
    token: String,
    /// The payload of the answer to each RPC.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    answer: String,
}

#[derive(Debug, Args)]
struct CallArgs {
    /// The gateway, such as ws://127.0.0.1:8080.
    url: String,
    /// The token. Other users see arguments: better give it as CORELANE_TOKEN.
    #[arg(long, env = "CORELANE_TOKEN", hide_env_values = true)]
    token: String,
    /// What to call: `/path` or `service:/path`. Without it the manifest is printed.
    endpoint: Option<String>,
    /// The payload.
    #[arg(default_value = "{}")]
    payload: String,
    #[arg(long, default_value_t = 0)]
    channel: u16,
    /// Give up after this time, for the connection, the manifest and the answer each.
    #[arg(long, default_value = "30s", value_parser = parse_time)]
    timeout: Duration,
}

/// Why the process ends with a status other than 0.
#[derive(Debug, Error)]
pub enum Failure {
    /// 64: the command or the configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// 64, with every problem of the configuration.
    #[error(transparent)]
    Config(#[from] Refused),
    /// 69: something outside this process is missing or refuses.
    #[error("{0}")]
    Unavailable(String),
    /// 70: a bug or a broken machine.
    #[error("{0}")]
    Internal(String),
}

impl Failure {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => 64,
            Self::Unavailable(_) => 69,
            Self::Internal(_) => 70,
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Refused(refused) => Self::Config(refused),
            LoadError::Unreadable { .. } => Self::Usage(error.to_string()),
        }
    }
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            output::notice(error.render().to_string().trim_end());
            return ExitCode::from(64);
        }
        Err(help) => {
            output::line(help.render().to_string().trim_end());
            return ExitCode::SUCCESS;
        }
    };
    match run(cli.command) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            let code = failure.exit_code();
            output::failure(failure);
            ExitCode::from(code)
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    let done = match command {
        Command::Serve(args) => {
            let source = args.source();
            let config = source.load()?;
            return start(Start::Serve { config: Box::new(config), source });
        }
        Command::Dev(args) => return start(Start::Dev(args)),
        Command::Check(args) => check::run(&args.source()),
        Command::Config { command: ConfigCommand::Defaults } => {
            output::line(config::defaults_file().trim_end());
            Ok(())
        }
        Command::Token { command: TokenCommand::Mint(args) } => token::mint(&args),
        Command::Token { command: TokenCommand::Inspect { token } } => token::inspect(&token),
        Command::Call(args) => call::run(&args),
        Command::Listen(args) => call::listen::run(&args),
        Command::Frame { command: FrameCommand::Decode { hex } } => frame::run(hex),
        Command::Version => {
            output::line(concat!("corelane ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    };
    done.map(|()| Exit::Drained)
}

/// The commands that start the gateway.
enum Start {
    /// `source` stays with the gateway: a reload loads it again.
    Serve {
        config: Box<Config>,
        source: ConfigSource,
    },
    Dev(DevArgs),
}

/// The one place where the command line hands over to the gateway.
fn start(what: Start) -> Result<Exit, Failure> {
    match what {
        Start::Serve { config, source } => serve(*config, source),
        Start::Dev(args) => dev::run(&args),
    }
}

fn serve(config: Config, source: ConfigSource) -> Result<Exit, Failure> {
    logging::install(&config.log);
    let announce = |ready: &gateway::Ready| {
        let gateway::Ready { public, tls, admin, internal, endpoint_meta, .. } = ready;
        let tls = (!tls.is_empty()).then(|| debug(tls));
        let [internal, endpoint_meta] = [internal, endpoint_meta].map(|it| it.map(display));
        tracing::info!(?public, tls, internal, endpoint_meta, %admin, "serving");
    };
    gateway::run(config, source, announce).map_err(|error| Failure::Unavailable(error.to_string()))
}

impl ConfigArgs {
    fn source(&self) -> ConfigSource {
        ConfigSource { path: Some(self.config.clone()), flags: self.set.clone() }
    }
}

impl ServeArgs {
    fn source(&self) -> ConfigSource {
        let mut source = self.config.source();
        let mut flag = |key: &str, value: String| source.flags.push((key.to_owned(), value));
        if let Some(shards) = self.shards {
            flag("shards.count", shards.to_string());
        }
        if let Some(listen) = &self.listen {
            flag("listen.public.address", listen.clone());
        }
        source
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected TABLE.KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).ok_or_else(|| "expected a duration such as 30s or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_serve_are_settings_of_keys() {
        let words = ["corelane", "serve", "-c", "f", "--shards", "2", "--set", "echo.enabled=true"];
        let Command::Serve(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("serve was asked for")
        };
        let source = args.source();
        let flag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(source.flags, [flag("echo.enabled", "true"), flag("shards.count", "2")]);
    }

    #[test]
    fn every_failure_has_the_status_of_its_side() {
        let text = || "x".to_owned();
        assert_eq!(Failure::Usage(text()).exit_code(), 64);
        assert_eq!(Failure::Unavailable(text()).exit_code(), 69);
        assert_eq!(Failure::Internal(text()).exit_code(), 70);
    }
}
