//! What the codecs of the forwarding path cost: frames, masking, headers, GUIDs, verdicts.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use corelane_shard::block::BlockPool;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{EndpointId, Generation, ServiceId, SessionId, ShardId, Slot};
use corelane_shard::identity::{Identity, Standing};
use corelane_shard::session::capability::Capabilities;
use corelane_shard::session::fingerprints::FingerprintTables;
use corelane_shard::session::rate::RateLimits;
use corelane_shard::session::routing::{RoutingContext, Session};
use corelane_shard::snapshot::{
    BreakerLimits, ConnectionMode, DoorLimits, Endpoint, Method, Role, Service, SessionLimits,
    Snapshot, Tracing, UpstreamKind,
};
use corelane_shard::wire::frame::{
    OpCode, Role as FrameRole, client_header_len, write_client_header,
};
use corelane_shard::wire::guid::{PeerKeys, PeerRoute, ServiceGuids, SessionText};
use corelane_shard::wire::header::{Flags, RequestHeader};
use corelane_shard::wire::inbound::{Inbound, InboundLimits};
use corelane_shard::wire::mask::{copy_masked, unmask};
use corelane_shard::wire::utf8::Utf8;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const SESSION: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3301);
const NOW: Now = Now { mono: Instant(1_000_000_000), unix_ms: 1_795_000_000_000 };

fn masking(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for len in [200_usize, 1200, 16_384] {
        group.throughput(Throughput::Bytes(len as u64));
        let mut bytes = vec![7_u8; len];
        group.bench_function(format!("unmask {len}"), |b| {
            b.iter(|| unmask(black_box(&mut bytes), MASK, 0));
        });
        let (source, mut target) = (vec![7_u8; len], vec![0_u8; len]);
        group.bench_function(format!("copy masked {len}"), |b| {
            b.iter(|| copy_masked(black_box(&source), black_box(&mut target), MASK, 0));
        });
    }
    group.finish();
}

fn frames(c: &mut Criterion) {
    let limits = InboundLimits {
        role: FrameRole::Server,
        message_bytes_max: 65_536,
        message_bytes_hard: 1 << 20,
        fragments_max: 64,
        empty_fragments_max: 64,
        control_frames_per_second: 20,
        block_headroom: 64,
    };
    let mut group = c.benchmark_group("inbound");
    for len in [31_usize, 200, 1200] {
        let header_len = client_header_len(len);
        let mut frame = vec![7_u8; header_len + len];
        write_client_header(&mut frame[..header_len], OpCode::Binary, len, MASK);
        let mut blocks = BlockPool::new(1 << 20);
        group.bench_function(format!("whole masked message {len}"), |b| {
            b.iter_batched_ref(
                || (Inbound::new(), frame.clone()),
                |(inbound, input)| {
                    black_box(inbound.next(input, NOW.mono, &limits, &mut blocks).is_ok())
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("utf8 200 ascii", |b| {
        b.iter(|| Utf8::new().feed(black_box(&[b'a'; 200])).is_ok());
    });
    group.finish();
}

fn snapshot(endpoints: u16) -> Snapshot {
    let service = Service {
        name: "demo".into(),
        kind: UpstreamKind::Http,
        host: "127.0.0.1".into(),
        call_timeout: Duration::from_secs(25),
        connect_timeout: Duration::from_secs(2),
        running_max: 1024,
        connections_max: 64,
        pool_idle: Duration::from_secs(4),
        response_head_bytes_max: 8192,
        response_body_bytes_max: 1 << 20,
        breaker: BreakerLimits { failures: 0, open_for: Duration::from_secs(1) },
    };
    Snapshot {
        version: 1,
        mode: ConnectionMode::Relayed,
        salt: "bannou-dev-connect-salt-change-in-production".into(),
        node: 0,
        services: [service].into(),
        endpoints: (0..endpoints)
            .map(|n| Endpoint {
                service: ServiceId(0),
                method: Method::Post,
                path: format!("/demo/endpoint-{n}").into(),
                idempotent: false,
            })
            .collect(),
        roles: [Role { name: "user".into(), endpoints: (0..endpoints).map(EndpointId).collect() }]
            .into(),
        session: SessionLimits { messages_per_window: 0, ..SessionLimits::default() },
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    }
}

fn identity() -> Arc<Identity> {
    let standing = Standing {
        tenant: "default".into(),
        roles: ["user".into()].into(),
        authorizations: Box::default(),
    };
    let standing = Arc::new(standing);
    Arc::new(Identity {
        session: SESSION,
        account: None,
        standing,
        expires_at: None,
        issued_at: None,
    })
}

/// The messages that call each of the session's endpoints once.
fn calls(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let guids = ServiceGuids::new(snapshot);
    let session = SessionText::new(SESSION);
    (0..snapshot.endpoints.len() as u16)
        .filter_map(|endpoint| guids.derive(&session, EndpointId(endpoint)))
        .map(|guid| {
            let header =
                RequestHeader { flags: Flags::NONE, channel: 0, sequence: 1, guid, message_id: 7 };
            let mut message = header.to_bytes().to_vec();
            message.extend_from_slice(&[b'x'; 169]);
            message
        })
        .collect()
}

fn routing(c: &mut Criterion) {
    let mut group = c.benchmark_group("routing");
    for endpoints in [1_u16, 8, 100] {
        let snapshot = snapshot(endpoints);
        let messages = calls(&snapshot);
        let rates = RateLimits::new(&snapshot.session);
        let peer_keys = PeerKeys::from_salt(&snapshot.salt);
        let mut tables = FingerprintTables::new(1 << 20);
        let set = Capabilities::new(&snapshot).of_roles(&snapshot, &["user".into()]);
        let mut session = Session::new(identity(), set, &snapshot, 1);
        let mut turn = messages.iter().cycle();
        group.bench_function(format!("verdict, {endpoints} endpoints in turn"), |b| {
            b.iter(|| {
                let mut context = RoutingContext {
                    snapshot: &snapshot,
                    rates: &rates,
                    peer_keys: &peer_keys,
                    tables: &mut tables,
                    now: NOW,
                };
                turn.next().map(|message| black_box(session.on_binary(message, &mut context)))
            });
        });
    }
    group.finish();
}

fn guids(c: &mut Criterion) {
    let snapshot = snapshot(1);
    let service = ServiceGuids::new(&snapshot);
    let session = SessionText::new(SESSION);
    c.bench_function("guid/derive service", |b| {
        b.iter(|| service.derive(black_box(&session), EndpointId(0)));
    });
    let keys = PeerKeys::from_salt(&snapshot.salt);
    let route =
        PeerRoute { node: 1, shard: ShardId(2), slot: Slot(345), generation: Generation(678) };
    let guid = keys.encode(route);
    c.bench_function("guid/encode peer", |b| b.iter(|| keys.encode(black_box(route))));
    c.bench_function("guid/decode peer", |b| b.iter(|| keys.decode(black_box(guid))));
}

criterion_group!(codec, masking, frames, routing, guids);
criterion_main!(codec);
