//! What no single key can know: relations between keys, references between tables.

use std::collections::HashSet;
use std::net::IpAddr;

use super::nearest::nearest;
use super::problem::Problem;
use super::quantity::{show_duration, show_size};
use super::reader::Notes;
use super::upstream::Scheme;
use super::{
    Auto, CertificateDemand, Config, ConnectionMode, InternalAuthMode, Profile, WELL_KNOWN_SALT,
};
use crate::control::nodes::BroadcastMode;
use crate::events::ClientEventNames;

/// Paths that the gateway itself serves.
const OWN_PATHS: [&str; 2] = ["/connect", "/health"];

/// `service` of a shortcut's manifest entry.
const RESERVED_SERVICE: &str = "shortcut";

/// Listeners are numbered with 8 bits.
const LISTENERS_MAX: usize = u8::MAX as usize;

/// Endpoints and services are numbered with 16 bits.
const ENDPOINTS_MAX: usize = u16::MAX as usize;

pub(super) fn cross_check(config: &Config, notes: &mut Notes) {
    check_listeners(config, notes);
    check_tls(config, notes);
    check_proxies(config, notes);
    check_shedding(config, notes);
    check_auth(config, notes);
    check_session(config, notes);
    check_redis(config, notes);
    check_drain(config, notes);
    check_services(config, notes);
    check_roles(config, notes);
    check_events(config, notes);
    check_nodes(config, notes);
}

fn report(notes: &mut Notes, path: &str, message: impl Into<String>) {
    let origin = notes.origin(path);
    notes.report(Problem::new(origin, message));
}

fn check_listeners(config: &Config, notes: &mut Notes) {
    if config.listen_public.address.is_empty() && config.listen_tls.address.is_empty() {
        let message = "`listen.public.address` and `listen.tls.address` are both empty: nobody could \
                       connect";
        report(notes, "listen.public.address", message);
    }
    if config.listen_public.address.len() + config.listen_tls.address.len() > LISTENERS_MAX {
        let message =
            format!("more than {LISTENERS_MAX} addresses of `listen.public` and `listen.tls`");
        report(notes, "listen.public.address", message);
    }
    let admin = config.listen_admin.address;
    if !admin.ip().is_loopback() {
        let message = format!("`listen.admin.address`: {admin} is not a loopback address");
        report(notes, "listen.admin.address", message);
    }
    if admin.port() != 0 && config.listen_public.address.contains(&admin) {
        let message = format!("`listen.admin.address`: {admin} is a public address too");
        report(notes, "listen.admin.address", message);
    }
    check_internal_listener(config, notes);
    if OWN_PATHS.contains(&config.echo.path.as_str()) {
        let message = format!("`echo.path`: {} is served by the gateway itself", config.echo.path);
        report(notes, "echo.path", message);
    }
}

fn check_tls(config: &Config, notes: &mut Notes) {
    let tls = &config.listen_tls;
    if !tls.address.is_empty() && config.certificates.is_empty() {
        let origin = notes.origin("listen.tls.address");
        let message = "`listen.tls.address` is set and there is no [[listen.tls.certificate]]";
        notes.report(
            Problem::new(origin, message)
                .help("name the PEM files of a certificate and of its key, or `address = []`"),
        );
    }
    if tls.client_certificates != CertificateDemand::Off && tls.client_roots.is_none() {
        let origin = notes.origin("listen.tls.client_certificates");
        let message = "`listen.tls.client_certificates` is on and `listen.tls.client_roots` is \
                       off: no certificate could be judged";
        notes.report(
            Problem::new(origin, message).help("name a PEM file of the roots that you trust"),
        );
    }
    let internal = &config.listen_internal;
    let others = config.listen_public.address.iter().chain([&config.listen_admin.address]);
    let others = others.chain(&internal.address).chain(&internal.endpoint_meta_address);
    let taken: HashSet<_> = others.filter(|address| address.port() != 0).collect();
    for address in tls.address.iter().filter(|address| taken.contains(address)) {
        let message =
            format!("`listen.tls.address`: {address} is an address of another listener too");
        report(notes, "listen.tls.address", message);
    }
    let mut files = HashSet::new();
    for (index, row) in config.certificates.iter().enumerate() {
        if !files.insert(&row.certificate) {
            let message = format!("the certificate {} stands twice", row.certificate.display());
            report(notes, &format!("listen.tls.certificate.{index}.certificate"), message);
        }
    }
}

