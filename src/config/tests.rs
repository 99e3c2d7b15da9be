//! Configurations that load, and every way in which one is refused.

use std::time::Duration;

use corelane_shard::id::EndpointId;
use corelane_shard::snapshot::{DoorLimits, Method, SessionLimits, Tracing, UpstreamKind};
use corelane_shard::wire::forwarded::ForwardedField;
use corelane_shard::wire::proxy_protocol::Versions;
use proptest::prelude::*;

use super::*;

mod kafka;
mod tls;

const SALT: &str = "[session]\nserver_salt = \"of our own\"\n";

const DEMO: &str = r#"
[[service]]
name = "demo"
addresses = ["http://127.0.0.1:7000", "http://demo.internal:7000"]
endpoints = [
    { path = "/demo/echo" },
    { path = "/demo/{id}", method = "get", idempotent = true },
]
[[service]]
name = "game"
addresses = ["link://127.0.0.1:7001"]
call_timeout = "3s"
[[service.endpoints]]
path = "/game/move"
[[role]]
name = "user"
endpoints = ["game:/game/move", "demo:*", "demo:/demo/echo"]
"#;

fn sources(text: &str) -> Sources {
    let file = SourceFile { path: "corelane.toml".into(), text: text.to_owned() };
    Sources { file: Some(file), overrides: Overrides::default() }
}

/// With a salt, so that the text need not have one.
fn load(text: &str) -> Result<Config, Refused> {
    let mut sources = sources(text);
    sources.overrides.flags.push(("session.server_salt".into(), "of our own".into()));
    Config::load(&sources)
}

fn with_variable(name: &str, value: &str) -> Result<Config, Refused> {
    let mut sources = sources(SALT);
    sources.overrides.environment.insert(name.into(), value.into());
    Config::load(&sources)
}

fn refusals(result: Result<Config, Refused>) -> Vec<String> {
    result.unwrap_err().lines().collect()
}

/// The one refusal, which must contain every one of `parts`.
fn assert_refused(result: Result<Config, Refused>, parts: &[&str]) {
    let lines = refusals(result);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for part in parts {
        assert!(lines[0].contains(part), "{part:?} is not in {:?}", lines[0]);
    }
}

#[test]
fn the_defaults_file_says_the_defaults() {
    let mut sources = sources(&defaults_file());
    sources.overrides.flags.push(("session.allow_well_known_salt".into(), "true".into()));
    let mut expected = Config::default();
    expected.session.allow_well_known_salt = true;
    assert_eq!(Config::load(&sources).unwrap(), expected);
}

#[test]
fn the_defaults_file_explains_every_key_of_every_table() {
    let text = defaults_file();
    for table in TABLES {
        assert!(text.contains(&format!("[{}]", table.name)), "{}", table.name);
        for key in table.keys {
            assert!(!key.doc.trim().is_empty(), "{}.{} has no text", table.name, key.name);
            assert!(text.contains(&format!("{} =", key.name)), "{}.{}", table.name, key.name);
            if let Some(variable) = table.variable(key) {
                assert!(text.contains(&variable), "{variable}");
            }
        }
    }
}

#[test]
fn the_example_rows_of_the_defaults_file_are_valid() {
    let text = defaults_file();
    let uncommented = text.lines().map(|line| match line.strip_prefix('#') {
        Some(code) if !code.starts_with(' ') => code,
        _ => line,
    });
    let lines = refusals(load(&uncommented.collect::<Vec<_>>().join("\n")));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("cannot read issuer.pem"), "{lines:?}");
    assert!(lines[1].contains("cannot read fullchain.pem"), "{lines:?}");
}

#[test]
fn a_report_does_not_quote_a_secret_beside_the_error() {
    let text = "[session]\nserver_salt = \"gehéim\" # comment\nbuffer_size = 1\n";
    let refused = Config::load(&sources(text)).unwrap_err();
    let report = format!("{:?}", miette::Report::new(refused));
    assert!(report.contains("server_salt = **") && !report.contains("geh"), "{report}");
    assert!(report.contains("corelane.toml:3:15"), "{report}");
}

#[test]
fn the_default_session_limits_are_those_of_the_shard() {
    assert_eq!(Config::default().session_limits(), SessionLimits::default());
}

#[test]
fn the_public_salt_is_refused_unless_allowed() {
    assert_refused(Config::load(&sources("")), &["session.server_salt", "CONNECT_SERVER_SALT"]);
    assert!(Config::load(&sources(SALT)).is_ok());
    assert!(Config::load(&sources("[session]\nallow_well_known_salt = true")).is_ok());
    assert_refused(Config::load(&sources("[session]\nserver_salt = \"\"")), &[":2:15: "]);
}

#[test]
fn an_error_about_a_secret_does_not_quote_it() {
    let lines = refusals(Config::load(&sources("[session]\nserver_salt = 12345")));
    assert!(!lines.join("\n").contains("12345"), "{lines:?}");
}

