//! What can be checked without sending: addresses, permission, reachability, templates, limits.
//!
//! Everything a run would otherwise find out a thousand times over is found out once, here, and
//! said in one sentence. Names are resolved here and never again.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_domain::capacity::{BYTES_PER_DEVICE, SPARE_DESCRIPTORS};
use shoal_domain::plan::{Endpoint, HttpProtocol, Target};
use shoal_domain::template::MissingSecret;
use shoal_service_kit::{Permit, Refused, limits};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::certificates::{self, Signer};
use super::dial::{self, Route, Upgrade};
use super::ports::{Exhausted, Reservation};
use super::secure::Secure;
use super::start::{self, Running};
use super::tls::{self, TlsStream};
use super::{Control, CoreReport, Job, device::Identity};

const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(
        "target {target} is `builtin`, which exists only in a run inside the CLI: \
         give it a url like mqtt://host:1883"
    )]
    NoBuiltin { target: String },
    #[error("target {target}: host {host} has no address: check the name in the scenario's url")]
    Unresolved { target: String, host: String, source: Option<io::Error> },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(
        "target {target} cannot be reached at {addr} from this agent: {why}; \
         check that it runs and that no firewall is between"
    )]
    Unreachable { target: String, addr: SocketAddr, why: String },
    #[error("target {target} cannot be reached securely: {why}")]
    Insecure { target: String, why: String },
    #[error("target {target} speaks `{name}`, and this agent does not: {spoken}")]
    Protocol { target: String, name: String, spoken: String },
    #[error("group {group} cannot start: {why}")]
    Certificate { group: String, why: String },
    #[error("group {group} cannot start: {missing}")]
    Secret { group: String, missing: String },
    #[error(
        "{devices} devices need {needed} file descriptors, but this process may open {limit}: \
         raise `ulimit -n` or use more agents"
    )]
    Descriptors { devices: u64, needed: u64, limit: u64 },
    #[error(
        "{} devices of target {target} need a local port each towards {}, but {} has {} and {} are \
         promised to other runs: widen net.ipv4.ip_local_port_range, give the agent more \
         --source addresses or use more hosts",
        exhausted.needed, exhausted.destination, source_name(exhausted), exhausted.ports,
        exhausted.promised
    )]
    Ports { target: String, exhausted: Exhausted },
    #[error(
        "{devices} devices need about {needed_mib} MiB, but this process may use {limit_mib} MiB: \
         raise its memory limit or use more agents"
    )]
    Memory { devices: u64, needed_mib: u64, limit_mib: u64 },
}

fn source_name(exhausted: &Exhausted) -> String {
    exhausted.source.map_or("this host".to_owned(), |source| source.to_string())
}

impl PrepareError {
    /// The code under which a person finds more about it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "SH0301",
            Self::Refused(_) => "SH0302",
            Self::Secret { .. } => "SH0303",
            Self::Descriptors { .. } | Self::Ports { .. } | Self::Memory { .. } => "SH0304",
            Self::Protocol { .. } => "SH0308",
            Self::Insecure { .. } | Self::Certificate { .. } => "SH0307",
            Self::Unresolved { .. } | Self::NoBuiltin { .. } => "SH0305",
        }
    }
}

/// A job whose preconditions hold.
pub struct Prepared {
    pub(super) job: Job,
    /// By target; those that no device of the shard uses are not there.
    pub(super) routes: Arc<BTreeMap<usize, Route>>,
    /// By group, where devices' certificates are signed here.
    pub(super) signers: Arc<BTreeMap<usize, Signer>>,
    /// Given back when the run is over.
    pub(super) ports: Vec<Reservation>,
}

impl Prepared {
    /// Starts all cores; run time 0 is `t0_boot_us` on CLOCK_BOOTTIME. Each core reports every
    /// window and ends with one report that is `closed`.
    pub fn start(
        self,
        t0_boot_us: u64,
        control: Arc<Control>,
        reports: mpsc::Sender<CoreReport>,
    ) -> Running {
        start::start(self, t0_boot_us, &control, &reports)
    }
}