/// Nobody is believed to be a proxy unless it is said who is one.
fn check_proxies(config: &Config, notes: &mut Notes) {
    let public = &config.listen_public;
    if !public.trusted_proxies.is_empty() {
        return;
    }
    let used = [
        ("proxy_protocol", public.proxy_protocol.is_some()),
        ("forwarded", public.forwarded.is_some()),
    ];
    for (key, _) in used.into_iter().filter(|(_, set)| *set) {
        let path = format!("listen.public.{key}");
        let message = format!("`{path}` is on and `listen.public.trusted_proxies` is empty");
        let problem = Problem::new(notes.origin(&path), message);
        notes.report(problem.help("name the networks of your proxies"));
    }
}

fn check_shedding(config: &Config, notes: &mut Notes) {
    let limits = &config.limits;
    let [connections, calls] = [limits.shed_connections_at, limits.shed_calls_at];
    if connections.per_million == 0 {
        let message = "`limits.shed_connections_at` = 0 would let nobody in";
        report(notes, "limits.shed_connections_at", message);
    }
    if calls.per_million < connections.per_million {
        let message = "`limits.shed_calls_at` is less than `limits.shed_connections_at`: new \
                       connections are shed first";
        report(notes, "limits.shed_calls_at", message);
    }
}

fn check_internal_listener(config: &Config, notes: &mut Notes) {
    let Some(internal) = config.listen_internal.address else { return };
    if config.listen_internal.service_token.is_none() {
        let origin = notes.origin("listen.internal.address");
        let message = "`listen.internal.service_token` is not set: whoever reaches the internal \
                       listener could end sessions and act for players";
        notes.report(Problem::new(origin, message).help(
            "set it (CONNECT_INTERNAL_SERVICE_TOKEN keeps it out of the file), or \
             `address = \"off\"`",
        ));
    }
    let admin = config.listen_admin.address;
    let taken = internal == admin || config.listen_public.address.contains(&internal);
    if internal.port() != 0 && taken {
        let message =
            format!("`listen.internal.address`: {internal} is an address of another listener too");
        report(notes, "listen.internal.address", message);
    }
}

/// Whether everybody on the internet may reach the address, for all that it says.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_private() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unique_local() && !ip.is_unicast_link_local(),
    }
}

fn check_auth(config: &Config, notes: &mut Notes) {
    let auth = &config.auth;
    if !auth.header && !auth.subprotocol && !auth.query && auth.cookie.is_none() {
        let message = "`auth.header`, `auth.subprotocol`, `auth.query` and `auth.cookie` are all off: \
                       nobody could connect";
        report(notes, "auth.header", message);
    }
    let mut ids = HashSet::new();
    let mut urls = HashSet::new();
    for (index, set) in config.auth_jwks.iter().enumerate() {
        if !urls.insert(set.url.to_string()) {
            let message = format!("the set {} stands twice", set.url);
            report(notes, &format!("auth.jwks.{index}.url"), message);
        }
    }
    let mut native = None;
    for (index, key) in config.auth_keys.iter().enumerate() {
        if !ids.insert(&key.id) {
            let message = format!("two keys have the id {:?}", key.id);
            report(notes, &format!("auth.key.{index}.id"), message);
        }
        // An issuer that rotates its key has two of them for a while.
        if key.native && native.replace(&key.issuer).is_some_and(|other| *other != key.issuer) {
            let message = "only one issuer can be native: its session ids would meet another's";
            report(notes, &format!("auth.key.{index}.native"), message);
        }
    }
    for (index, set) in config.auth_jwks.iter().enumerate() {
        if set.native && native.replace(&set.issuer).is_some_and(|other| *other != set.issuer) {
            let message = "only one issuer can be native: its session ids would meet another's";
            report(notes, &format!("auth.jwks.{index}.native"), message);
        }
    }
}

