//! Every input that was found worth keeping, once more.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use corelane_fuzz::{TARGETS, Target};

/// So that they stay a part of every test run.
const BYTES_MAX: u64 = 200 << 10;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

fn inputs(name: &str) -> Vec<PathBuf> {
    let folder = corpus(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Under an interpreter a few must do.
const REPLAYED_MAX: usize = if cfg!(miri) { 2 } else { usize::MAX };

fn replay(name: &str) {
    let check = TARGETS.iter().find(|target| target.name == name).expect("a target").check;
    let files = inputs(name);
    assert!(!files.is_empty(), "{name} has no inputs");
    for file in files.into_iter().take(REPLAYED_MAX) {
        let input = fs::read(&file).expect("an input");
        assert!(catch_unwind(|| check(&input)).is_ok(), "fails again with {file:?}");
    }
}

macro_rules! replays {
    ($($name:ident),+ $(,)?) => {
        const REPLAYED: &[&str] = &[$(stringify!($name)),+];

        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )+
    };
}

replays!(frame, message, handshake, header, session, http, link, shard, tls, events, token);

#[test]
fn every_target_is_replayed_and_every_folder_is_a_targets() {
    let mut targets: Vec<_> = TARGETS.iter().map(|Target { name, .. }| *name).collect();
    let mut replayed = REPLAYED.to_vec();
    let mut folders: Vec<_> = inputs("")
        .iter()
        .map(|folder| folder.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    targets.sort_unstable();
    replayed.sort_unstable();
    folders.sort_unstable();
    assert_eq!(targets, replayed);
    assert_eq!(targets, folders);
}

#[test]
fn the_inputs_are_few() {
    let files = REPLAYED.iter().flat_map(|name| inputs(name));
    let bytes: u64 = files.map(|file| fs::metadata(file).expect("an input").len()).sum();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes: minimise them with scripts/fuzz --minimise");
}