/// Checks everything that can be checked without sending; sends nothing but one TCP connect, and
/// a TLS handshake where the target is secured, per target.
pub async fn prepare(job: Job) -> Result<Prepared, PrepareError> {
    check_limits(&job)?;
    let groups: BTreeSet<usize> = job.shard.blocks.iter().map(|block| block.group).collect();
    check_identities(&job)?;
    let signers = check_certificates(&job)?;
    let (mut routes, mut ports) = (BTreeMap::new(), Vec::new());
    for target in groups.iter().map(|group| job.plan.groups[*group].target) {
        if let Entry::Vacant(entry) = routes.entry(target) {
            check_protocol(&job, &job.plan.targets[target])?;
            let mut route = resolve(&job, &job.plan.targets[target]).await?;
            let insecure =
                |why| PrepareError::Insecure { target: job.plan.targets[target].name.clone(), why };
            route.secure =
                Secure::of(&job.plan, &job.plan.targets[target]).await.map_err(insecure)?;
            probe(&job.plan.targets[target], &mut route).await?;
            route.sources = job.sources.towards(route.permits[0].addr());
            ports.push(reserve_ports(&job, target, &route)?);
            entry.insert(route);
        }
    }
    Ok(Prepared { job, routes: Arc::new(routes), signers: Arc::new(signers), ports })
}

fn check_limits(job: &Job) -> Result<(), PrepareError> {
    let devices = job.shard.devices();
    let needed = devices + SPARE_DESCRIPTORS;
    let limit = limits::raise_descriptor_limit().now;
    if needed > limit {
        return Err(PrepareError::Descriptors { devices, needed, limit });
    }
    let needed = devices * BYTES_PER_DEVICE;
    let limit = limits::memory_limit_bytes();
    // 0: the limit cannot be read, so nothing can be said.
    if limit > 0 && needed > limit {
        let (needed_mib, limit_mib) = (needed >> 20, limit >> 20);
        return Err(PrepareError::Memory { devices, needed_mib, limit_mib });
    }
    Ok(())
}

/// One device per block renders its id, its `let` values and its credentials.
fn check_identities(job: &Job) -> Result<(), PrepareError> {
    let mark = job.run.mark();
    for block in job.shard.blocks.iter().filter(|block| !block.is_empty()) {
        let group = &job.plan.groups[block.group];
        let error = |missing: &dyn std::error::Error| PrepareError::Secret {
            group: group.name.clone(),
            missing: missing.to_string(),
        };
        let scope = super::device::scope(job.seed, &mark, block.group, &job.secrets);
        let first = block.devices.start;
        let identity = Identity::render(group, &scope, first).map_err(|e| error(&e))?;
        identity.credentials(group, &scope, first, 0).map_err(|e| error(&e))?;
        identity.will(group, &scope, first).map_err(|e| error(&e))?;
        let scope = identity.scope(group, &scope, first);
        super::http::check_secrets(group, &scope).map_err(|e| error(&e))?;
    }
    Ok(())
}

/// One device per block shows its certificate to us.
fn check_certificates(job: &Job) -> Result<BTreeMap<usize, Signer>, PrepareError> {
    let mark = job.run.mark();
    let mut signers = BTreeMap::new();
    for block in job.shard.blocks.iter().filter(|block| !block.is_empty()) {
        let group = &job.plan.groups[block.group];
        let login = group.credentials.as_ref();
        let Some(wanted) = login.and_then(|login| login.certificate.as_ref()) else { continue };
        let error = |why| PrepareError::Certificate { group: group.name.clone(), why };
        let missing = |missing: MissingSecret| PrepareError::Secret {
            group: group.name.clone(),
            missing: missing.to_string(),
        };
        let first = block.devices.start;
        let scope = super::device::scope(job.seed, &mark, block.group, &job.secrets);
        let identity = Identity::render(group, &scope, first).map_err(missing)?;
        let scope = identity.scope(group, &scope, first);
        if wanted.is_signed && !signers.contains_key(&block.group) {
            let signer = Signer::new(&job.plan, wanted, &scope).map_err(error)?;
            signers.insert(block.group, signer);
        }
        let signer = signers.get(&block.group);
        certificates::of_device(&job.plan, wanted, signer, &scope).map_err(error)?;
    }
    Ok(signers)
}