fn check_session(config: &Config, notes: &mut Notes) {
    let session = &config.session;
    let limits = &config.limits;
    if session.server_salt.reveal() == WELL_KNOWN_SALT && !session.allow_well_known_salt {
        let origin = notes.origin("session.server_salt");
        let message = "`session.server_salt` is the public default: GUIDs could be forged";
        notes.report(Problem::new(origin, message).help(
            "set your own, the same on every node (CONNECT_SERVER_SALT keeps it out of the file), \
             or `allow_well_known_salt = true` for development",
        ));
    }
    let internal = session.connection_mode == ConnectionMode::Internal;
    let by_token = session.internal_auth_mode == InternalAuthMode::ServiceToken;
    if internal && by_token && config.listen_internal.service_token.is_none() {
        let origin = notes.origin("listen.internal.service_token");
        let message = "`listen.internal.service_token` is not set: no server could connect";
        notes.report(Problem::new(origin, message).help(
            "set it (CONNECT_INTERNAL_SERVICE_TOKEN keeps it out of the file), or \
             `internal_auth_mode = \"NetworkTrust\"` where the port is closed to all others",
        ));
    }
    let ceilings = [
        ("limits.message_bytes_hard", limits.message_bytes_hard),
        ("limits.outbox_bytes_max", limits.outbox_bytes_max),
        ("shards.block_pool_bytes", config.shards.block_pool_bytes),
    ];
    for (path, ceiling) in ceilings {
        if ceiling < session.buffer_size {
            let [size, ceiling] =
                [session.buffer_size, ceiling].map(|bytes| show_size(bytes as u64));
            let message = format!(
                "`{path}` = {ceiling} is less than one message (`session.buffer_size` = {size})"
            );
            report(notes, path, message);
        }
    }
}

fn check_redis(config: &Config, notes: &mut Notes) {
    let redis = &config.redis;
    if redis.password.is_some() && redis.password_file.is_some() {
        let message = "`redis.password` and `redis.password_file` are both set: one is enough";
        report(notes, "redis.password_file", message);
    }
}

fn check_drain(config: &Config, notes: &mut Notes) {
    let drain = &config.drain;
    let sum = drain.grace + drain.spread + drain.calls;
    if sum > drain.deadline {
        let message = format!(
            "`drain.deadline` = {} is less than grace, spread and calls together ({})",
            show_duration(drain.deadline),
            show_duration(sum)
        );
        report(notes, "drain.deadline", message);
    }
}

fn check_services(config: &Config, notes: &mut Notes) {
    let mut keys = HashSet::new();
    let mut endpoints = 0;
    for (index, service) in config.services.iter().enumerate() {
        let settings = &service.settings;
        let path = format!("service.{index}");
        if settings.name == RESERVED_SERVICE {
            report(notes, &format!("{path}.name"), "the name \"shortcut\" is the protocol's own");
        }
        let scheme = &settings.addresses[0].scheme;
        for (at, address) in settings.addresses.iter().enumerate() {
            if address.scheme != *scheme {
                let message = "all addresses of a service have one scheme and one link path";
                report(notes, &format!("{path}.addresses.{at}"), message);
            }
        }
        if *scheme == Scheme::Http && settings.token_file.is_some() {
            let message = "`token_file` is for links; an http backend is sent no token";
            report(notes, &format!("{path}.token_file"), message);
        }
        // Tables may share a name, so that a service can be reached in more than one way.
        for (at, endpoint) in service.endpoints.iter().enumerate() {
            if !keys.insert((&settings.name, &endpoint.path)) {
                let message = format!(
                    "{}:{} stands twice; a GUID names service and path, not the method",
                    settings.name, endpoint.path
                );
                report(notes, &format!("{path}.endpoints.{at}.path"), message);
            }
        }
        endpoints += service.endpoints.len();
    }
    if endpoints > ENDPOINTS_MAX || config.services.len() > ENDPOINTS_MAX {
        let message = format!("more than {ENDPOINTS_MAX} services or endpoints");
        report(notes, "service", message);
    }
}

