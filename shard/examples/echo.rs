use corelane_shard::{
    buffers::ReceiveBuffers, engine::*, id::ShardId, probe::Probe, pump, ring::*,
    snapshot::SessionLimits,
};
use std::sync::Arc;
use std::time::Duration;
fn main() {
    let cpu = std::env::args().nth(1).and_then(|c| c.parse().ok());
    let port: u16 = std::env::args()
        .nth(2)
        .and_then(|c| c.parse().ok())
        .unwrap_or(7700);
    try_operations().expect("ring");
    let join = pump::spawn("shard-0", pump::Pace { cpu }, move || {
        let buffers = ReceiveBuffers::new(4096, 2048);
        let o = ListenOptions {
            backlog: 4096,
            keepalive: Duration::from_secs(60),
            user_timeout: Duration::from_secs(30),
            send_buffer: None,
            receive_buffer: None,
        };
        let l = listen(([127, 0, 0, 1], port).into(), &o)?;
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let ring = Uring::new(
            ShardId(0),
            RingSizes {
                entries: 4096,
                sockets: 15000,
            },
            &buffers,
            vec![l],
            wake,
            RingDirectory::new(1),
        )?;
        Ok(Engine::new(
            ring,
            buffers,
            EngineOptions {
                listeners: 1,
                connections_max: 12000,
                block_pool_bytes: 256 << 20,
                head: Default::default(),
                head_timeout: Duration::from_secs(10),
                echo_path: Some("/echo".into()),
                seed: 1,
            },
            &SessionLimits::default(),
            Arc::new(Probe::default()),
            pump::sample_clocks(),
        ))
    })
    .unwrap();
    join().unwrap();
}
