//! A folder of a test's own, removed with everything in it when the test ends.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("corelane-test-{}-{number}", process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Opens the folder to all users and puts a copy of `binary` there, since the one that cargo
    /// built may lie behind a folder that they cannot enter. Returns the copy's path.
    #[must_use]
    pub fn share_with_everybody(&self, binary: &Path) -> String {
        let copy = self.0.join("corelane");
        // A link would do, but not across file systems.
        fs::copy(binary, &copy).expect("the binary can be copied");
        fs::set_permissions(&self.0, Permissions::from_mode(0o755)).expect("the folder is ours");
        for entry in fs::read_dir(&self.0).expect("the folder is ours").flatten() {
            let mode = if entry.path() == copy { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))
                .expect("the file is ours");
        }
        copy.to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