fn check_roles(config: &Config, notes: &mut Notes) {
    let known: Vec<String> = config
        .services
        .iter()
        .flat_map(|service| {
            let name = &service.settings.name;
            let paths = service.endpoints.iter().map(move |one| format!("{name}:{}", one.path));
            paths.chain([format!("{name}:*")])
        })
        .collect();
    let mut names = HashSet::new();
    for (index, role) in config.roles.iter().enumerate() {
        if !names.insert(role.name.as_str()) {
            let message = format!("two roles are called {:?}", role.name);
            report(notes, &format!("role.{index}.name"), message);
        }
        for (at, endpoint) in role.endpoints.iter().enumerate() {
            if known.contains(endpoint) {
                continue;
            }
            let origin = notes.origin(&format!("role.{index}.endpoints.{at}"));
            let problem = Problem::new(origin, format!("no service has the endpoint {endpoint:?}"));
            notes.report(match nearest(endpoint, known.iter().map(String::as_str)) {
                Some(name) => problem.help(format!("did you mean {name:?}?")),
                None => problem.help("write `service:/path`, or `service:*` for all of a service"),
            });
        }
    }
    for (at, role) in config.priority.roles.iter().enumerate() {
        if !names.contains(role.as_str()) {
            let message = format!("no [[role]] is called {role:?}");
            report(notes, &format!("priority.roles.{at}"), message);
        }
    }
}

impl Config {
    /// What is legal but hardly meant; printed at start and by `corelane check`.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(address) = self.listen_internal.address.filter(|it| is_public(it.ip())) {
            found.push(format!(
                "listen.internal.address = {address} may be reached from outside, and the service \
                 token travels in plain text: take a private address"
            ));
        }
        found.extend(self.warnings_of_tls());
        found.extend(self.warnings_of_redis());
        found.extend(self.warnings_of_proxies());
        let internal = self.session.connection_mode == ConnectionMode::Internal;
        if internal && self.session.internal_auth_mode == InternalAuthMode::NetworkTrust {
            let message = "NetworkTrust: whoever reaches the public port is let in as a server";
            found.push(message.to_owned());
        }
        if self.auth.cookie.is_some() && self.auth.origins.is_empty() {
            let message = "auth.cookie without auth.origins: any page may connect as its visitor";
            found.push(message.to_owned());
        }
        let nobody_judges = self.auth_keys.is_empty()
            && self.auth_jwks.is_empty()
            && self.auth_validate.url.is_none();
        if nobody_judges && !internal {
            found.push(
                "no [[auth.key]], [[auth.jwks]] or auth.validate.url: every client is answered 401"
                    .to_owned(),
            );
        }
        for service in &self.services {
            if service.endpoints.is_empty() {
                found.push(format!("service {:?} has no endpoints", service.settings.name));
            }
        }
        if self.roles.is_empty() && !self.services.is_empty() {
            found.push("no [[role]]: no session may call any service".to_owned());
        }
        if self.limits.profile == Profile::Conformance {
            found.push("limits.profile is \"conformance\": for test suites only".to_owned());
        }
        if self.tracing.sample.per_million == 0 {
            let unused = [
                ("otlp_endpoint", self.tracing.otlp_endpoint.is_some()),
                ("accept_from_clients", self.tracing.accept_from_clients),
            ];
            for (key, _) in unused.into_iter().filter(|(_, set)| *set) {
                found.push(format!("tracing.{key} does nothing while tracing.sample is 0"));
            }
        }
        if self.session.server_salt.reveal() == WELL_KNOWN_SALT {
            found.push("the server salt is the public default: for development only".to_owned());
        }
        found
    }
}

impl Config {
    fn warnings_of_tls(&self) -> Vec<String> {
        let tls = &self.listen_tls;
        let mut found = Vec::new();
        if tls.address.is_empty() && !self.certificates.is_empty() {
            found.push(
                "[[listen.tls.certificate]] does nothing while listen.tls.address is empty"
                    .to_owned(),
            );
        }
        if tls.client_certificates == CertificateDemand::Off && tls.client_roots.is_some() {
            found.push(
                "listen.tls.client_roots does nothing while client_certificates is off".to_owned(),
            );
        }
        found
    }