#[test]
fn every_key_can_be_set_by_its_variable_and_a_wrong_value_names_the_variable() {
    for table in TABLES.iter().filter(|table| table.occurs == Occurs::Once) {
        for key in table.keys {
            let variable = table.variable(key).unwrap();
            let default = key.default.trim_matches(['"', '[', ']']).replace('"', "");
            if key.name != "server_salt" {
                assert!(with_variable(&variable, &default).is_ok(), "{variable}={default}");
            }
            let expects = (key.expects)();
            let anything = ["a text", "a file"].into_iter().any(|text| expects.contains(text));
            if !key.default.starts_with('[') && !anything {
                let lines = refusals(with_variable(&variable, "no such value"));
                assert!(lines[0].contains(&variable), "{lines:?}");
                assert!(lines[0].contains(&expects), "{lines:?}");
            }
        }
    }
}

#[test]
fn variables_carry_lists_and_the_units_of_the_protocol() {
    let config = with_variable("CORELANE_LISTEN_PUBLIC_ADDRESS", "127.0.0.1:1, [::1]:2").unwrap();
    assert_eq!(config.listen_public.address[1], "[::1]:2".parse().unwrap());
    let config = with_variable("CONNECT_INACTIVE_CONNECTION_TIMEOUT_MINUTES", "2").unwrap();
    assert_eq!(config.session_limits().idle_timeout, Duration::from_secs(120));
    let config = with_variable("CONNECT_CONNECTION_MODE", "relayed").unwrap();
    assert_eq!(config.session.connection_mode, ConnectionMode::Relayed);
}

#[test]
fn the_stronger_layer_wins() {
    let path = "limits.fragments_max";
    for (file, variable, flag, expected) in [
        (None, None, None, 64),
        (Some(1), None, None, 1),
        (Some(1), Some("2"), None, 2),
        (None, Some("2"), None, 2),
        (Some(1), Some("2"), Some("3"), 3),
        (Some(1), None, Some("3"), 3),
    ] {
        let limits = file.map(|value| format!("[limits]\nfragments_max = {value}"));
        let mut sources = sources(&format!("{SALT}{}", limits.unwrap_or_default()));
        if let Some(value) = variable {
            let name = "CORELANE_LIMITS_FRAGMENTS_MAX".to_owned();
            sources.overrides.environment.insert(name, value.to_owned());
        }
        if let Some(value) = flag {
            sources.overrides.flags.push((path.to_owned(), value.to_owned()));
        }
        assert_eq!(Config::load(&sources).unwrap().limits.fragments_max, expected);
    }
}

#[test]
fn a_strong_layer_does_not_hide_an_error_of_its_own() {
    let mut sources = sources(SALT);
    sources.overrides.flags.push(("limits.fragments_max".into(), "many".into()));
    assert_refused(Config::load(&sources), &["command line: ", "`limits.fragments_max`"]);
}

#[test]
fn a_misspelt_key_is_refused_with_its_place_and_the_name_that_was_meant() {
    let text = "\n[listen.public]\nadress = [\"127.0.0.1:1\"]\n";
    assert_refused(load(text), &["corelane.toml:3:1: ", "`adress`", "did you mean `address`?"]);
    assert_refused(load("[limit]"), &["corelane.toml:1:2: ", "did you mean [limits]?"]);
    assert_refused(load("[listen.publik]"), &["`listen.publik`", "[listen.public]"]);
}

#[test]
fn a_key_in_the_wrong_table_is_shown_the_right_one() {
    assert_refused(load("[session]\nnode = 1"), &["it is `node` in [control]"]);
    let text = "[session]\nmax_messages_per_minute = 5";
    assert_refused(load(text), &["it is `messages_per_window` in [limits]"]);
}

#[test]
fn a_misspelt_variable_or_flag_is_refused_with_the_name_that_was_meant() {
    let result = with_variable("CONNECT_BUFER_SIZE", "70000");
    assert_refused(result, &["CONNECT_BUFER_SIZE", "did you mean `CONNECT_BUFFER_SIZE`?"]);
    assert_refused(with_variable("CORELANE_LISTEN", "x"), &["CORELANE_LISTEN"]);
    assert!(with_variable("CORELANE_CONFIG", "x").is_ok());
    let mut sources = sources(SALT);
    sources.overrides.flags.push(("shard.count".into(), "1".into()));
    assert_refused(Config::load(&sources), &["did you mean `shards.count`?"]);
}

#[test]
fn wrong_types_and_ranges_say_where_and_what_is_expected() {
    let text = "[session]\nbuffer_size = \"big\"";
    assert_refused(load(text), &["corelane.toml:2:15: ", "from 1KiB to 1MiB", "found \"big\""]);
    assert_refused(load("[session]\nbuffer_size = 5"), &["found 5"]);
    assert_refused(load("[limits]\nwrite_stall = 10"), &["with a unit", "found 10"]);
    assert_refused(load("[limits]\nfragments_max = -1"), &["from 1 to 1000000"]);
    assert_refused(load("[shards]\nreceive_buffers = 1000"), &["a power of two"]);
    assert_refused(load("session = 5"), &["expected a table, written [session]"]);
    assert_refused(load("[role]\nname = \"x\""), &["written [[role]]"]);
    assert_refused(load("[auth]\nsession_claim = []"), &["not empty"]);
}

