//! What this project takes from others: each package pinned by version and contents, from the places that
//! `deny.toml` names, looked at by the gate; and no toolchain that changes by the day.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The workspace's own, and that of the program around the fuzz targets, which `cargo deny` does not see.
const LOCKS: [&str; 2] = ["Cargo.lock", "tests/fuzz/libfuzzer/Cargo.lock"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn table(name: &str) -> toml::Table {
    read(name).parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_crate_is_our_own_or_of_an_allowed_registry_and_pinned_by_its_checksum() {
    let rules = table("deny.toml");
    let sources = &rules["sources"];
    for unknown in ["unknown-registry", "unknown-git"] {
        assert_eq!(sources[unknown].as_str(), Some("deny"), "{unknown}");
    }
    let allowed = sources["allow-registry"].as_array().expect("a list");
    let allowed: Vec<_> =
        allowed.iter().map(|it| format!("registry+{}", it.as_str().expect("a URL"))).collect();
    for name in LOCKS {
        let lock = table(name);
        let packages = lock["package"].as_array().expect("packages");
        let mut foreign = 0;
        for package in packages {
            let text = |key| package.get(key).and_then(toml::Value::as_str);
            let (called, source) = (text("name").expect("a name"), text("source"));
            let Some(source) = source else {
                let own = called == "corelane" || called.starts_with("corelane-");
                assert!(own, "{name}: {called} comes from a folder");
                continue;
            };
            foreign += 1;
            assert!(allowed.iter().any(|it| it == source), "{name}: {called} is from {source}");
            let checksum = text("checksum").unwrap_or_default();
            let whole = checksum.len() == 64 && checksum.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(whole, "{name}: {called} has the checksum {checksum:?}");
        }
        assert!(foreign > 100, "{name}: {foreign} packages");
    }
}

#[test]
fn packages_of_other_languages_are_pinned_too() {
    let lock: Value =
        serde_json::from_str(&read("tests/clients/node/package-lock.json")).expect("JSON");
    let packages = lock["packages"].as_object().expect("packages");
    // The one without a name is ours.
    let foreign: Vec<_> = packages.iter().filter(|(name, _)| !name.is_empty()).collect();
    assert!(!foreign.is_empty());
    for (name, package) in foreign {
        let integrity = package["integrity"].as_str().unwrap_or_default();
        assert!(integrity.starts_with("sha512-"), "{name}: {integrity:?}");
    }
    for folder in ["clients/python", "backends", "conformance"] {
        let name = format!("tests/{folder}/requirements.txt");
        let requirements = read(&name);
        let lines = requirements.lines().filter(|line| !line.starts_with('#'));
        let versions: Vec<_> = lines.map(|line| line.split_once("==")).collect();
        assert!(!versions.is_empty(), "{name}");
        let exact = |version: &str| version.starts_with(|c: char| c.is_ascii_digit());
        let pinned = versions.iter().all(|it| it.is_some_and(|(_, version)| exact(version)));
        assert!(pinned, "{name}: {requirements}");
    }
}

#[test]
fn kafka_is_pinned_by_version_and_contents() {
    let pom = read("scripts/services/pom.xml");
    let versions = pom.split("<version>").skip(1).filter_map(|rest| rest.split('<').next());
    let versions: Vec<_> = versions.collect();
    let exact = |version: &&str| version.chars().all(|c| c.is_ascii_digit() || c == '.');
    assert!(versions.len() > 2 && versions.iter().all(exact), "{versions:?}");
    let depends = pom.matches("<artifactId>").count();
    assert_eq!(depends, versions.len(), "each dependency names its version");
    let pinned = read("scripts/services/kafka.sha256");
    for line in pinned.lines() {
        let (hash, file) = line.split_once("  ").unwrap_or_else(|| panic!("{line}"));
        let whole = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(whole && file.ends_with(".jar") && !file.contains('/'), "{line}");
    }
    assert!(pinned.contains("  kafka_2.13-3.9.1.jar\n"), "{pinned}");
}

/// The body of a function of `scripts/test`.
fn step<'a>(script: &'a str, name: &str) -> &'a str {
    let head = format!("\n{name}() {{\n");
    let (_, body) = script.split_once(&head).unwrap_or_else(|| panic!("no step {name}"));
    body.split_once("\n}\n").expect("its end").0
}

#[test]
fn the_gate_looks_at_bans_licences_and_sources_and_says_what_it_did_not_look_at() {
    let script = read("scripts/test");
    let (_, beside) = script.split_once("\nbeside=(").expect("the list of steps beside the tests");
    let beside = beside.split_once(')').expect("its end").0;
    assert!(beside.split_whitespace().any(|step| step == "deny"), "{beside}");
    assert!(script.contains("\n    bash scripts/test \"${beside[@]}\""), "they are run");
    let deny = step(&script, "deny");
    assert!(deny.lines().any(|line| line.trim() == "cargo deny check bans licenses sources"));
    assert!(deny.contains("cargo deny --offline check advisories"), "{deny}");
    assert!(deny.contains("NOT CHECKED: advisories"), "{deny}");
    let ci = read(".ci/run");
    let last = ci.trim_end().lines().last().expect("a command");
    assert!(last.starts_with("exec ") && last.ends_with("/scripts/test\""), "all steps: {last}");
}

/// Every script of the repository.
fn scripts() -> Vec<(String, String)> {
    let folders = ["scripts", ".ci", "tests/clients", "tests/backends", "bench/peers"];
    let mut scripts = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(path(folder)).expect("a folder") {
            let file = entry.expect("an entry").path();
            let Ok(text) = fs::read_to_string(&file) else { continue };
            if text.starts_with("#!") || file.ends_with("scripts/nightly") {
                scripts.push((
                    format!("{folder}/{}", file.file_name().expect("a name").display()),
                    text,
                ));
            }
        }
    }
    scripts
}

#[test]
fn nightly_is_for_fuzzing_and_sanitizers_alone_and_pinned_by_its_date() {
    let channel = &table("rust-toolchain.toml")["toolchain"]["channel"];
    let channel = channel.as_str().expect("a version");
    assert!(channel.split('.').all(|part| part.parse::<u32>().is_ok()), "{channel} is a release");

    let scripts = scripts();
    let with = |what: &str| -> Vec<&str> {
        let found = scripts.iter().filter(|(_, text)| text.contains(what));
        let mut names: Vec<_> = found.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(with("source scripts/nightly"), ["scripts/fuzz", "scripts/sanitizers"]);
    assert_eq!(with("$NIGHTLY"), ["scripts/fuzz", "scripts/nightly", "scripts/sanitizers"]);
    for by_the_day in ["+nightly", "install nightly", "toolchain nightly"] {
        let found = with(by_the_day);
        assert!(found.iter().all(|name| *name == "scripts/nightly"), "{by_the_day}: {found:?}");
    }
    let nightly = read("scripts/nightly");
    let (_, pinned) = nightly.split_once("nightly_pinned=\"nightly-").expect("a name");
    let date: Vec<_> = pinned.split_once('"').expect("its end").0.split('-').collect();
    let digits = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let lengths: Vec<_> = date.iter().map(|part| part.len()).collect();
    assert!(date.iter().all(digits) && lengths == [4, 2, 2], "{date:?}");
}
