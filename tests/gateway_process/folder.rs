//! A folder of a test's own, removed with everything in it when the test ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    #[must_use]
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("corelane-test-");
        Self(folder.unwrap_or_else(|error| panic!("no folder for a test: {error}")))
    }

    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Opens the folder to all users and puts a copy of `binary` there, since the one that cargo
    /// built may lie behind a folder that they cannot enter. Returns the copy's path.
    #[must_use]
    pub(crate) fn share_with_everybody(&self, binary: &Path) -> String {
        let copy = self.path().join("corelane");
        // A link would do, but not across file systems.
        fs::copy(binary, &copy).expect("the binary can be copied");
        fs::set_permissions(self.path(), Permissions::from_mode(0o755))
            .expect("the folder is ours");
        for entry in fs::read_dir(self.path()).expect("the folder is ours").flatten() {
            let mode = if entry.path() == copy { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))
                .expect("the file is ours");
        }
        copy.to_string_lossy().into_owned()
    }
}
