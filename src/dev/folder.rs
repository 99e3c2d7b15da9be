//! The folder of one `corelane dev`: secrets and configuration, readable by their owner alone.
//!
//! What stands in the configuration is not decided here.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;
use uuid::Uuid;

pub(super) const CONFIG: &str = "corelane.toml";
/// The shared secret that signs tokens.
pub(super) const KEY: &str = "token.key";
/// What the gateway presents to the link backend.
pub(super) const LINK_TOKEN: &str = "link.token";

/// The first line of a configuration that may be overwritten.
pub(super) const MARK: &str = "# Written by `corelane dev` at every start: changes are lost.";

const OWNER_FOLDER: u32 = 0o700;
const OWNER_FILE: u32 = 0o600;
/// Names tried for a fresh folder.
const ATTEMPTS: usize = 16;

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub enum FolderError {
    #[error("neither XDG_STATE_HOME nor HOME is an absolute path: name a folder with --dir")]
    NoHome,
    #[error("cannot {action} {}: {source}; is this the folder you meant? choose it with --dir", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} was not written by `corelane dev`: choose another --dir, or move the file away", path.display())]
    ForeignConfig { path: PathBuf },
    #[error("another `corelane dev` is using {}: choose another --dir", path.display())]
    InUse { path: PathBuf },
}

/// An open folder; no other process uses it while this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    link_token: String,
    /// The key's file, which carries the lock.
    _lock: File,
}

impl Folder {
    /// Opens `path`, or makes a fresh folder. Secrets that are there already are kept.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, FolderError> {
        let path = match path {
            Some(path) => {
                let path = std::path::absolute(path).map_err(failed("find", path))?;
                private_folders(&path)?;
                path
            }
            None => {
                let [xdg, home] = ["XDG_STATE_HOME", "HOME"].map(env::var_os);
                fresh(&state_folder(xdg.map(Into::into), home.map(Into::into))?)?
            }
        };
        let (key, _) = secret(&path.join(KEY))?;
        match key.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse { path }),
            Err(TryLockError::Error(source)) => {
                return Err(failed("lock", &path.join(KEY))(source));
            }
        }
        let (_, link_token) = secret(&path.join(LINK_TOKEN))?;
        Ok(Self { path, link_token, _lock: key })
    }

    pub(super) fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    pub(super) fn link_token(&self) -> &str {
        &self.link_token
    }

    /// Replaces the configuration as a whole, if it is one of ours.
    pub(super) fn write_config(&self, text: &str) -> Result<(), FolderError> {
        let path = self.config_path();
        match fs::read(&path) {
            Ok(old) if old.starts_with(MARK.as_bytes()) => {}
            Ok(_) => return Err(FolderError::ForeignConfig { path }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &path)(error)),
        }
        self.write(CONFIG, text)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces a file as a whole.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), FolderError> {
        let (path, new) = (self.file(name), self.file(&format!("{name}.new")));
        self.remove(&format!("{name}.new"))?;
        create_private(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("write", &path))
    }

    /// If it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), FolderError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// For its owner alone, whatever has become of it.
    pub(super) fn protect(&self, name: &str) -> Result<(), FolderError> {
        let path = self.file(name);
        let mode = Permissions::from_mode(OWNER_FILE);
        fs::set_permissions(&path, mode).map_err(failed("protect", &path))
    }
}

/// `corelane` in the user's state folder, by the XDG base directory rules: a relative
/// `XDG_STATE_HOME` counts as absent.
fn state_folder(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf, FolderError> {
    let absolute = |path: Option<PathBuf>| path.filter(|path| path.is_absolute());
    absolute(xdg)
        .or_else(|| absolute(home).map(|home| home.join(".local/state")))
        .map(|state| state.join("corelane"))
        .ok_or(FolderError::NoHome)
}

/// A folder under `parent` that did not exist before.
fn fresh(parent: &Path) -> Result<PathBuf, FolderError> {
    private_folders(parent)?;
    let mut tried = 0;
    loop {
        let name = Uuid::new_v4().simple().to_string();
        let path = parent.join(format!("dev-{}", &name[..8]));
        tried += 1;
        match DirBuilder::new().mode(OWNER_FOLDER).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && tried < ATTEMPTS => {}
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
}

/// Folders that exist keep their mode: they may be shared for a reason.
fn private_folders(path: &Path) -> Result<(), FolderError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(OWNER_FOLDER);
    builder.create(path).map_err(failed("create", path))
}

fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(OWNER_FILE);
    options.open(path)
}

/// The secret in the file at `path`; a new one if there is no file.
fn secret(path: &Path) -> Result<(File, String), FolderError> {
    match create_private(path) {
        Ok(mut file) => {
            let [first, second] = [(); 2].map(|()| Uuid::new_v4());
            // 244 random bits, as 64 hexadecimal digits.
            let text = format!("{}{}", first.simple(), second.simple());
            file.write_all(text.as_bytes()).map_err(failed("write", path))?;
            Ok((file, text))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let mut file = File::open(path).map_err(failed("read", path))?;
            file.set_permissions(Permissions::from_mode(OWNER_FILE))
                .map_err(failed("protect", path))?;
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed("read", path))?;
            Ok((file, text.trim().to_owned()))
        }
        Err(error) => Err(failed("create", path)(error)),
    }
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> FolderError + use<'a> {
    move |source| FolderError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_folder_follows_the_xdg_rules() {
        let path = |text: &str| Some(PathBuf::from(text));
        let state = |xdg, home| state_folder(xdg, home).ok();
        assert_eq!(state(path("/s"), path("/h")), path("/s/corelane"));
        assert_eq!(state(path("s"), path("/h")), path("/h/.local/state/corelane"));
        assert_eq!(state(None, path("/h")), path("/h/.local/state/corelane"));
        assert_eq!(state(path(""), path("h")), None);
        assert_eq!(state(None, None), None);
    }

    #[test]
    fn fresh_folders_differ() {
        let parent = env::temp_dir().join(format!("corelane-fresh-{}", Uuid::new_v4()));
        let [first, second] = [(); 2].map(|()| fresh(&parent).unwrap());
        fs::remove_dir_all(&parent).unwrap();
        assert_ne!(first, second);
        let name = first.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("dev-") && first.starts_with(&parent), "{name}");
    }
}