#[test]
fn an_element_of_a_list_is_pointed_at() {
    let text = "[listen.public]\naddress = [\"127.0.0.1:1\", \"nowhere\"]";
    assert_refused(load(text), &["corelane.toml:2:27: ", "found \"nowhere\""]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "[limits]\nfragments_max = 0\nwrite_stall = 1\ncolour = 2\n[auth]\nquery = 3";
    assert_eq!(refusals(load(text)).len(), 4);
}

#[test]
fn broken_toml_is_reported_with_its_line() {
    assert!(refusals(load("[limits]\nfragments_max = = 3"))[0].starts_with("corelane.toml:2:"));
}

#[test]
fn the_report_shows_the_line_of_the_file() {
    let refused = load("[listen.public]\nadress = 1").unwrap_err();
    let report = format!("{:?}", miette::Report::new(refused));
    assert!(report.contains("corelane.toml:2:1"), "{report}");
    assert!(report.contains("adress = 1"), "{report}");
    assert!(report.contains("did you mean `address`?"), "{report}");
}

#[test]
fn keys_that_are_not_built_pass_at_their_default_only() {
    let default = "rpc_cleanup_interval_seconds = 30\nmessage_queue_size = 1000\n\
                   companion_room_mode = \"disabled\"";
    assert!(load(&format!("[session]\n{default}")).is_ok());
    let text = "[session]\nmessage_queue_size = 999";
    assert_refused(load(text), &["`message_queue_size`", "limits.outbox_*"]);
    assert!(with_variable("CONNECT_MESSAGE_QUEUE_SIZE", "1000").is_ok());
    assert_refused(with_variable("CONNECT_MESSAGE_QUEUE_SIZE", "1"), &["limits.outbox_*"]);
}

/// Least and greatest value.
type Bounds = Option<(u32, u32)>;

/// The protocol's variables with its defaults and, where it has them, its bounds.
const OF_THE_PROTOCOL: [(&str, &str, Bounds); 32] = [
    ("MAX_CONCURRENT_CONNECTIONS", "10000", Some((1, 1_000_000))),
    ("HEARTBEAT_INTERVAL_SECONDS", "30", Some((1, 300))),
    ("MESSAGE_QUEUE_SIZE", "1000", None),
    ("BUFFER_SIZE", "65536", Some((1024, 1_048_576))),
    ("ENABLE_CLIENT_TO_CLIENT_ROUTING", "true", None),
    // Zero switches the limit off.
    ("MAX_MESSAGES_PER_MINUTE", "1000", Some((0, 100_000))),
    ("RATE_LIMIT_WINDOW_MINUTES", "1", Some((1, 60))),
    ("SERVER_SALT", "a salt that is not the public one", None),
    ("CONNECTION_MODE", "External", None),
    ("INTERNAL_AUTH_MODE", "ServiceToken", None),
    ("INTERNAL_SERVICE_TOKEN", "", None),
    ("SESSION_TTL_SECONDS", "86400", Some((60, 604_800))),
    ("HEARTBEAT_TTL_SECONDS", "300", Some((10, 3600))),
    ("RECONNECTION_WINDOW_SECONDS", "300", Some((10, 3600))),
    ("RECONNECTION_WINDOW_EXTENSION_MINUTES", "1", Some((1, 60))),
    ("HTTP_CLIENT_TIMEOUT_SECONDS", "120", None),
    ("MAX_CHANNEL_NUMBER", "1000", Some((1, 65_535))),
    ("RPC_CLEANUP_INTERVAL_SECONDS", "30", None),
    ("DEFAULT_RPC_TIMEOUT_SECONDS", "30", Some((1, 300))),
    ("CONNECTION_CLEANUP_INTERVAL_SECONDS", "30", None),
    ("INACTIVE_CONNECTION_TIMEOUT_MINUTES", "30", Some((1, 1440))),
    ("PENDING_MESSAGE_TIMEOUT_SECONDS", "30", None),
    ("CONNECTION_SHUTDOWN_TIMEOUT_SECONDS", "5", Some((1, 60))),
    ("COMPANION_ROOM_MODE", "Disabled", None),
    ("COMPRESSION_ENABLED", "false", None),
    ("COMPRESSION_THRESHOLD_BYTES", "1024", Some((64, 1_048_576))),
    ("COMPRESSION_QUALITY", "1", Some((0, 11))),
    ("MULTINODE_BROADCAST_MODE", "None", None),
    ("BROADCAST_INTERNAL_URL", "", None),
    ("BROADCAST_HEARTBEAT_INTERVAL_SECONDS", "30", Some((5, 300))),
    ("BROADCAST_STALE_THRESHOLD_SECONDS", "90", Some((15, 600))),
    ("WEBSOCKET_KEEP_ALIVE_INTERVAL_SECONDS", "30", None),
];

#[test]
fn every_variable_of_the_protocol_is_understood_within_its_bounds_or_refused_with_a_reason() {
    for (name, default, bounds) in OF_THE_PROTOCOL {
        let variable = format!("CONNECT_{name}");
        // What does not fit together is refused, too.
        let companion = match name {
            "BROADCAST_STALE_THRESHOLD_SECONDS" => ("nodes.heartbeat_interval_seconds", "5"),
            _ => ("nodes.stale_threshold_seconds", "600"),
        };
        let set = |value: &str| {
            let mut sources = sources(SALT);
            sources.overrides.environment.insert(variable.clone(), value.into());
            sources.overrides.flags.push((companion.0.into(), companion.1.into()));
            Config::load(&sources)
        };
        assert!(set(default).is_ok(), "{variable}={default}");
        if let Some((least, greatest)) = bounds {
            for (value, taken) in [
                (i64::from(least) - 1, false),
                (i64::from(least), true),
                (i64::from(greatest), true),
                (i64::from(greatest) + 1, false),
            ] {
                // What does not fit together with other keys is refused by their names.
                let refused =
                    set(&value.to_string()).err().map(|refused| refused.lines().collect());
                let lines: Vec<String> = refused.unwrap_or_default();
                let understood = !lines.iter().any(|line| line.contains(&variable));
                assert_eq!(understood, taken, "{variable}={value}: {lines:?}");
            }
        }
        if let Some(key) = unsupported::Unsupported::by_variable(&variable) {
            assert_eq!(key.default, default, "{variable}");
            assert_refused(set("7"), &[&variable, key.reason]);
        }
    }
    let known: usize = TABLES
        .iter()
        .flat_map(|table| table.keys.iter().filter_map(|key| table.variable(key)))
        .filter(|variable| variable.starts_with("CONNECT_"))
        .count();
    assert_eq!(known + unsupported::UNSUPPORTED.len(), OF_THE_PROTOCOL.len());
}

#[test]
fn the_internal_mode_needs_its_secret_unless_the_network_is_trusted() {
    let load = |more: &str| load(&format!("[session]\nconnection_mode = \"internal\"\n{more}"));
    let secret = |text: &str| format!("[listen.internal]\nservice_token = {text:?}");
    assert_refused(load(""), &["listen.internal.service_token", "NetworkTrust"]);
    assert_refused(load(&secret("")), &["listen.internal.service_token"]);
    for spelling in ["NetworkTrust", "networktrust", "network-trust", "Network-Trust"] {
        let config = load(&format!("internal_auth_mode = {spelling:?}")).unwrap();
        assert_eq!(config.session.internal_auth_mode, InternalAuthMode::NetworkTrust);
        assert!(config.warnings().iter().any(|warning| warning.contains("NetworkTrust")));
    }
    for spelling in ["ServiceToken", "SERVICE-TOKEN"] {
        let text = format!("internal_auth_mode = {spelling:?}\n{}", secret("hush"));
        let config = load(&text).unwrap();
        assert_eq!(config.session.internal_auth_mode, InternalAuthMode::ServiceToken);
        assert!(!format!("{config:?}").contains("hush"));
    }
    let lines = refusals(load(&secret("hush hush")));
    assert!(lines[0].contains("service_token") && !lines[0].contains("hush"), "{lines:?}");
}

#[test]
fn one_route_for_tokens_must_be_open() {
    let none = "[auth]\nheader = false\nquery = false\n";
    assert_refused(load(none), &["auth.cookie", "nobody could connect"]);
    for route in ["subprotocol = true", "cookie = \"sid\""] {
        assert!(load(&format!("{none}{route}")).is_ok(), "{route}");
    }
    let warned = |text| load(text).unwrap().warnings().iter().any(|w| w.contains("auth.origins"));
    assert!(warned("[auth]\ncookie = \"sid\""));
    assert!(!warned("[auth]\ncookie = \"sid\"\norigins = [\"https://game.example\"]"));
}

#[test]
fn who_else_judges_tokens_is_named_once_and_counted_in_memory() {
    let set = |url: &str, more: &str| {
        format!("[[auth.jwks]]\nurl = {url:?}\nissuer = \"i\"\naudience = \"a\"\n{more}\n")
    };
    let one = set("https://login.example/keys", "native = true");
    let text = format!("[auth.validate]\nurl = \"http://auth:8080/validate\"\n{one}");
    let config = load(&text).unwrap();
    assert_eq!(config.auth_jwks[0].refresh, secs(300));
    assert!(config.auth_jwks[0].url.is_https());
    let bytes = |config: &Config| MemoryBudget::of(config, 2).total();
    assert!(bytes(&config) >= bytes(&load("").unwrap()) + 2 * 256 * (64 << 10));
    assert!(!config.warnings().iter().any(|warning| warning.contains("401")));

    assert_refused(load(&[&*one, &one].concat()), &["stands twice"]);
    let other =
        "[[auth.jwks]]\nurl = \"http://b\"\nissuer = \"j\"\naudience = \"a\"\nnative = true";
    assert_refused(load(&format!("{one}{other}")), &["only one issuer can be native"]);
    let missing = "[auth.validate]\nurl = \"auth:8080\"";
    assert_refused(load(missing), &["auth.validate.url", "a URL such as"]);
    let changed = text.replace("8080", "8081");
    let changes = config.restart_changes(&load(&changed).unwrap());
    assert_eq!(changes, ["auth.validate.url"]);
}

#[test]
fn origins_are_written_as_browsers_send_them() {
    let origins = |list: &str| load(&format!("[auth]\norigins = [{list}]"));
    let good = "\"https://Game.example\", \"http://[::1]:3000\", \"null\"";
    let expected = ["https://game.example", "http://[::1]:3000", "null"];
    assert_eq!(origins(good).unwrap().auth.origins, expected);
    for bad in ["https://game.example/", "game.example", "https://", "https://*.example", "*", ""] {
        assert_refused(origins(&format!("{bad:?}")), &["auth.origins", "an origin"]);
    }
}

#[test]
fn a_missing_key_of_a_row_is_reported_at_the_row() {
    let text = "\n[[role]]\nname = \"user\"";
    assert_refused(load(text), &["corelane.toml:2:1: ", "[[role]] lacks `endpoints`"]);
}

#[test]
fn references_and_names_are_checked_across_tables() {
    let misspelt = DEMO.replace("\"game:/game/move\"", "\"game:/game/mvoe\"");
    assert_refused(load(&misspelt), &[":17:14: ", "did you mean \"game:/game/move\"?"]);
    let unknown = format!("[priority]\nroles = [\"admin\"]\n{DEMO}");
    assert_refused(load(&unknown), &["no [[role]] is called \"admin\""]);
    let mixed = DEMO.replace("http://demo.internal", "link://demo.internal");
    assert_refused(load(&mixed), &["one scheme"]);
    let repeated = DEMO.replace("/demo/{id}", "/demo/echo");
    assert_refused(load(&repeated), &["demo:/demo/echo stands twice"]);
    let elsewhere = DEMO
        .replace("name = \"game\"", "name = \"demo\"")
        .replace("path = \"/game/move\"", "path = \"/demo/echo\"")
        .replace("\"game:/game/move\", ", "");
    assert_refused(load(&elsewhere), &["demo:/demo/echo stands twice"]);
    let reserved = DEMO.replace("\"game", "\"shortcut");
    assert_refused(load(&reserved), &["the protocol's own"]);
}

#[test]
fn a_service_may_be_reached_in_two_ways() {
    let shared = DEMO.replace("\"game", "\"demo");
    let snapshot = load(&shared).unwrap().snapshot(1, 0);
    let of = |endpoint: usize| {
        let service = snapshot.endpoints[endpoint].service;
        &snapshot.services[usize::from(service.0)]
    };
    assert_eq!((&*of(0).name, &of(0).kind), ("demo", &UpstreamKind::Http));
    assert_eq!(&*of(2).name, "demo");
    assert!(matches!(of(2).kind, UpstreamKind::Link { .. }));
    // `demo:*` means all of them.
    assert_eq!(*snapshot.roles[0].endpoints, [0, 1, 2].map(EndpointId));
}

#[test]
fn phases_sizes_and_listeners_must_fit_together() {
    assert_refused(load("[drain]\nspread = \"40s\""), &["drain.deadline", "(53s)"]);
    assert_refused(
        load("[limits]\nmessage_bytes_hard = \"32KiB\""),
        &["limits.message_bytes_hard"],
    );
    assert_refused(load("[listen.admin]\naddress = \"0.0.0.0:1\""), &["loopback"]);
    assert_refused(load("[listen.admin]\naddress = \"127.0.0.1:8080\""), &["a public address"]);
    assert_refused(load("[echo]\npath = \"/connect\""), &["echo.path"]);
    assert_refused(load("[auth]\nheader = false\nquery = false"), &["nobody could connect"]);
}

#[test]
fn a_file_that_cannot_be_read_is_reported_at_its_key() {
    let key = "[[auth.key]]\nid = \"a\"\nalgorithm = \"HS256\"\nfile = \"/nonexistent/key\"\n\
               issuer = \"i\"\naudience = \"o\"";
    assert_refused(load(key), &["corelane.toml:4:8: ", "cannot read /nonexistent/key"]);
}

#[test]
fn key_ids_are_unique_and_one_issuer_at_most_is_native() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("native");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
    let key = |id: &str, issuer: &str| {
        format!(
            "[[auth.key]]\nid = {id:?}\nalgorithm = \"HS256\"\nfile = {file:?}\n\
             issuer = {issuer:?}\naudience = \"o\"\nnative = true\n"
        )
    };
    let rotated = format!("{}{}", key("old", "one"), key("new", "one"));
    assert!(load(&rotated).is_ok());
    let same = format!("{}{}", key("old", "one"), key("old", "one"));
    assert_refused(load(&same), &[":9:6: ", "two keys have the id \"old\""]);
    let two = format!("{}{}", key("old", "one"), key("new", "two"));
    assert_refused(load(&two), &[":14:10: ", "only one issuer can be native"]);
}

