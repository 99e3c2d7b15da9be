//! Keys that are fetched, and tokens that somebody else judges.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{Answer, HttpBackend, service};
use crate::harness::https;
use crate::harness::raw::{exchange, upgrade};

fn key(owner: &str) -> EncodingKey {
    let file = format!("tests/keys/{owner}.es256.private.pem");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    EncodingKey::from_ec_pem(&std::fs::read(file).expect("the key is there")).expect("it is P-256")
}

/// A token for an hour that `owner` has signed.
fn token(owner: &str, kid: &str, session: Uuid) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is set").as_secs();
    let claims = json!({
        "iss": "https://login.example", "aud": "https://game.example", "exp": now + 3600,
        "session_key": session.simple().to_string(), "roles": ["user"],
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(kid.to_owned());
    jsonwebtoken::encode(&header, &claims, &key(owner)).expect("plain claims can be signed")
}

fn published(owner: &str, kid: &str) -> Value {
    let jwk = Jwk::from_encoding_key(&key(owner), Algorithm::ES256).expect("it has a public part");
    let mut jwk = serde_json::to_value(jwk).expect("a key is JSON");
    jwk["kid"] = kid.into();
    jwk
}

/// TOML of a published set at `url`.
fn jwks(url: &str, refresh: &str) -> String {
    format!(
        "[[auth.jwks]]\nurl = \"{url}/keys.json\"\nissuer = \"https://login.example\"\n\
         audience = \"https://game.example\"\nnative = false\nrefresh = \"{refresh}\"\n"
    )
}

fn status(gateway: &Gateway, token: &str) -> u16 {
    let request = upgrade("/connect", &[&format!("Authorization: Bearer {token}")]);
    let answer = exchange(gateway.public(), request.as_bytes());
    let patient = answer.header("retry-after").is_some();
    assert_eq!(patient, answer.status == 503, "{answer:?}");
    answer.status
}

fn await_open(gateway: &Gateway, token: &str) {
    gateway.wait_until("the token to be known", PATIENCE, || {
        Client::try_connect(gateway.public(), token).map(Client::leave).is_ok()
    });
}

fn fetches(gateway: &Gateway, outcome: &str) -> u64 {
    let label = format!("outcome=\"{outcome}\"");
    gateway.metric("corelane_key_set_fetches_total", &label)
}

/// An issuer whose set a test changes. Without any key it answers 500.
fn issuer(keys: &Arc<Mutex<Vec<Value>>>) -> impl Fn() -> Answer + Send + Sync + use<> {
    let keys = Arc::clone(keys);
    move || {
        let keys = keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match keys.is_empty() {
            true => Answer::status(500, "out of order"),
            false => Answer::ok(json!({ "keys": keys }).to_string()),
        }
    }
}

fn publish(set: &Arc<Mutex<Vec<Value>>>, keys: Vec<Value>) {
    *set.lock().unwrap_or_else(PoisonError::into_inner) = keys;
}

#[test]
fn a_rotated_key_is_fetched_when_its_first_token_comes_and_not_for_every_stranger() {
    let set = Arc::new(Mutex::new(vec![published("trusted", "one")]));
    let answer = issuer(&set);
    let backend = HttpBackend::start(move |_| answer());
    let settings = "[auth]\nunknown_key_interval = \"1h\"\n";
    let gateway = Setup::new(format!("{settings}{}", jwks(&backend.url, "1h"))).start();
    let asked = backend.asked();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/keys.json"));
    await_open(&gateway, &token("trusted", "one", Uuid::new_v4()));
    gateway.client().leave();

    publish(&set, vec![published("trusted", "one"), published("stranger", "two")]);
    let rotated = token("stranger", "two", Uuid::new_v4());
    assert_eq!(status(&gateway, &rotated), 503, "it may be in the set by now");
    await_open(&gateway, &rotated);
    let forged = token("trusted", "two", Uuid::new_v4());
    assert_eq!(status(&gateway, &forged), 401);
    gateway.wait_until("the fetch to be over", PATIENCE, || {
        status(&gateway, &token("trusted", "three", Uuid::new_v4())) == 401
    });
    assert_eq!(fetches(&gateway, "fetched"), 2);
    let unknown = gateway.metric("corelane_tokens_refused_total", "reason=\"unknown_key\"");
    assert!(unknown > 0);
}

#[test]
fn without_its_keys_an_issuer_is_waited_for_and_with_old_ones_it_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let gateway = Setup::new(jwks(&format!("http://{address}"), "1s")).start();
    let good = token("trusted", "one", Uuid::new_v4());
    assert_eq!(status(&gateway, &good), 503);
    gateway.client().leave();
    gateway.await_log("key set not fetched");

    let set = Arc::new(Mutex::new(vec![published("trusted", "one")]));
    let answer = issuer(&set);
    let _backend = HttpBackend::start_at(address, move |_| answer());
    await_open(&gateway, &good);

    publish(&set, vec![]);
    let failed = fetches(&gateway, "failed");
    gateway.wait_until("more failures", PATIENCE, || fetches(&gateway, "failed") >= failed + 2);
    await_open(&gateway, &token("trusted", "one", Uuid::new_v4()));
    assert_eq!(status(&gateway, &token("trusted", "two", Uuid::new_v4())), 503);
    // Once when it could not be reached, once when it went out of order.
    assert_eq!(gateway.log().text().matches("key set not fetched").count(), 2);
}

