//! Key files that change under a running gateway, and files that cannot be used.

use tempfile::TempDir;

use super::*;

/// A directory of its own for one test, removed with it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("key")
    }

    /// As a careful operator does it: a new file takes the old one's place.
    fn put(&self, content: &[u8]) {
        let new = self.0.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(&new, self.file()).unwrap();
    }

    fn put_key(&self, owner: &str, algorithm: Algorithm) {
        self.put(&fs::read(public_file(owner, algorithm)).unwrap());
    }

    fn spec(&self, algorithm: Algorithm) -> KeySpec {
        KeySpec { file: self.file(), ..spec(algorithm) }
    }
}

#[test]
fn a_replaced_file_replaces_the_key_and_empties_the_cache() {
    let folder = Folder::new();
    folder.put_key("trusted", Algorithm::EdDsa);
    let mut files = KeyRing::open(&rules([folder.spec(Algorithm::EdDsa)])).unwrap();
    let mut shard = JwtAuthenticator::new(files.published());
    let old = mint(Algorithm::EdDsa, &claims());
    let new = mint_by("stranger", Algorithm::EdDsa, Some("eddsa"), &claims());
    assert!(shard.verify(&old, now()).is_ok());
    assert_eq!(files.poll(), 0);
    folder.put_key("stranger", Algorithm::EdDsa);
    assert_eq!(files.poll(), 1);
    assert_eq!(shard.verify(&old, now()), Err(AuthRefusal::BadSignature));
    assert!(shard.verify(&new, now()).is_ok());
    assert_eq!(files.poll(), 0);
}

#[test]
fn a_broken_or_missing_file_leaves_the_old_key_in_force() {
    let folder = Folder::new();
    folder.put_key("trusted", Algorithm::Es256);
    let mut files = KeyRing::open(&rules([folder.spec(Algorithm::Es256)])).unwrap();
    let mut shard = JwtAuthenticator::new(files.published());
    let token = mint(Algorithm::Es256, &claims());
    shard.verify(&token, now()).unwrap();
    folder.put(b"half a key");
    assert_eq!(files.poll(), 0);
    fs::remove_file(folder.file()).unwrap();
    assert_eq!(files.poll(), 0);
    assert!(shard.verify(&token, now()).is_ok());
    assert_eq!(shard.counts().cache_hits, 1, "the set did not change, nor does the cache go");
    folder.put_key("stranger", Algorithm::Es256);
    assert_eq!(files.poll(), 1);
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::BadSignature));
}

#[test]
fn a_file_written_in_place_is_seen() {
    let folder = Folder::new();
    folder.put_key("trusted", Algorithm::Hs256);
    let mut files = KeyRing::open(&rules([folder.spec(Algorithm::Hs256)])).unwrap();
    fs::write(folder.file(), b"another-secret-of-quite-another-length-than-before").unwrap();
    assert_eq!(files.poll(), 1);
}

#[test]
fn a_reload_takes_all_keys_or_none() {
    let folder = Folder::new();
    folder.put_key("trusted", Algorithm::EdDsa);
    let mut files = KeyRing::open(&rules([spec(Algorithm::EdDsa)])).unwrap();
    let mut shard = JwtAuthenticator::new(files.published());
    let token = mint(Algorithm::Hs256, &claims());
    let missing = KeySpec { file: folder.0.path().join("nowhere"), ..spec(Algorithm::Es256) };
    assert!(files.reload(&rules([spec(Algorithm::Hs256), missing])).is_err());
    assert_eq!(shard.verify(&token, now()), Err(AuthRefusal::UnknownKey));
    files.reload(&rules([spec(Algorithm::Hs256)])).unwrap();
    assert!(shard.verify(&token, now()).is_ok());
}

#[test]
fn contents_that_can_never_verify_are_refused_when_read() {
    let private = |algorithm| key_path(&format!("trusted.{}.private.pem", stem(algorithm)));
    let read = |algorithm, file: PathBuf| {
        Key::new(&spec(algorithm), &fs::read(file).unwrap()).map(|_| ()).unwrap_err()
    };
    use Algorithm::{EdDsa, Es256, Hs256, Rs256};
    for algorithm in [Rs256, Es256, EdDsa] {
        assert_eq!(read(algorithm, private(algorithm)), KeyFault::PrivateKey);
        assert_eq!(read(Hs256, public_file("trusted", algorithm)), KeyFault::PemAsSecret);
        assert_eq!(read(algorithm, public_file("trusted", Hs256)), KeyFault::NotPublicPem);
        for other in [Rs256, Es256, EdDsa].into_iter().filter(|other| *other != algorithm) {
            assert_eq!(read(algorithm, public_file("trusted", other)), KeyFault::WrongKind);
        }
        assert_eq!(Key::new(&spec(algorithm), b" \n").unwrap_err(), KeyFault::Empty);
    }
    assert_eq!(read(Es256, key_path("p384.public.pem")), KeyFault::WrongKind);
    assert_eq!(read(Rs256, key_path("rsa1024.public.pem")), KeyFault::ShortRsa);
    assert_eq!(Key::new(&spec(Hs256), b"\r\n").unwrap_err(), KeyFault::Empty);
    assert_eq!(Key::new(&spec(Hs256), b"short").unwrap_err(), KeyFault::ShortSecret);
}

#[test]
fn rules_that_contradict_themselves_are_refused() {
    let refusal = |keys: Vec<KeySpec>| KeyRing::open(&rules(keys)).unwrap_err().to_string();
    let [hs, es] = [Algorithm::Hs256, Algorithm::Es256].map(spec);
    let twin = KeySpec { id: hs.id.clone(), ..es.clone() };
    assert!(refusal(vec![hs.clone(), twin]).contains("two keys have the id hs256"));
    let native = KeySpec { issuer: "other".into(), ..es.clone() };
    assert!(refusal(vec![hs.clone(), native]).contains("both native"));
    let half = KeySpec { native: false, ..es.clone() };
    assert!(refusal(vec![hs.clone(), half]).contains("mark all of its keys or none"));
    let nobody = KeySpec { audience: String::new(), ..es };
    assert!(refusal(vec![nobody]).contains("set both"));
    let missing = KeySpec { file: "/nowhere/key.pem".into(), ..hs.clone() };
    assert!(refusal(vec![missing]).contains("/nowhere/key.pem"));
    let unnamed = KeyRules { session_claims: Vec::new(), ..rules([hs]) };
    assert!(matches!(KeyRing::open(&unnamed), Err(KeyError::NoSessionClaim)));
}

#[test]
fn keys_and_rules_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &Arc<T>) {}
    let files = KeyRing::open(&rules([spec(Algorithm::Hs256)])).unwrap();
    shared(&files.published());
}