#[test]
fn a_key_file_must_hold_a_key_of_its_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "0123456789abcdef0123456789abcde\n").unwrap();
    let key = |algorithm: &str| {
        format!(
            "[[auth.key]]\nid = \"a\"\nalgorithm = {algorithm:?}\nfile = {file:?}\n\
             issuer = \"i\"\naudience = \"o\""
        )
    };
    assert_refused(load(&key("HS256")), &[":4:8: ", "has 31 bytes"]);
    assert_refused(load(&key("EdDSA")), &[":4:8: ", "no PEM key for EdDSA"]);
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let config = load(&key("HS256")).unwrap();
    assert_eq!(config.auth_keys[0].read_file().unwrap().len(), 32);
}

#[test]
fn the_token_of_a_link_is_read_and_must_fit_a_header() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let text = DEMO.replace("call_timeout = \"3s\"", &format!("token_file = {file:?}"));
    std::fs::write(&file, "of the link\n").unwrap();
    assert_refused(load(&text), &["holds no token of one line"]);
    std::fs::write(&file, "of-the-link\n").unwrap();
    let kind = load(&text).unwrap().snapshot(1, 0).services[1].kind.clone();
    let token = Some("of-the-link".into());
    assert_eq!(kind, UpstreamKind::Link { path: LINK_PATH.into(), token });
}

