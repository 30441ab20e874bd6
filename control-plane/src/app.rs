//! Wires the components; binds the port and migrates the database before it serves.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_proto::v1::agent_service_server::AgentServiceServer;
use shoal_proto::v1::control_service_server::ControlServiceServer;
use shoal_proto::{MAX_MESSAGE, MAX_START};
use shoal_service_kit::{Clock, Lifecycle, http_get, random};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::clock::ControlClock;
use crate::coarsen;
use crate::fleet::Fleet;
use crate::grpc::{AgentApi, ControlApi, TokenCheck};
use crate::ingest;
use crate::leadership::{AUTHORITY, keep_lead, wait_for_lead};
use crate::logs::Logs;
use crate::metrics::{self, outputs};
use crate::orchestrator::Runs;
use crate::refusal::Refusal;
use crate::store::{Store, StoreError};

/// Streams of one connection; an agent needs two, a CLI one.
const MAX_STREAMS: u32 = 64;

/// In `runs.owner` of all runs that the leader of a database drives.
const LEADER: &str = "leader";

/// Everything a control plane is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// `sqlite:PATH` or `postgres://…`.
    pub database: String,
    /// Agents and CLI must send it; required beyond loopback.
    pub token: Option<String>,
    /// Where `GET /metrics` is answered, without a token; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// How long windows of one second are kept; `None`: for ever.
    pub keep_seconds: Option<Duration>,
    /// Where runs are also written.
    pub outputs: Vec<outputs::Output>,
    /// In the CLI's own process: `builtin` targets are allowed.
    pub local: bool,
}

/// A control plane that serves.
#[derive(Debug, Clone, Copy)]
pub struct Serving {
    /// Where it listens; the port that was found for port 0.
    pub addr: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("listening on {listen} reaches beyond this machine, and there is no token")]
    TokenNeeded { listen: SocketAddr },
    #[error("cannot listen on {listen}: {source}")]
    Listen { listen: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot take up the runs of an earlier process: {0}")]
    Resume(#[from] Refusal),
}

impl StartError {
    /// The code with a page in `docs/errors`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenNeeded { .. } => "SH0408",
            Self::Listen { .. } => "SH0409",
            Self::Store(StoreError::NewerDatabase { .. }) => "SH0502",
            Self::Store(StoreError::Address { .. }) => "SH0503",
            Self::Store(_) => "SH0501",
            Self::Resume(refusal) => refusal.code,
        }
    }

    pub fn help(&self) -> &'static str {
        match self {
            Self::TokenNeeded { .. } => {
                "set --token or SHOAL_TOKEN, and the same on agents and CLI"
            }
            Self::Listen { .. } => "stop the other process or choose another --listen",
            Self::Store(StoreError::NewerDatabase { .. }) => {
                "run the newer release on this database"
            }
            Self::Store(StoreError::Address { .. }) => {
                "--database is sqlite:PATH or postgres://user@host/name"
            }
            Self::Store(_) | Self::Resume(_) => "check that the database runs and can be reached",
        }
    }
}

