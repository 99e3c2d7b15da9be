//! The shards' view of a configuration. Addresses stay here: they are resolved on the control core
//! and reach the shards in messages of their own.

use std::sync::Arc;

use corelane_shard::compression::CompressionRules;
use corelane_shard::id::{EndpointId, ServiceId};
use corelane_shard::snapshot as shard;

use super::upstream::Scheme;
use super::{CloseCodes, Config, ConnectionMode, OnExpiry, RoleSettings, Service, Upstream};

/// Connections per shard to an http service that does not say.
const HTTP_CONNECTIONS: usize = 64;
/// Links per shard and backend for a service that does not say.
const LINKS: usize = 1;

impl Config {
    /// `node` is the number of this node, wherever it is from.
    #[must_use]
    pub fn snapshot(&self, version: u64, node: u16) -> shard::Snapshot {
        let mut endpoints = Vec::new();
        for (index, service) in (0_u16..).zip(&self.services) {
            endpoints.extend(service.endpoints.iter().map(|endpoint| shard::Endpoint {
                service: ServiceId(index),
                method: endpoint.method,
                path: endpoint.path.as_str().into(),
                idempotent: endpoint.idempotent,
            }));
        }
        shard::Snapshot {
            version,
            mode: match self.session.connection_mode {
                ConnectionMode::External => shard::ConnectionMode::External,
                ConnectionMode::Relayed => shard::ConnectionMode::Relayed,
                ConnectionMode::Internal => shard::ConnectionMode::Internal,
            },
            salt: self.session.server_salt.reveal().into(),
            node,
            services: self.services.iter().map(|service| self.service(service)).collect(),
            roles: self.roles.iter().map(|role| self.role(role, &endpoints)).collect(),
            endpoints: endpoints.into(),
            session: self.session_limits(),
            door: self.door_limits(),
            tracing: self.tracing(),
        }
    }

    /// Where the backends of each service listen, in the order of [`shard::Snapshot::services`].
    pub fn upstreams(&self) -> impl Iterator<Item = (ServiceId, Vec<Upstream>)> + '_ {
        (0_u16..).map(ServiceId).zip(&self.services).map(|(id, service)| {
            let addresses = service.settings.addresses.iter();
            (id, addresses.map(|address| address.upstream.clone()).collect())
        })
    }

    #[must_use]
    pub fn session_limits(&self) -> shard::SessionLimits {
        let (session, limits) = (&self.session, &self.limits);
        shard::SessionLimits {
            message_bytes_max: session.buffer_size,
            message_bytes_hard: limits.message_bytes_hard,
            fragments_max: limits.fragments_max,
            control_frames_per_second: limits.control_frames_per_second,
            messages_per_window: limits.messages_per_window,
            rate_window: limits.rate_limit_window_minutes,
            channel_max: session.max_channel_number,
            peer_routing: session.enable_client_to_client_routing,
            outbox_messages_max: limits.outbox_messages_max,
            outbox_bytes_max: limits.outbox_bytes_max,
            write_stall: limits.write_stall,
            calls_running_max: limits.calls_running_max,
            calls_waiting_max: limits.calls_waiting_max,
            calls_waiting_bytes_max: limits.calls_waiting_bytes_max,
            answers_held_max: limits.answers_held_max,
            answers_held_bytes_max: limits.answers_held_bytes_max,
            ping_interval: session.websocket_keep_alive_interval_seconds,
            pong_timeout: session.pong_timeout,
            idle_timeout: session.inactive_connection_timeout_minutes,
            first_frame_delay: session.first_frame_delay,
            close_timeout: session.connection_shutdown_timeout_seconds,
            close_on_expiry: self.auth.on_expiry == OnExpiry::Close,
            priority_roles: self.priority.roles.iter().map(|role| role.as_str().into()).collect(),
            upstream_close_codes: self.compat.close_codes == CloseCodes::Upstream,
            capabilities: session.capabilities,
            dialect: self.events.name_dialect,
            resume: shard::ResumeRules {
                window: session.reconnection_window_seconds,
                early_token: session.early_token,
                notice_event: session.disconnect_event,
                notice_text: session.disconnect_text,
            },
            compression: self.compression_rules(),
        }
    }

    #[must_use]
    pub fn door_limits(&self) -> shard::DoorLimits {
        let limits = &self.limits;
        shard::DoorLimits {
            deny: Arc::clone(&self.denied),
            unauthenticated_max: limits.unauthenticated_max,
            unauthenticated_per_address: limits.unauthenticated_per_address,
            counts_sessions_by_address: limits.connections_per_address.is_some(),
            handshakes_per_second: limits.handshakes_per_second,
            shed_connections_per_million: limits.shed_connections_at.per_million,
            shed_calls_per_million: limits.shed_calls_at.per_million,
        }
    }

    pub(super) fn compression_rules(&self) -> CompressionRules {
        let compression = &self.compression;
        CompressionRules {
            enabled: compression.enabled,
            negotiate: compression.negotiate,
            threshold_bytes: compression.threshold_bytes,
            quality: compression.quality,
            inflate_inbound: compression.inflate_inbound,
        }
    }

    fn tracing(&self) -> shard::Tracing {
        let tracing = &self.tracing;
        shard::Tracing {
            sampled_per_million: tracing.sample.per_million,
            export: tracing.otlp_endpoint.is_some(),
            accept_from_clients: tracing.accept_from_clients,
            correlation_id: tracing.correlation_id,
        }
    }

    fn service(&self, service: &Service) -> shard::Service {
        let settings = &service.settings;
        let first = &settings.addresses[0];
        let (kind, connections) = match &first.scheme {
            Scheme::Http => (shard::UpstreamKind::Http, HTTP_CONNECTIONS),
            Scheme::Link { path } => {
                let token = service.token.as_ref().map(|token| token.reveal().into());
                (shard::UpstreamKind::Link { path: path.as_str().into(), token }, LINKS)
            }
        };
        shard::Service {
            name: settings.name.as_str().into(),
            kind,
            host: first.authority().into(),
            call_timeout: settings
                .call_timeout
                .unwrap_or_else(|| self.session.http_client_timeout_seconds),
            connect_timeout: settings.connect_timeout,
            running_max: settings.running_max,
            connections_max: settings.connections_max.unwrap_or_else(|| connections),
            pool_idle: settings.pool_idle,
            response_head_bytes_max: settings.response_head_bytes_max,
            response_body_bytes_max: settings.response_body_bytes_max,
            breaker: shard::BreakerLimits {
                failures: settings.breaker_failures,
                open_for: settings.breaker_open_for,
            },
        }
    }

    /// A role's indices, ascending and without repeats: `demo:*` may stand beside `demo:/path`.
    fn role(&self, role: &RoleSettings, endpoints: &[shard::Endpoint]) -> shard::Role {
        let names = |endpoint: &shard::Endpoint, key: &str| {
            let service = &self.services[usize::from(endpoint.service.0)].settings.name;
            key.strip_prefix(service.as_str())
                .and_then(|rest| rest.strip_prefix(':'))
                .is_some_and(|path| path == "*" || path == &*endpoint.path)
        };
        let chosen = (0_u16..)
            .zip(endpoints)
            .filter(|(_, endpoint)| role.endpoints.iter().any(|key| names(endpoint, key)))
            .map(|(index, _)| EndpointId(index));
        shard::Role { name: role.name.as_str().into(), endpoints: chosen.collect() }
    }
}