#[test]
fn services_become_indexed_endpoints_and_roles_find_them() {
    let config = load(DEMO).unwrap();
    let snapshot = config.snapshot(7, 0);
    assert_eq!(snapshot.version, 7);
    assert_eq!(&*snapshot.salt, "of our own");
    let paths: Vec<_> = snapshot.endpoints.iter().map(|endpoint| &*endpoint.path).collect();
    assert_eq!(paths, ["/demo/echo", "/demo/{id}", "/game/move"]);
    assert_eq!(snapshot.endpoints[1].method, Method::Get);
    assert_eq!(*snapshot.roles[0].endpoints, [0, 1, 2].map(EndpointId));
    let [demo, game] = &*snapshot.services else { panic!("two services") };
    assert_eq!((demo.call_timeout, game.call_timeout), (secs(25), secs(3)));
    assert_eq!((demo.connections_max, game.connections_max), (64, 1));
    assert_eq!(&*demo.host, "127.0.0.1:7000");
    assert_eq!(game.kind, UpstreamKind::Link { path: LINK_PATH.into(), token: None });
    let upstreams: Vec<_> = config.upstreams().collect();
    assert_eq!(upstreams[0].1[1], Upstream::Name { host: "demo.internal".into(), port: 7000 });
}

#[test]
fn a_name_that_begins_like_a_service_does_not_open_it() {
    let text = format!(
        "{DEMO}\n[[service]]\nname = \"dem\"\naddresses = [\"http://a:1\"]\n\
                        endpoints = [{{ path = \"/demo/echo\" }}]\n\
                        [[role]]\nname = \"other\"\nendpoints = [\"dem:*\"]"
    );
    assert_eq!(*load(&text).unwrap().snapshot(1, 0).roles[1].endpoints, [EndpointId(3)]);
}

