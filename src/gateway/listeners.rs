//! The HTTP listeners of the control core: the admin one, and the internal one where it is on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use corelane_shard::id::ShardId;
use corelane_shard::probe::Probe;
use tokio::sync::mpsc;

use super::StartError;
use super::tokens::PublishedKeys;
use crate::auth::KeySet;
use crate::config::{Config, ListenInternal};
use crate::control::ControlProbe;
use crate::control::admin::AdminListener;
use crate::control::ask::{ASKS_MAX, Ask};
use crate::control::internal::{Holder, InternalListener, InternalParts};
use crate::control::operators::{Operators, ShownConfig};
use crate::lifecycle::PhaseCell;

/// Bound, and yet to be served.
pub(super) struct HttpListeners {
    pub(super) admin: AdminListener,
    pub(super) admin_address: SocketAddr,
    /// For services, and for players.
    pub(super) internal: Vec<InternalListener>,
    pub(super) internal_address: Option<SocketAddr>,
    pub(super) endpoint_meta_address: Option<SocketAddr>,
    /// What the admin listener shows of the configuration.
    pub(super) shown: ShownConfig,
    /// What answers the services of other nodes.
    pub(super) holder: Holder,
    /// What they ask of the control core.
    pub(super) asks: mpsc::Receiver<Ask>,
}

impl HttpListeners {
    pub(super) fn open(
        config: &Config,
        probes: &[Arc<Probe>],
        probe: &Arc<ControlProbe>,
        phase: &Arc<PhaseCell>,
        keys: Arc<ArcSwap<KeySet>>,
    ) -> Result<Self, StartError> {
        let address = |name, found: io::Result<SocketAddr>| {
            found.map_err(|error| StartError::OwnAddress(name, error))
        };
        let (asking, asks) = mpsc::channel(ASKS_MAX);
        let shown = Arc::new(ArcSwap::from_pointee(config.shown.clone()));
        let admin = AdminListener::bind(
            config.listen_admin.address,
            (0_u8..).map(ShardId).zip(probes.iter().map(Arc::clone)).collect(),
            Arc::clone(probe),
            Arc::clone(phase),
            Operators::new(asking.clone(), Arc::clone(&shown)),
        )?;
        let ListenInternal { address: wanted, service_token, endpoint_meta_address } =
            &config.listen_internal;
        let parts = InternalParts {
            asking,
            tokens: Arc::new(PublishedKeys(keys)),
            probe: Arc::clone(probe),
            phase: Arc::clone(phase),
            relays: config.nodes.internal_url.is_some(),
        };
        let holder = Holder::new(parts.clone());
        // On without a token it was refused with the configuration.
        let services = match (wanted, service_token) {
            (Some(wanted), Some(token)) => {
                Some(InternalListener::bind(*wanted, token, parts.clone())?)
            }
            _ => None,
        };
        let players = endpoint_meta_address
            .map(|wanted| InternalListener::bind_for_players(wanted, parts))
            .transpose()?;
        let address_of = |name, listener: &Option<InternalListener>| {
            listener.as_ref().map(|it| address(name, it.local_address())).transpose()
        };
        Ok(Self {
            admin_address: address("admin", admin.local_address())?,
            internal_address: address_of("internal", &services)?,
            endpoint_meta_address: address_of("endpoint meta", &players)?,
            admin,
            internal: services.into_iter().chain(players).collect(),
            shown,
            holder,
            asks,
        })
    }
}
