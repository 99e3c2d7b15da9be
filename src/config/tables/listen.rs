//! Where the gateway listens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use corelane_shard::wire::forwarded::ForwardedField;
use corelane_shard::wire::proxy_protocol::Versions;
use ipnet::IpNet;

use super::{CertificateDemand, SECOND};
use crate::certificates::TlsVersion;
use crate::config::key::table;
use crate::config::network::Network;
use crate::config::scalar::{Choice, Count, File, HiddenOrNone, Socket, Span};
use crate::config::secret::Secret;
use crate::config::shape::{OffOr, list};

table! {
    /// Where game clients connect: `GET /connect` and `GET /health`.
    ["listen.public"] Once ListenPublic {
        /// Addresses to listen on, IPv4 or IPv6; empty where all clients come over TLS. Every shard
        /// listens on each of them.
        address: Vec<SocketAddr> = r#"["127.0.0.1:8080"]"#, Restart => list(Socket);
        /// Connections that the kernel holds until a shard takes them, per shard and address.
        backlog: u32 = "4096", Restart => Count(16, 65_535);
        /// Networks of the proxies in front that may say for whom they come, by what the next two keys
        /// name. The address that they give is the client's to limits, logs and backends.
        trusted_proxies: Vec<IpNet> = "[]", Restart => list(Network);
        /// Version of the PROXY protocol that connections from `trusted_proxies` begin with: without
        /// its header they are answered 400. Others are answered 403 if they send one.
        proxy_protocol: Option<Versions> = r#""off""#, Restart => Choice(&[
            ("off", None),
            ("v1", Some(Versions::V1)),
            ("v2", Some(Versions::V2)),
            ("any", Some(Versions::Any)),
        ]);
        /// The field in which `trusted_proxies` name the client of a request. The rightmost address in
        /// it that is no trusted proxy counts. Choose the one that your proxy writes: the other comes
        /// from the client.
        forwarded: Option<ForwardedField> = r#""off""#, Restart => Choice(&[
            ("off", None),
            ("Forwarded", Some(ForwardedField::Forwarded)),
            ("X-Forwarded-For", Some(ForwardedField::XForwardedFor)),
        ]);
    }
}

table! {
    /// Where game clients connect over TLS (`wss://`), to the same as at `listen.public`, whose other keys
    /// hold here too. The certificates are `[[listen.tls.certificate]]`.
    ["listen.tls"] Once ListenTls {
        /// Addresses to listen on, IPv4 or IPv6; empty: no TLS. Every shard listens on each of them.
        address: Vec<SocketAddr> = "[]", Restart => list(Socket);
        /// A client whose TLS handshake is not over in this time is dropped.
        handshake_timeout: Duration = r#""5s""#, Restart
            => Span(Duration::from_millis(100), 60 * SECOND);
        /// TLS handshakes per shard at one time; one more is closed.
        handshakes_max: usize = "1024", Restart => Count(1, 65_536);
        /// Oldest version of TLS that is spoken; the newest is 1.3.
        oldest_version: TlsVersion = r#""1.2""#, Live => Choice(&[
            ("1.2", TlsVersion::Tls12),
            ("1.3", TlsVersion::Tls13),
        ]);
        /// Whether clients prove themselves by a certificate, besides their token: "optional" refuses bad
        /// ones, "required" missing ones too.
        client_certificates: CertificateDemand = r#""off""#, Live => Choice(&[
            ("off", CertificateDemand::Off),
            ("optional", CertificateDemand::Optional),
            ("required", CertificateDemand::Required),
        ]);
        /// PEM file with the roots that client certificates must lead to. Watched as certificates are.
        client_roots: Option<PathBuf> = r#""off""#, Live => OffOr(File);
    }
}

table! {
    /// Where services reach the gateway: the protocol's internal endpoints and the bus. Plain HTTP, for
    /// a private network.
    ["listen.internal"] Once ListenInternal {
        /// Address of the internal server, or "off". It needs `service_token`.
        address: Option<SocketAddr> = r#""off""#, Restart => OffOr(Socket);
        /// Secret that services present as `X-Service-Token` with every request; servers too, at the public
        /// port, when `session.connection_mode` is "Internal" and `session.internal_auth_mode` "ServiceToken".
        service_token: Option<Secret> = r#""""#, Restart, "CONNECT_INTERNAL_SERVICE_TOKEN"
            => HiddenOrNone;
        /// Address of a server that answers `POST /connect/get-endpoint-meta` alone, or "off". It asks for
        /// the player's own token instead of the service token, so it may be public.
        endpoint_meta_address: Option<SocketAddr> = r#""off""#, Restart => OffOr(Socket);
    }
}

table! {
    /// Where operators look and act: `/livez`, `/readyz`, `/metrics`, `/sessions`, `/config`,
    /// `/log-level`. Loopback only.
    ["listen.admin"] Once ListenAdmin {
        /// Address of the admin server.
        address: SocketAddr = r#""127.0.0.1:9100""#, Restart => Socket;
    }
}