#[test]
fn a_reload_may_change_live_keys_and_names_the_others() {
    let old = load(DEMO).unwrap();
    let mut new = old.clone();
    new.limits.fragments_max = 9;
    new.services.clear();
    assert_eq!(old.restart_changes(&new), Vec::<String>::new());
    new.shards.receive_buffers = 64;
    new.control.node = Auto::Fixed(3);
    assert_eq!(old.restart_changes(&new), ["shards.receive_buffers", "control.node"]);
}

#[test]
fn a_number_of_nodes_own_choice_needs_redis() {
    let auto = "[control]\nnode = \"auto\"\n";
    assert_refused(load(auto), &[":2:8: ", "redis.url", "two nodes"]);
    let config = load(&format!("{auto}[redis]\nurl = \"redis://127.0.0.1:6379\"")).unwrap();
    assert_eq!(config.control.node, Auto::Auto);
}

#[test]
fn a_node_is_not_taken_for_gone_between_two_signs_of_life() {
    let load = |beat: u32, stale: u32| {
        load(&format!(
            "[nodes]\nheartbeat_interval_seconds = {beat}\nstale_threshold_seconds = {stale}"
        ))
    };
    assert!(load(15, 16).is_ok());
    assert_refused(load(15, 15), &[":3:27: ", "nodes.heartbeat_interval_seconds"]);
}

#[test]
fn a_share_is_kept_to_the_millionth_or_refused() {
    let sampled = |value: &str| {
        let config = load(&format!("[tracing]\nsample = {value}"))?;
        Ok::<_, Refused>(config.snapshot(1, 0).tracing.sampled_per_million)
    };
    let kept = [
        ("0", 0),
        ("0.0", 0),
        ("1", 1_000_000),
        ("1.0", 1_000_000),
        ("0.01", 10_000),
        ("0.000001", 1),
        ("0.29", 290_000),
        ("1e-3", 1000),
    ];
    for (value, per_million) in kept {
        assert_eq!(sampled(value).unwrap(), per_million, "{value}");
    }
    for value in ["1.1", "-0.1", "2", "0.0000001", "0.1234567", "nan", "inf", "\"0.1\"", "true"] {
        assert!(sampled(value).is_err(), "{value}");
    }
    let config = with_variable("CORELANE_TRACING_SAMPLE", "0.5").unwrap();
    assert_eq!(config.tracing.sample, Share { per_million: 500_000 });
}

#[test]
fn the_shards_are_told_what_is_traced() {
    assert_eq!(Config::default().snapshot(1, 0).tracing, Tracing::default());
    let text = "[tracing]\nsample = 0.5\notlp_endpoint = \"http://otel:4318\"\n\
                correlation_id = true\naccept_from_clients = true";
    let config = load(text).unwrap();
    assert_eq!(
        config.snapshot(1, 0).tracing,
        Tracing {
            sampled_per_million: 500_000,
            export: true,
            accept_from_clients: true,
            correlation_id: true,
        }
    );
    let warns = |config: &Config| {
        config.warnings().iter().filter(|warning| warning.contains("tracing.")).count()
    };
    assert_eq!(warns(&config), 0);
    assert_eq!(warns(&load(&text.replace("0.5", "0")).unwrap()), 2);
}

