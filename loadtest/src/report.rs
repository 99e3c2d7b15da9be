//! What is written of an outcome, and where: one file for machines, three for plotting tools, one
//! for people. What goes to the terminal is in `console` and `summary`; nothing here judges.

mod chart;
pub mod console;
mod facts;
mod figure;
mod html;
mod interval_log;
mod json;
mod percentiles;
mod summary;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::outcome::Outcome;

pub use html::page;
pub use interval_log::interval_log;
pub use json::{ReadError, read};
pub use percentiles::percentile_distribution;
pub use summary::summary;

/// Where `write_all` put everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The whole outcome, to be read by `read`.
    pub result: PathBuf,
    /// Percentile distribution of the latency from the intended send.
    pub latency: PathBuf,
    /// Percentile distribution of the latency from the actual send.
    pub latency_from_send: PathBuf,
    /// HdrHistogram interval log of the latency from the intended send.
    pub intervals: PathBuf,
    /// For people; needs no other file.
    pub page: PathBuf,
}

#[derive(Debug, Error)]
pub enum WriteError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{what} cannot be written down: {cause}")]
    Form { what: &'static str, cause: String },
}

/// Writes all files into `folder`, which is made if it is not there.
pub fn write_all(outcome: &Outcome, folder: &Path) -> Result<Written, WriteError> {
    fs::create_dir_all(folder)
        .map_err(|source| WriteError::File { path: folder.to_owned(), source })?;
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        match fs::write(&path, content) {
            Ok(()) => Ok(path),
            Err(source) => Err(WriteError::File { path, source }),
        }
    };
    let latency = &outcome.latency;
    Ok(Written {
        result: write("result.json", &json::text(outcome)?)?,
        latency: write("latency.hgrm", percentile_distribution(&latency.from_intended).as_bytes())?,
        latency_from_send: write(
            "latency-from-send.hgrm",
            percentile_distribution(&latency.from_send).as_bytes(),
        )?,
        intervals: write("intervals.hlog", &interval_log(outcome)?)?,
        page: write("report.html", page(outcome)?.as_bytes())?,
    })
}

#[cfg(test)]
mod tests;
