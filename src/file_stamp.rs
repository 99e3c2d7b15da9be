//! What tells that a watched file may have changed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Changes whenever the content of a file may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// `None` where no file can be seen. Follows symbolic links, so that exchanging a link counts as a
    /// change.
    pub(crate) fn of(file: &Path) -> Option<Self> {
        let status = fs::metadata(file).ok()?;
        Some(Self {
            device: status.dev(),
            inode: status.ino(),
            size: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        })
    }
}