/// Starts a control plane; returns when it serves. `None`: it was asked to end while it stood by.
pub async fn start(config: Config, lifecycle: &Lifecycle) -> Result<Option<Serving>, StartError> {
    if !config.listen.ip().is_loopback() && config.token.is_none() {
        return Err(StartError::TokenNeeded { listen: config.listen });
    }
    let listen = config.listen;
    let mut listener = bind(listen).await?;
    let addr = listener.local_addr().map_err(|source| StartError::Listen { listen, source })?;
    let store = Store::open(&config.database).await?;
    let fleet = Fleet::default();
    let mut lead_epoch = None;
    if !config.local {
        // Who stands by must not look as if it served.
        drop(listener);
        let Some(lead) = wait_for_lead(&store, &process_name(addr), lifecycle).await? else {
            return Ok(None);
        };
        lead_epoch = Some(lead.epoch);
        let runs_go_on = !store.unfinished_runs().await?.is_empty();
        let time = ControlClock::begin(store.control_time().await?, runs_go_on);
        store.keep_control_time(lead.epoch, time).await?;
        if lead.is_seized {
            fleet.respect(ControlClock.unix_us() + AUTHORITY.as_micros() as u64);
        }
        let kept = keep_lead(store.clone(), lead, fleet.clone(), lifecycle.clone());
        lifecycle.spawn("lead", kept);
        listener = bind(addr).await?;
    }
    // A process of the CLI dies with its agents. Of the deployed ones on a database one leads, and
    // all runs are the leader's.
    let owner = if config.local { random::token() } else { LEADER.to_owned() };
    let (store_of_runs, fleet_of_runs) = (store.clone(), fleet.clone());
    let runs =
        Runs::new(store_of_runs, fleet_of_runs, lifecycle.clone(), owner, lead_epoch, config.local);
    let deltas = ingest::start(store.clone(), runs.clone(), fleet.clone(), lifecycle);
    let logs = Logs::start(store.clone(), fleet.clone(), runs.clone(), lifecycle);
    for drained in store.drained_agents().await? {
        if let Ok(agent) = drained.parse() {
            fleet.drain(&agent, true);
        }
    }
    for row in store.quarantined_agents().await? {
        if let Ok(agent) = row.agent_id.parse() {
            let since_us = row.since_us.max(0) as u64;
            fleet.resume_quarantine(agent, &row.why, since_us, ControlClock.unix_us());
        }
    }
    runs.resume().await?;
    runs.keep_alive();
    for output in config.outputs {
        outputs::keep(runs.clone(), fleet.clone(), output, lifecycle);
    }
    if let Some(keep_seconds) = config.keep_seconds {
        coarsen::keep(store.clone(), keep_seconds, lifecycle);
    }

    let server = format!("http://{addr}");
    let agents = AgentApi {
        fleet: fleet.clone(),
        runs: runs.clone(),
        store: store.clone(),
        deltas,
        logs,
        lifecycle: lifecycle.clone(),
        server: server.clone(),
    };
    if let Some(listen) = config.metrics_listen {
        serve_metrics(listen, &runs, &fleet, lifecycle).await?;
    }
    let operators = ControlApi { runs, fleet, store, lifecycle: lifecycle.clone(), server };
    let token = TokenCheck::new(config.token.as_deref());
    let agents = AgentServiceServer::new(agents).max_decoding_message_size(MAX_MESSAGE);
    let operators = ControlServiceServer::new(operators).max_decoding_message_size(MAX_START);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;

    let soft = lifecycle.soft();
    lifecycle.spawn_fallible("grpc server", async move {
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .add_service(health_service)
            .add_service(InterceptedService::new(agents, token.clone()))
            .add_service(InterceptedService::new(operators, token))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), soft.cancelled_owned())
            .await
    });
    tracing::info!(%addr, "control plane serves");
    Ok(Some(Serving { addr }))
}

async fn bind(listen: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(listen).await.map_err(|source| StartError::Listen { listen, source })
}

/// Numbers and names of runs, no more; whoever may see them is the network's to decide.
async fn serve_metrics(
    listen: SocketAddr,
    runs: &Runs,
    fleet: &Fleet,
    lifecycle: &Lifecycle,
) -> Result<(), StartError> {
    let listener = bind(listen).await?;
    if let Ok(at) = listener.local_addr() {
        tracing::info!(%at, "metrics are served");
    }
    let (runs, fleet) = (runs.clone(), fleet.clone());
    let page = move |asked: http_get::Asked<'_>| {
        let scrape = || metrics::scrape(&runs, &fleet, asked.accept, ControlClock.unix_us());
        (asked.path == "/metrics").then(scrape)
    };
    lifecycle.spawn("metrics", http_get::serve(listener, lifecycle.clone(), page));
    Ok(())
}

/// The same after a restart, so that it takes its own lead up at once.
fn process_name(addr: SocketAddr) -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{}:{}", host.unwrap_or_default(), addr.port())
}