#[test]
fn keys_come_over_tls_from_a_server_that_is_trusted_and_from_no_other() {
    let url = https::serve(json!({ "keys": [published("trusted", "one")] }).to_string());
    let good = token("trusted", "one", Uuid::new_v4());
    let setup = || Setup::new(jwks(&url, "1h"));
    let trusted = https::authority().to_string_lossy().into_owned();
    let gateway = setup().env("SSL_CERT_FILE", &trusted).start();
    await_open(&gateway, &good);

    // That is the certificate of no authority.
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys/localhost.pem");
    let wary = setup().env("SSL_CERT_FILE", &other.to_string_lossy()).start();
    wary.await_log("key set not fetched");
    assert_eq!(status(&wary, &good), 503);
}

const SESSION: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

/// An auth service with the status and body of its answers.
struct AuthService {
    backend: HttpBackend,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl AuthService {
    fn start(body: &Value) -> Self {
        let (status, body) = (Arc::new(AtomicU16::new(200)), body.to_string());
        let (its_status, asked) = (Arc::clone(&status), Arc::new(AtomicUsize::new(0)));
        let its_asked = Arc::clone(&asked);
        let backend = HttpBackend::start(move |_| {
            its_asked.fetch_add(1, Ordering::Relaxed);
            match its_status.load(Ordering::Relaxed) {
                // Never answers.
                0 => std::thread::sleep(Duration::from_secs(3600)),
                status => return Answer::status(status, &body),
            }
            Answer::ok("")
        });
        Self { backend, status, asked }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn times_asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn gateway(&self, more: &str) -> Gateway {
        let services = service(&self.backend.url, "/demo/echo", "");
        let url = &self.backend.url;
        let table = format!("[auth.validate]\nurl = \"{url}/auth/validate\"\n{more}\n");
        Setup::new(format!("{table}{services}")).start()
    }
}

/// Of a key that the gateway does not have; different each time.
fn foreign() -> String {
    token("trusted", "elsewhere", Uuid::new_v4())
}

fn validations(gateway: &Gateway, outcome: &str) -> u64 {
    gateway.metric("corelane_validations_total", &format!("outcome=\"{outcome}\""))
}

#[test]
fn the_auth_service_says_who_a_foreign_token_is() {
    let auth = AuthService::start(&json!({
        "sessionKey": SESSION, "accountId": Uuid::new_v4().to_string(), "roles": ["user"],
        "remainingTime": 3571,
    }));
    let gateway = auth.gateway("");
    let foreign = foreign();
    let client = Client::connect(gateway.public(), &foreign);
    assert_eq!(client.manifest["sessionId"], SESSION);
    assert_eq!(client.manifest["availableApis"][0]["endpoint"], "/demo/echo");
    let asked = auth.backend.asked();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/auth/validate"));
    assert_eq!(asked.fields["authorization"], format!("Bearer {foreign}"));
    assert_eq!(asked.fields["content-type"], "application/json; charset=utf-8");
    assert_eq!(asked.fields["content-length"], "0");
    assert!(asked.body.is_empty());
    client.leave();

    // Remembered; and tokens of the gateway's own key are nobody else's business.
    Client::connect(gateway.public(), &foreign).leave();
    gateway.client().leave();
    assert_eq!(auth.times_asked(), 1);
    assert_eq!(validations(&gateway, "accepted"), 1);
    assert_eq!(gateway.metric("corelane_tokens_validating", ""), 0);
    assert!(!gateway.log().text().contains(&foreign), "a token is in the log");
}

#[test]
fn a_refusal_of_the_auth_service_is_a_refusal_and_its_failure_is_not() {
    let auth = AuthService::start(&json!({ "sessionKey": SESSION }));
    let gateway = auth.gateway("breaker_failures = 0\ntimeout = \"1s\"");
    for refusal in [401, 403, 404, 302, 204] {
        auth.answers(refusal);
        assert_eq!(status(&gateway, &foreign()), 401, "{refusal}");
    }
    for failure in [500, 503] {
        auth.answers(failure);
        assert_eq!(status(&gateway, &foreign()), 503, "{failure}");
    }
    auth.answers(0);
    assert_eq!(status(&gateway, &foreign()), 503);
    let counts = ["refused", "server_error", "timed_out"].map(|label| validations(&gateway, label));
    assert_eq!(counts, [5, 2, 1]);

    let strangers = AuthService::start(&json!({ "sessionKey": Uuid::nil().to_string() }));
    assert_eq!(status(&strangers.gateway(""), &foreign()), 401, "nobody's session");
    let garbled = AuthService::start(&json!([1]));
    let gateway = garbled.gateway("");
    assert_eq!(status(&gateway, &foreign()), 503, "not an answer");
    assert_eq!(validations(&gateway, "malformed"), 1);
}

#[test]
fn an_auth_service_that_fails_is_left_alone_for_a_while() {
    let auth = AuthService::start(&json!({ "sessionKey": SESSION }));
    let gateway = auth.gateway("breaker_failures = 2\nbreaker_open_for = \"1500ms\"");
    auth.answers(500);
    for _ in 0..6 {
        assert_eq!(status(&gateway, &foreign()), 503);
    }
    assert_eq!(auth.times_asked(), 2);
    assert_eq!(validations(&gateway, "breaker_open"), 4);
    gateway.await_log("auth service not asked for a while");
    gateway.client().leave();
    auth.answers(200);
    await_open(&gateway, &foreign());
    gateway.await_log("auth service well again");
}

#[test]
fn a_client_that_leaves_while_its_token_is_judged_leaves_nothing_behind() {
    let auth = AuthService::start(&json!({ "sessionKey": SESSION }));
    auth.answers(0);
    let gateway = auth.gateway("timeout = \"2s\"\nwaiting_max = 1");
    let mut stream = crate::harness::raw::dial(gateway.public());
    let request = upgrade("/connect", &[&format!("Authorization: Bearer {}", foreign())]);
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("the gateway reads");
    gateway.await_metric("corelane_tokens_validating", "", 1);
    gateway.wait_until("the auth service to be asked", PATIENCE, || auth.times_asked() == 1);
    // There is one place for those who wait.
    assert_eq!(status(&gateway, &foreign()), 503);
    assert_eq!(auth.times_asked(), 1);
    drop(stream);
    gateway.await_metric("corelane_tokens_validating", "", 0);
    auth.answers(200);
    await_open(&gateway, &foreign());
    gateway.wait_until_empty();
}
