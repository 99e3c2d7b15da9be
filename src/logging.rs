//! The process's log: one line per event of the lifecycle, for people or for machines.

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::reload;

use crate::config::{Log, LogFormat, LogLevel};

/// From the least to the most that is written.
pub const LEVELS: [LogLevel; 4] =
    [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];

/// The log of this process, once there is one.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    level: Mutex<LogLevel>,
    filter: Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

/// Why the level stays as it is.
#[derive(Debug, Error)]
pub enum LevelError {
    #[error("the log of this process is not the gateway's own")]
    NotInstalled,
    #[error("the log does not take another level: {0}")]
    Refused(#[from] reload::Error),
}

/// Installs the log; a second call changes nothing.
pub fn install(log: &Log) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(log.level))
        .with_timer(SystemTime)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Refused when a log is installed already, which then stays.
    match log.format {
        LogFormat::Human => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                keep(log.level, move |filter| handle.reload(filter));
            }
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                keep(log.level, move |filter| handle.reload(filter));
            }
        }
    }
}

fn keep(
    level: LogLevel,
    filter: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
) {
    let installed = Installed { level: Mutex::new(level), filter: Box::new(filter) };
    // Whoever comes second was refused as the log already.
    drop(INSTALLED.set(installed));
}

/// What is written at present; `None` when the log is somebody else's.
pub fn level() -> Option<LogLevel> {
    let installed = INSTALLED.get()?;
    Some(*installed.level.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Writes what is at least as severe from here on.
pub fn set_level(level: LogLevel) -> Result<(), LevelError> {
    let installed = INSTALLED.get().ok_or(LevelError::NotInstalled)?;
    let mut present = installed.level.lock().unwrap_or_else(PoisonError::into_inner);
    (installed.filter)(filter(level))?;
    *present = level;
    Ok(())
}

/// As the configuration writes it.
#[must_use]
pub fn word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    }
}

#[must_use]
pub fn by_word(text: &str) -> Option<LogLevel> {
    LEVELS.into_iter().find(|level| word(*level).eq_ignore_ascii_case(text))
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(word(level))
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installed").field("level", &self.level).finish_non_exhaustive()
    }
}