fn check_protocol(job: &Job, target: &Target) -> Result<(), PrepareError> {
    let Some(HttpProtocol::Own(name)) = target.http().map(|http| &http.protocol) else {
        return Ok(());
    };
    match job.protocols.get(name) {
        Some(_) => Ok(()),
        None => Err(PrepareError::Protocol {
            target: target.name.clone(),
            name: name.clone(),
            spoken: job.protocols.sentence(),
        }),
    }
}

async fn resolve(job: &Job, target: &Target) -> Result<Route, PrepareError> {
    let name = || target.name.clone();
    let (host, addrs) = match target.endpoint() {
        Endpoint::Builtin => {
            let addr = job.builtin.ok_or_else(|| PrepareError::NoBuiltin { target: name() })?;
            ("builtin", vec![addr])
        }
        Endpoint::Tcp { host, port } => {
            let plain = host.trim_start_matches('[').trim_end_matches(']');
            let error =
                |source| PrepareError::Unresolved { target: name(), host: host.clone(), source };
            let found = tokio::net::lookup_host((plain, *port)).await;
            let addrs: BTreeSet<SocketAddr> = found.map_err(|e| error(Some(e)))?.collect();
            if addrs.is_empty() {
                return Err(error(None));
            }
            (host.as_str(), addrs.into_iter().collect())
        }
    };
    let permits: Result<Vec<_>, Refused> =
        addrs.into_iter().map(|addr| job.guard.authorize(host, addr)).collect();
    Ok(Route { permits: permits?, sources: Vec::new(), secure: None, upgrade: upgrade(target) })
}

pub(super) fn upgrade(target: &Target) -> Option<Upgrade> {
    let path = target.mqtt()?.web_socket.as_deref()?;
    let host = match target.endpoint() {
        Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        Endpoint::Builtin => "localhost".to_owned(),
    };
    Some(Upgrade { host: host.into(), path: path.into() })
}

/// One connect per target and, where a name has addresses of both families, per family: a name
/// often has an IPv6 address that nobody listens on, so only the first family that answers is kept.
async fn probe(target: &Target, route: &mut Route) -> Result<(), PrepareError> {
    let mut refused = None;
    for is_ipv4 in [true, false] {
        let of_family = |permit: &&Permit| permit.addr().is_ipv4() == is_ipv4;
        let Some(addr) = route.permits.iter().find(of_family).map(|permit| permit.addr()) else {
            continue;
        };
        let why = match tokio::time::timeout(PROBE_TIMEOUT, dial::tcp(addr, None)).await {
            Ok(Ok(tcp)) => {
                route.permits.retain(|permit| of_family(&permit));
                return probe_tls(target, route, tcp).await;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PROBE_TIMEOUT.as_secs()),
        };
        let target = target.name.clone();
        refused.get_or_insert(PrepareError::Unreachable { target, addr, why });
    }
    refused.map_or(Ok(()), Err)
}

/// What is wrong with the peer's certificate is wrong for every device. What the peer thinks of us
/// is not found out: the probe shows no device's certificate.
async fn probe_tls(target: &Target, route: &Route, tcp: TcpStream) -> Result<(), PrepareError> {
    let Some(secure) = &route.secure else { return Ok(()) };
    let handshake = TlsStream::connect(tcp, Arc::clone(&secure.config), secure.name.clone());
    let Ok(Err(error)) = tokio::time::timeout(PROBE_TIMEOUT, handshake).await else {
        return Ok(());
    };
    if tls::is_the_peers_word(&error) {
        return Ok(());
    }
    let why = match tls::class_of(&error) {
        Some((_, why)) => why,
        None => format!("no TLS connection: {error}; is it the plain port?"),
    };
    Err(PrepareError::Insecure { target: target.name.clone(), why })
}

fn reserve_ports(job: &Job, target: usize, route: &Route) -> Result<Reservation, PrepareError> {
    let of_target = |group: usize| job.plan.groups[group].target == target;
    let blocks = job.shard.blocks.iter().filter(|block| of_target(block.group));
    let devices: u64 = blocks.map(shoal_domain::shard::Block::len).sum();
    job.sources.reserve((0..devices).map(|ordinal| route.path(ordinal))).map_err(|exhausted| {
        PrepareError::Ports { target: job.plan.targets[target].name.clone(), exhausted }
    })
}