    fn warnings_of_redis(&self) -> Vec<String> {
        let redis = &self.redis;
        let set = [
            ("sentinel", redis.sentinel.is_some()),
            ("user", redis.user.is_some()),
            ("password", redis.password.is_some()),
            ("password_file", redis.password_file.is_some()),
            ("key_prefix", redis.key_prefix.is_some()),
        ];
        let unused = set.into_iter().filter(|(_, set)| *set && redis.url.is_none());
        let mut found: Vec<String> = unused
            .map(|(key, _)| format!("redis.{key} does nothing while redis.url is off"))
            .collect();
        if redis.url.is_some() && self.session.connection_mode == ConnectionMode::Internal {
            found.push("redis.url does nothing in the Internal mode".to_owned());
        }
        let [interval, life] =
            [self.session.heartbeat_interval_seconds, self.session.heartbeat_ttl_seconds];
        if redis.url.is_some() && interval * 2 > life {
            found.push(format!(
                "session.heartbeat_interval_seconds = {} is more than half of heartbeat_ttl_seconds \
                 = {}: a node that is late loses its sessions",
                interval.as_secs(),
                life.as_secs()
            ));
        }
        found
    }

    fn warnings_of_proxies(&self) -> Vec<String> {
        let public = &self.listen_public;
        let mut found = Vec::new();
        let unused = public.proxy_protocol.is_none() && public.forwarded.is_none();
        if unused && !public.trusted_proxies.is_empty() {
            found.push(
                "listen.public.trusted_proxies does nothing while proxy_protocol and forwarded are off"
                    .to_owned(),
            );
        }
        if public.trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
            found.push(
                "listen.public.trusted_proxies trusts everybody: any client may choose its address"
                    .to_owned(),
            );
        }
        found
    }
}

fn check_events(config: &Config, notes: &mut Notes) {
    let names = &config.events.client_event_names;
    if let Err(reserved) = ClientEventNames::new(config.events.name_dialect, names) {
        let message = format!("`events.client_event_names`: {reserved}");
        report(notes, "events.client_event_names", message);
    }
}

/// Links come in at the internal listener, and nobody is linked to who cannot be.
fn check_nodes(config: &Config, notes: &mut Notes) {
    let nodes = &config.nodes;
    if config.control.node == Auto::Auto && config.redis.url.is_none() {
        let origin = notes.origin("control.node");
        let message = "`control.node` is \"auto\" and `redis.url` is off: nobody could see to it that no \
                       two nodes have one number";
        let problem = Problem::new(origin, message);
        notes.report(problem.help("set `redis.url`, or give every node a number of its own"));
    }
    if nodes.stale_threshold_seconds <= nodes.heartbeat_interval_seconds {
        let message = "`nodes.stale_threshold_seconds` is not more than \
                       `nodes.heartbeat_interval_seconds`: nodes would be taken for gone between two \
                       signs of life";
        report(notes, "nodes.stale_threshold_seconds", message);
    }
    if nodes.internal_url.is_some() {
        if config.listen_internal.address.is_none() {
            let origin = notes.origin("nodes.internal_url");
            let message = "`nodes.internal_url` is set and `listen.internal.address` is off: no node \
                           could reach this one";
            notes.report(Problem::new(origin, message).help("set `listen.internal.address`"));
        }
        return;
    }
    let unused =
        [("peers", !nodes.peers.is_empty()), ("broadcast", nodes.broadcast != BroadcastMode::None)];
    for (key, _) in unused.into_iter().filter(|(_, set)| *set) {
        let path = format!("nodes.{key}");
        let message =
            format!("`{path}` is set and `nodes.internal_url` is off: this node is alone");
        let problem = Problem::new(notes.origin(&path), message);
        notes.report(problem.help("say where the other nodes reach this one's internal listener"));
    }
}
