//! Where a comparison runs: programs, folders, processors and ports.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::template::{self, Value};

pub(super) const PORT: u16 = 17_200;
pub(super) const ADMIN_PORT: u16 = 17_201;
pub(super) const NATS_PORT: u16 = 17_202;
/// Of the gateway, where the load goes over TLS.
pub(super) const PLAIN_PORT: u16 = 17_203;
pub(super) const BACKEND_PORT: u16 = 17_210;

/// The measured server has one processor, everything else the other.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The folder of the templates.
    pub(super) templates: PathBuf,
    /// Filled templates, messages of servers and results of the load harness.
    pub(super) scratch: PathBuf,
    /// The folder of our own programs.
    pub(super) programs: PathBuf,
    pub(super) server_cpu: usize,
    pub(super) load_cpu: usize,
}

/// Where a listener is.
pub(super) fn authority(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

impl Place {
    /// One of our own programs.
    pub(super) fn own(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    /// Fills a template into the scratch folder.
    pub(super) fn fill(&self, name: &str, values: &[Value]) -> io::Result<PathBuf> {
        let text = self.filled(name, values)?;
        let path = self.scratch.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    pub(super) fn filled(&self, name: &str, values: &[Value]) -> io::Result<String> {
        let path = self.templates.join(name);
        let text = fs::read_to_string(&path)
            .map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
        template::fill(&text, values).map_err(|e| io::Error::other(format!("{name}: {e}")))
    }

    /// A file for what a server says on standard error.
    pub(super) fn messages(&self, of: &str) -> io::Result<File> {
        File::create(self.scratch.join(format!("{of}.log")))
    }

    /// The line that says what went wrong, as far as one can tell.
    pub(super) fn last_message(&self, of: &str) -> Option<String> {
        telling_line(&fs::read_to_string(self.scratch.join(format!("{of}.log"))).ok()?)
    }
}

/// Our own programs mark it with a cross; others say it last.
fn telling_line(text: &str) -> Option<String> {
    let marked = text.lines().find_map(|line| Some(line.split_once('×')?.1));
    let last = || text.lines().rev().find(|line| !line.trim().is_empty());
    Some(marked.or_else(last)?.trim().to_owned())
}

/// The file of `program`, in PATH or where the variable of its name says.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(program.to_ascii_uppercase()) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let folders = env::var_os("PATH")?;
    // Servers often stand where only root looks.
    env::split_paths(&folders)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// The first line that holds a digit of what a program says about itself.
pub(super) fn said(program: &Path, arguments: &[&str]) -> Option<String> {
    let said = Command::new(program).args(arguments).output().ok()?;
    let text = [said.stdout, said.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?.trim();
    // Some name themselves as they were called.
    let called = program.display().to_string();
    let own = program.file_name()?.to_str()?;
    Some(line.replacen(&called, own, 1).split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_telling_line_is_the_marked_one_or_the_last() {
        let told = |text| telling_line(text);
        assert_eq!(told("Error:\n  × no tokens\n  help: mint\n").as_deref(), Some("no tokens"));
        assert_eq!(told("starting\nbind failed\n\n").as_deref(), Some("bind failed"));
        assert_eq!(told("\n"), None);
    }
}
