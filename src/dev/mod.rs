//! `corelane dev`: a gateway to try out and to develop against, with nothing to prepare.
//!
//! It writes a configuration of its own, starts demo backends for it, and prints how to connect. The
//! demo service also pushes events, shortcuts and questions to whoever connects.
//! Everything else is the gateway as it always is.

mod announcement;
mod authority;
mod configuration;
mod demo_bus;
mod demo_http;
mod demo_link;
mod description;
mod folder;
#[cfg(test)]
mod tests;
mod wall_clock;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use uuid::Uuid;

use self::announcement::{Announcement, OverTls};
use self::authority::AuthorityError;
use self::configuration::{SERVICE, Setup};
use self::folder::{Folder, FolderError};
use crate::cli::token::{Issuer, Order};
use crate::cli::{DevArgs, Failure, output};
use crate::config::{Config, ConfigSource, Secret};
use crate::control::Exit;
use crate::{gateway, logging};

/// Where clients connect unless `--port` says otherwise.
const PORT: u16 = 8080;
/// Where they connect over TLS.
const TLS_PORT: u16 = 8443;
/// Enough for a few players; `corelane token mint` makes more.
const PLAYERS: usize = 4;

/// Runs until the gateway has drained.
pub fn run(args: &DevArgs) -> Result<Exit, Failure> {
    let folder = Folder::open(args.dir.as_deref())?;
    // Before the gateway pins this thread: a thread inherits the core of the one that starts it,
    // and the backends are to stay off the shards' cores.
    let http = demo_http::spawn().map_err(|error| no_backend(&error))?;
    let link = demo_link::spawn(folder.link_token()).map_err(|error| no_backend(&error))?;
    let now = i64::try_from(wall_clock::unix_ms() / 1000).unwrap_or(i64::MAX);
    let authority = args.tls.then(|| authority::provide(&folder, now)).transpose()?;
    let setup = Setup {
        public: SocketAddr::from((Ipv4Addr::LOCALHOST, args.port.unwrap_or(PORT))),
        tls: args.tls.then(|| tls_address(args.port)),
        shards: args.shards,
        http,
        link,
    };
    folder.write_config(&setup.render())?;
    let source = source(&folder, args);
    let config = source.load()?;
    let players = players(&config)?;
    let service_token = config.listen_internal.service_token.clone();
    let service_token = service_token.as_ref().map_or("", Secret::reveal);
    let demo = demo_bus::spawn(service_token).map_err(|error| no_backend(&error))?;
    logging::install(&config.log);
    let exit = gateway::run(config, source, |ready| {
        let announcement = Announcement {
            public: ready.public.first().copied().unwrap_or(setup.public),
            tls: ready
                .tls
                .first()
                .zip(authority.as_deref())
                .map(|(&address, authority)| OverTls { address, authority }),
            admin: ready.admin,
            internal: ready.internal,
            service_token,
            shards: ready.shards,
            players: &players,
            config: &folder.config_path(),
        };
        output::line(&match args.json {
            true => announcement.json(),
            false => announcement.text(),
        });
        if let Some(address) = ready.internal.filter(|_| !args.quiet) {
            // A demo that has ended has said why.
            let _ended = demo.send(address);
        }
    });
    exit.map_err(|error| Failure::Unavailable(error.to_string()))
}

/// One above the public port, so that two gateways can be told apart.
fn tls_address(port: Option<u16>) -> SocketAddr {
    let port = match port {
        None => TLS_PORT,
        // Any that is free.
        Some(0) => 0,
        Some(port) => port.checked_add(1).unwrap_or(0),
    };
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// What the command line asked for holds against the environment too.
fn source(folder: &Folder, args: &DevArgs) -> ConfigSource {
    let address = args.port.map(|port| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        ("listen.public.address".to_owned(), address.to_string())
    });
    let tls =
        args.tls.then(|| ("listen.tls.address".to_owned(), tls_address(args.port).to_string()));
    let shards = args.shards.map(|count| ("shards.count".to_owned(), count.to_string()));
    ConfigSource {
        path: Some(folder.config_path()),
        flags: address.into_iter().chain(tls).chain(shards).collect(),
    }
}

/// Somebody who may connect.
#[derive(Debug)]
struct Player {
    account: String,
    token: String,
}

/// Of accounts and sessions of their own, valid for as long as the gateway takes tokens.
fn players(config: &Config) -> Result<Vec<Player>, Failure> {
    let roles: Vec<String> = config.roles.iter().map(|role| role.name.clone()).collect();
    let issuer = Issuer::choose(config, None)?;
    let player = |_| {
        let account = Uuid::new_v4().to_string();
        let token = issuer.issue(Order {
            session: Uuid::new_v4(),
            account: account.clone(),
            roles: &roles,
            life: config.auth.max_token_life,
        })?;
        Ok(Player { account, token })
    };
    (0..PLAYERS).map(player).collect()
}

fn no_backend(error: &io::Error) -> Failure {
    Failure::Unavailable(format!(
        "cannot start the backends of service {SERVICE:?}: {error}; check the limits of open files \
         and processes"
    ))
}

impl From<AuthorityError> for Failure {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Folder(error) => error.into(),
            AuthorityError::Made(_) | AuthorityError::Date(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Io { .. } | FolderError::InUse { .. } => {
                Self::Unavailable(error.to_string())
            }
            FolderError::NoHome | FolderError::ForeignConfig { .. } => {
                Self::Usage(error.to_string())
            }
        }
    }
}