#[test]
fn the_conformance_profile_raises_limits_and_keeps_higher_ones() {
    let config = load("[limits]\nprofile = \"conformance\"\noutbox_bytes_max = \"1GiB\"").unwrap();
    let limits = config.session_limits();
    assert!(limits.message_bytes_max > 16 << 20 && limits.message_bytes_hard > 16 << 20);
    assert_eq!((limits.messages_per_window, limits.outbox_bytes_max), (0, 1 << 30));
}

#[test]
fn the_debug_form_of_a_configuration_hides_secrets() {
    assert!(!format!("{:?}", load(DEMO).unwrap()).contains("of our own"));
}

#[test]
fn the_internal_listener_does_not_start_without_a_token() {
    let on = "[listen.internal]\naddress = \"127.0.0.1:9200\"\n";
    assert_refused(load(on), &[":2:11: ", "service_token", "CONNECT_INTERNAL_SERVICE_TOKEN"]);
    assert_refused(load(&format!("{on}service_token = \"\"")), &["is not set"]);
    let config = load(&format!("{on}service_token = \"abc\"")).unwrap();
    assert_eq!(config.listen_internal.address.unwrap().port(), 9200);
    assert!(load("[listen.internal]\nservice_token = \"abc\"").is_ok());
    let lines = refusals(load(&format!("{on}service_token = \"of two words\"")));
    assert!(!lines.join("\n").contains("words\""), "{lines:?}");
    assert_refused(load("[session]\ninternal_service_token = \"x\""), &["in [listen.internal]"]);
}

#[test]
fn the_internal_listener_has_an_address_of_its_own() {
    for taken in ["127.0.0.1:8080", "127.0.0.1:9100"] {
        let text = format!("[listen.internal]\naddress = {taken:?}\nservice_token = \"x\"");
        assert_refused(load(&text), &[":2:11: ", "another listener"]);
    }
}

#[test]
fn a_service_token_on_a_public_address_is_warned_of() {
    let warned = |address: &str| {
        let text = format!("[listen.internal]\naddress = {address:?}\nservice_token = \"x\"");
        let warnings = load(&text).unwrap().warnings();
        warnings.iter().any(|warning| warning.contains("listen.internal.address"))
    };
    for private in ["127.0.0.1:1", "10.1.2.3:1", "192.168.1.1:1", "[::1]:1", "[fd00::1]:1"] {
        assert!(!warned(private), "{private}");
    }
    for public in ["0.0.0.0:1", "203.0.113.7:1", "[::]:1", "[2001:db8::1]:1"] {
        assert!(warned(public), "{public}");
    }
}

