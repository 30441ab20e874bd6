//! Wires session, assignments, uplink and the pages for supervisors and scrapers, and lets them end in order.
//!
//! The order of a soft stop: assignments close their gates and let their runners deliver, the uplink
//! drains, the session says goodbye, the lock on the data directory is released. Each step waits for
//! the one before, because the one before still needs it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use shoal_domain::capacity::Limits;
use shoal_domain::ids::AgentId;
use shoal_proto::v1;
use shoal_service_kit::logs::Book;
use shoal_service_kit::{Clock, Lifecycle, Rule, SystemClock, TargetGuard, http_get, limits};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::assignments::Assignments;
use crate::assignments::load::EngineLoader;
use crate::beat::Beats;
use crate::calibration;
use crate::connection::{BadServer, Dialer};
use crate::engine::{NotLocal, SourceAddresses};
use crate::identity::{Identity, IdentityError};
use crate::leases::Leases;
use crate::meter::Counts;
use crate::pages::Pages;
use crate::protocol::Protocols;
use crate::session::lines::Lines;
use crate::session::{Desired, Session, thread};
use crate::uplink;

pub use crate::session::SessionState;

/// Everything an agent is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// `http://host:port` of the control plane.
    pub server: String,
    pub token: Option<String>,
    pub id: AgentId,
    /// Locked for as long as the process lives; holds the incarnation.
    pub data_dir: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// Relative weight in dealing; default: the cores its cgroup allows.
    pub capacity: Option<f64>,
    /// What it may put load on; empty: everything.
    pub allow_target: Vec<String>,
    pub secrets_dir: Option<PathBuf>,
    /// Local addresses that devices connect from, in turn; empty: the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// Where `/healthz` is served.
    pub health_listen: Option<SocketAddr>,
    /// What it speaks beside MQTT and HTTP.
    pub protocols: Protocols,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Server(#[from] BadServer),
    #[error("{why}")]
    AllowTarget { why: String },
    #[error("secrets directory {} is no directory: give the right one in --secrets-dir", dir.display())]
    SecretsDir { dir: PathBuf },
    #[error(transparent)]
    Source(#[from] NotLocal),
    #[error("/healthz cannot be served on {listen}: {source}; give another --health-listen")]
    Health { listen: SocketAddr, source: std::io::Error },
    #[error("the session's thread cannot be started: {source}")]
    Thread { source: std::io::Error },
}

impl StartError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Server(_)
            | Self::AllowTarget { .. }
            | Self::SecretsDir { .. }
            | Self::Source(_) => "SH0602",
            Self::Health { .. } => "SH0409",
            Self::Identity(IdentityError::Locked { .. }) => "SH0407",
            Self::Identity(IdentityError::Unusable { .. }) => "SH0503",
            Self::Thread { .. } => "SH0304",
        }
    }
}

/// Returns when everything runs; the soft stop of `lifecycle` ends it in order.
pub async fn start(config: Config, lifecycle: &Lifecycle) -> Result<(), StartError> {
    start_watched(config, lifecycle).await.map(drop)
}

