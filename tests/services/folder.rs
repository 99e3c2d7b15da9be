//! The folder of one service, which goes with it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Waits until nobody holds the other end of its input, and removes the folder. Whoever still
/// writes there is about to die, so it tries again for a while.
const KEEPER: &str = r#"
cat >/dev/null
tries=0
until rm -rf "$1" || [ "$tries" -ge 50 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
"#;

/// Removed when it is dropped, and when this process ends without dropping it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    keeper: Child,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("corelane-service-");
        // The keeper's to remove: it does so however this process ends.
        let path = folder.unwrap_or_else(|error| panic!("no folder for a service: {error}")).keep();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&path);
        // Whatever ends this process from a terminal is not meant for it.
        keeper.process_group(0);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keeper.spawn().unwrap_or_else(|error| panic!("cannot run sh: {error}"));
        Self { path, keeper }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a template with every `@NAME@` replaced, and returns its path.
    pub(crate) fn fill(&self, name: &str, template: &str, values: &[(&str, &str)]) -> PathBuf {
        let folder = self.path.to_str().expect("the folder's name is text");
        let mut text = template.replace("@FOLDER@", folder);
        for (name, value) in values {
            text = text.replace(&format!("@{name}@"), value);
        }
        let path = self.path.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}
