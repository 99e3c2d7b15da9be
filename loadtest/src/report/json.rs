//! The outcome as a JSON file: everything, so that it can be merged, compared and drawn again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::WriteError;
use crate::outcome::{FORMAT, Outcome};

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is no result of a run: {source}")]
    Content { path: PathBuf, source: serde_json::Error },
    #[error("{path} is of format {found}, and this version reads format {FORMAT}")]
    Format { path: PathBuf, found: u32 },
}

/// All that may be known of a file whose format is another.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// Reads what `write_all` wrote as `result.json`.
pub fn read(path: &Path) -> Result<Outcome, ReadError> {
    let content = fs::read(path).map_err(|source| ReadError::File { path: path.into(), source })?;
    let refused = |source| ReadError::Content { path: path.into(), source };
    let head: Head = serde_json::from_slice(&content).map_err(refused)?;
    if head.format != FORMAT {
        return Err(ReadError::Format { path: path.into(), found: head.format });
    }
    serde_json::from_slice(&content).map_err(refused)
}

pub(super) fn text(outcome: &Outcome) -> Result<Vec<u8>, WriteError> {
    let mut text = serde_json::to_vec_pretty(outcome)
        .map_err(|error| WriteError::Form { what: "the outcome", cause: error.to_string() })?;
    text.push(b'\n');
    Ok(text)
}