/// Like [`start`], for who wants to know how the session stands.
pub async fn start_watched(
    config: Config,
    lifecycle: &Lifecycle,
) -> Result<watch::Receiver<SessionState>, StartError> {
    // Open from the first word on, whatever becomes of the rest.
    let book = Arc::new(Book::open("shoal_agent"));
    let dialer = Dialer::new(&config.server, config.token.as_deref())?;
    let guard = guard(&config.allow_target)?;
    if let Some(dir) = config.secrets_dir.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(StartError::SecretsDir { dir: dir.clone() });
    }
    let sources = SourceAddresses::new(config.sources.clone())?;
    let identity = Identity::take(&config.data_dir)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let hello = hello(&config, &identity, &sources);
    let incarnation = identity.incarnation.clone();

    let counts: Arc<Counts> = Arc::default();
    let since_boot_us = clock.boot_us();
    let not_yet = SessionState::Detached { since_boot_us, why: "not connected yet".to_owned() };
    let (state, watched) = watch::channel(not_yet);
    if let Some(listen) = config.health_listen {
        let bound = TcpListener::bind(listen).await;
        let listener = bound.map_err(|source| StartError::Health { listen, source })?;
        if let Ok(addr) = listener.local_addr() {
            tracing::info!(%addr, "healthz");
        }
        let (session, clock) = (watched.clone(), Arc::clone(&clock));
        let pages = Pages { session, clock, counts: Arc::clone(&counts) };
        let page = move |asked: http_get::Asked<'_>| pages.page(asked.path);
        lifecycle.spawn("healthz", http_get::serve(listener, lifecycle.clone(), page));
    }

    let (leases, drained) = (Leases::default(), CancellationToken::new());
    let (desired, desired_seen) = watch::channel(Desired::default());
    let (offset, offset_seen) = watch::channel(None);
    let (observed, observed_seen) = watch::channel(Vec::new());
    let session = Session {
        dialer: dialer.clone(),
        hello,
        leases: leases.clone(),
        desired,
        observed: observed_seen,
        offset,
        state,
        clock: Arc::clone(&clock),
        drained: drained.clone(),
        leaving: lifecycle.soft(),
        beats: Beats::default(),
        lines: Lines::of(Arc::clone(&book)),
    };
    let ended = thread::start(session, lifecycle.hard(), book.span());
    let ended = ended.map_err(|source| StartError::Thread { source })?;

    let (uplink, actor) = uplink::new(dialer.clone().of(&incarnation));
    let is_drained = drained.clone();
    let deliver = async move {
        actor.run().await;
        drained.cancel();
    };
    lifecycle.spawn("uplink", deliver.instrument(book.span()));
    let cores = engine_cores();
    let (secrets_dir, protocols) = (config.secrets_dir, config.protocols);
    let assignments = Assignments {
        loader: Arc::new(EngineLoader { dialer, guard, sources, protocols, secrets_dir, cores }),
        leases,
        uplink,
        clock,
        counts,
        lifecycle: lifecycle.clone(),
        desired: desired_seen,
        offset: offset_seen,
        observed,
    };
    lifecycle.spawn("assignments", assignments.run().instrument(book.span()));
    let this = lifecycle.clone();
    lifecycle.spawn("session", async move {
        // An error means the same: the thread is gone.
        let _ = ended.await;
        if !is_drained.is_cancelled() {
            tracing::error!("the session's thread ended by itself, stopping");
            this.stop_softly();
        }
        drop(identity);
    });
    Ok(watched)
}

fn guard(allow_target: &[String]) -> Result<TargetGuard, StartError> {
    if allow_target.is_empty() {
        return Ok(TargetGuard::any());
    }
    let parse = |text: &String| {
        text.parse::<Rule>().map_err(|error| StartError::AllowTarget { why: error.to_string() })
    };
    Ok(TargetGuard::allowing(allow_target.iter().map(parse).collect::<Result<_, _>>()?))
}

fn hello(config: &Config, identity: &Identity, sources: &SourceAddresses) -> v1::Hello {
    v1::Hello {
        protocol: shoal_proto::PROTOCOL,
        agent_id: config.id.to_string(),
        incarnation: identity.incarnation.clone(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        labels: config.labels.clone().into_iter().collect(),
        capacity: Some(capacity(config.capacity, sources)),
        inventory: Vec::new(),
        predecessor: identity.predecessor.clone(),
        host: Some(crate::host::read()),
    }
}

fn capacity(weight: Option<f64>, sources: &SourceAddresses) -> v1::Capacity {
    let limit = limits::raise_descriptor_limit();
    let cores = limits::cpu_quota_cores();
    // 0: not readable, and so no bound.
    let memory_bytes = match limits::memory_limit_bytes() {
        0 => u64::MAX,
        bytes => bytes,
    };
    // Ports are counted per destination, once a run names some.
    let limits = Limits { descriptors: limit.now, ports: u64::MAX, memory_bytes };
    let (max_devices, bound_by) = limits.room();
    tracing::info!(
        descriptors = limit.now,
        raised_from = limit.before,
        cores,
        memory_bytes,
        max_devices,
        bound_by = bound_by.word(),
        "what this agent can carry"
    );
    let noise = calibration::noise();
    tracing::info!(
        timer_p99_us = noise.timer_p99_us,
        echo_p50_us = noise.echo_p50_us,
        echo_p99_us = noise.echo_p99_us,
        "what this machine can tell apart"
    );
    v1::Capacity {
        cores,
        descriptors: limit.now,
        ports: sources.ports(),
        memory_bytes,
        weight: weight.unwrap_or(cores),
        max_devices,
        timer_p99_us: noise.timer_p99_us,
        echo_p50_us: noise.echo_p50_us,
        echo_p99_us: noise.echo_p99_us,
    }
}

/// One thread per core that the cgroup grants; a part of a core counts as one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of cores is small and positive; casts saturate"
)]
fn engine_cores() -> usize {
    (limits::cpu_quota_cores().ceil() as usize).max(1)
}