#[test]
fn what_was_written_is_shown_with_its_layer_and_without_secrets() {
    let text = format!(
        "[listen.internal]\nservice_token = \"of services\"\n[limits]\nfragments_max = 9\n\
         [priority]\nroles = [\"user\"]\n{DEMO}"
    )
    .replace("of services", "of-services");
    let mut sources = sources(&text);
    sources.overrides.flags.push(("session.server_salt".into(), "of our own".into()));
    let variable = "CONNECT_BUFFER_SIZE".to_owned();
    sources.overrides.environment.insert(variable, "70000".into());
    let shown = Config::load(&sources).unwrap().shown.json();
    assert!(!shown.contains("of our own") && !shown.contains("of-services"), "{shown}");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    for (path, value, from) in [
        ("limits.fragments_max", serde_json::json!(9), "file"),
        ("limits.control_frames_per_second", serde_json::json!(20), "default"),
        ("session.buffer_size", serde_json::json!("70000"), "variable CONNECT_BUFFER_SIZE"),
        ("session.server_salt", serde_json::json!("(secret)"), "flag"),
        ("listen.internal.service_token", serde_json::json!("(secret)"), "file"),
        ("priority.roles", serde_json::json!(["user"]), "file"),
        ("service.0.endpoints.1.path", serde_json::json!("/demo/{id}"), "file"),
    ] {
        assert_eq!(shown[path], serde_json::json!({ "value": value, "from": from }), "{path}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let path = Some("/nonexistent/corelane.toml".into());
    let error = ConfigSource { path, flags: Vec::new() }.load().unwrap_err();
    assert!(error.to_string().contains("/nonexistent/corelane.toml"), "{error}");
}

#[test]
fn the_default_limits_of_the_door_are_those_of_the_shard() {
    assert_eq!(Config::default().door_limits(), DoorLimits::default());
}

#[test]
fn networks_are_named_in_lists_variables_and_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deny");
    std::fs::write(&file, "# nuisances\n198.51.100.0/24\n").unwrap();
    let text =
        format!("[limits]\ndeny = [\"203.0.113.0/24\", \"2001:db8::1\"]\ndeny_file = {file:?}");
    let config = load(&text).unwrap();
    let denied = |text: &str| config.door_limits().deny.contains(text.parse().unwrap());
    assert!(["203.0.113.9", "2001:db8::1", "198.51.100.1"].into_iter().all(denied));
    assert!(!["203.0.114.9", "2001:db8::2"].into_iter().any(denied));
    std::fs::write(&file, "198.51.100.0/24\n198.51.100.1/24\n").unwrap();
    assert_refused(load(&text), &["corelane.toml:3:13: ", "line 2: \"198.51.100.1/24\""]);
    std::fs::remove_file(file).unwrap();
    assert_refused(load(&text), &["cannot read"]);

    let config = with_variable("CORELANE_LIMITS_DENY", "203.0.113.0/24, ::1").unwrap();
    assert_eq!(config.limits.deny.len(), 2);
    let wrong = load("[limits]\ndeny = [\"203.0.113.9/24\"]");
    assert_refused(wrong, &["with zeros behind its prefix", "203.0.113.9/24"]);
    let budget = MemoryBudget::of(&config, 1).total();
    assert!(budget > MemoryBudget::of(&load("").unwrap(), 1).total());
}

#[test]
fn proxies_are_trusted_by_name_and_speak_in_one_way_that_is_chosen() {
    for key in ["proxy_protocol = \"v2\"", "forwarded = \"X-Forwarded-For\""] {
        let wrong = load(&format!("[listen.public]\n{key}"));
        assert_refused(wrong, &[key.split(' ').next().unwrap(), "trusted_proxies"]);
    }
    let config = load(
        "[listen.public]\ntrusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = \"any\"\n\
         forwarded = \"forwarded\"",
    );
    let public = config.unwrap().listen_public;
    assert_eq!(public.proxy_protocol, Some(Versions::Any));
    assert_eq!(public.forwarded, Some(ForwardedField::Forwarded));
    let warned = |text: &str, of: &str| {
        let config = load(&format!("[listen.public]\n{text}")).unwrap();
        config.warnings().iter().any(|warning| warning.contains(of))
    };
    assert!(warned("trusted_proxies = [\"10.0.0.0/8\"]", "does nothing"));
    assert!(warned("trusted_proxies = [\"0.0.0.0/0\"]\nproxy_protocol = \"v1\"", "everybody"));
    assert!(!warned("trusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = \"v1\"", "trusted"));
}

#[test]
fn connections_are_shed_before_calls_and_not_always() {
    assert_refused(load("[limits]\nshed_connections_at = 0.95"), &["limits.shed_calls_at"]);
    assert_refused(load("[limits]\nshed_connections_at = 0"), &["nobody in"]);
    let off = load("[limits]\nshed_connections_at = 1\nshed_calls_at = 1").unwrap();
    assert_eq!(off.door_limits().shed_calls_per_million, 1_000_000);
}

#[test]
fn who_is_kept_out_is_reloaded_and_who_is_trusted_is_not() {
    let changes = |text: &str| load("").unwrap().restart_changes(&load(text).unwrap());
    let live = "[limits]\ndeny = [\"::1\"]\nunauthenticated_max = 100\nhandshakes_per_second = 5\n\
                unauthenticated_per_address = 3\nshed_connections_at = 0.5";
    assert!(changes(live).is_empty());
    let proxies = "[listen.public]\ntrusted_proxies = [\"::1\"]\nproxy_protocol = \"v1\"";
    assert_eq!(changes(proxies), ["listen.public.trusted_proxies", "listen.public.proxy_protocol"]);
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\[{1,2}[a-z.]{0,12}\\]{1,2}\n)?([a-z_]{1,20} = .{0,12}\n){0,3}") {
        drop(load(&text));
    }

    #[test]
    fn a_value_set_by_variable_is_the_value(count in 1_u32..=1_000_000) {
        let name = "CORELANE_LIMITS_CONTROL_FRAMES_PER_SECOND";
        let config = with_variable(name, &count.to_string()).unwrap();
        prop_assert_eq!(config.limits.control_frames_per_second, count);
    }
}

#[test]
fn redis_has_one_password_and_none_in_its_url() {
    let load = |text: &str| load(&format!("[redis]\n{text}"));
    let url = |text: &str| format!("url = {text}");
    let redis = load(&url("[\"redis://a:1\", \"redis://b:2\"]")).unwrap().redis;
    assert_eq!(redis.url.unwrap().servers.len(), 2);
    assert!(load(&url("\"off\"")).unwrap().redis.url.is_none());
    assert_refused(load(&url("\"redis://:hush@a:1\"")), &["redis.url", "keys of their own"]);
    let told = refusals(with_variable("CORELANE_REDIS_URL", "redis://:hush@a:1"));
    assert!(!told.join("").contains("hush"), "{told:?}");
    let folder = std::env::temp_dir();
    let missing = folder.join("corelane-no-such-password");
    assert_refused(load(&format!("password_file = {missing:?}")), &["cannot read"]);
    let both = format!("password = \"hush\"\npassword_file = {missing:?}");
    let lines = refusals(load(&both));
    assert!(lines.iter().any(|line| line.contains("one is enough")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("hush")), "{lines:?}");
    let shown = load("password = \"hush\"").unwrap().shown.json();
    assert!(!shown.contains("hush"), "{shown}");
}

#[test]
fn heartbeats_that_come_late_are_warned_of() {
    let warned = |life: u32| {
        let text = format!(
            "[redis]\nurl = \"redis://a:1\"\n[session]\nheartbeat_interval_seconds = 30\n\
             heartbeat_ttl_seconds = {life}"
        );
        let warnings = load(&text).unwrap().warnings();
        warnings.iter().any(|line| line.contains("heartbeat_interval_seconds"))
    };
    assert!(warned(59) && !warned(60));
}
