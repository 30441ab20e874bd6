//! From an assignment on the wire to a shard that is ready to start.
//!
//! The scenario is parsed here with the same code as everywhere; the hash proves that both sides
//! mean the same plan before anything is sent. Everything that is wrong becomes a [`Refusal`], one
//! sentence with a code. The trait is the seam at which tests put an engine that sends nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use shoal_domain::files::Files;
use shoal_domain::ids::ObserverId;
use shoal_domain::plan::Plan;
use shoal_domain::requests::Sampling;
use shoal_proto::assignment::shard_from_wire;
use shoal_proto::metrics::{positions_from_wire, positions_to_wire};
use shoal_proto::v1;
use shoal_service_kit::{Clock as _, SystemClock, TargetGuard};
use tokio::sync::mpsc;

use super::files::fetch;
use crate::connection::Dialer;
use crate::engine::{self, Control, CoreReport, Job, Prepared, SourceAddresses};
use crate::observe::{self, ObserverJob};
use crate::protocol::Protocols;

/// Below the control plane's barrier of 60 s, so that it hears why.
const PREPARE_LIMIT: Duration = Duration::from_secs(50);
/// Larger files in the directory of secrets are none.
const MAX_SECRET: u64 = 64 * 1024;

/// Why an assignment cannot be held here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) why: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }
}

/// The hash of the plan as it was read here, and the shard.
pub(crate) type Loaded = Result<([u8; 32], Box<dyn Ready>), Refusal>;

pub(crate) trait Loader: Send + Sync {
    fn prepare(&self, wanted: v1::Assignment) -> BoxFuture<'static, Loaded>;
}

/// Waits for the threads of the cores.
pub(crate) type Join = Box<dyn FnOnce() + Send>;

pub(crate) trait Ready: Send {
    fn n_cores(&self) -> usize;

    /// Where the reading begins, of a source that keeps its events.
    fn positions(&self) -> Vec<v1::Position> {
        Vec::new()
    }

    /// Sends or awaits readiness probes, with control-plane time so much ahead of this machine's
    /// CLOCK_BOOTTIME; `None` where there are none.
    fn probe(&mut self, _offset_us: i64) -> Option<Probing> {
        None
    }

    fn start(
        self: Box<Self>,
        t0_boot_us: u64,
        control: Arc<Control>,
        reports: mpsc::Sender<CoreReport>,
    ) -> Join;
}

/// What there is to say of readiness probes.
pub(crate) type Probing = BoxFuture<'static, Result<Vec<v1::Probed>, Refusal>>;

/// Prepares shards with the engine of this machine.
pub(crate) struct EngineLoader {
    pub(crate) dialer: Dialer,
    pub(crate) guard: TargetGuard,
    pub(crate) sources: SourceAddresses,
    pub(crate) protocols: Protocols,
    pub(crate) secrets_dir: Option<PathBuf>,
    pub(crate) cores: usize,
}

impl Loader for EngineLoader {
    fn prepare(&self, wanted: v1::Assignment) -> BoxFuture<'static, Loaded> {
        let (dir, cores) = (self.secrets_dir.clone(), self.cores);
        let ways = (self.guard.clone(), self.sources.clone());
        let (dialer, protocols) = (self.dialer.clone(), self.protocols.clone());
        let prepared = async move {
            let files = match wanted.has_files {
                true => fetch(&dialer, &wanted).await?,
                false => Files::none(),
            };
            // Parsing and hashing a large scenario is work, and so are files.
            let read = move || read(&wanted, &files, ways, dir, cores);
            let read = tokio::task::spawn_blocking(read).await;
            let job =
                read.map_err(|_| Refusal::new("SH0209", "the scenario could not be read"))??;
            let (hash, job) = match job {
                Work::Observe(job) => {
                    let (hash, observer) = (job.plan.hash(), job.observer);
                    let prepared = observe::prepare(job).await?;
                    return Ok((
                        hash,
                        Box::new(ReadyObserver { observer, prepared }) as Box<dyn Ready>,
                    ));
                }
                Work::Drive(job) => (job.plan.hash(), Job { protocols, ..*job }),
            };
            let n_cores = job.cores;
            let prepared = engine::prepare(job)
                .await
                .map_err(|error| Refusal::new(error.code(), error.to_string()))?;
            Ok((hash, Box::new(ReadyShard { prepared, n_cores }) as Box<dyn Ready>))
        };
        async move {
            let late = "files and targets could not be checked within 50 s";
            let late = Refusal::new("SH0301", late);
            tokio::time::timeout(PREPARE_LIMIT, prepared).await.unwrap_or(Err(late))
        }
        .boxed()
    }
}

/// What an assignment asks for.
enum Work {
    Drive(Box<Job>),
    Observe(ObserverJob),
}

struct ReadyObserver {
    observer: ObserverId,
    prepared: observe::Prepared,
}

impl Ready for ReadyObserver {
    fn n_cores(&self) -> usize {
        1
    }

    fn positions(&self) -> Vec<v1::Position> {
        positions_to_wire(&self.prepared.positions)
    }

    fn probe(&mut self, _offset_us: i64) -> Option<Probing> {
        let (seen, observer) = (self.prepared.probe()?, self.observer.0);
        let said = v1::Probed { observer, sent: String::new() };
        Some(async move { seen.await.map(|()| vec![said]) }.boxed())
    }

    fn start(
        self: Box<Self>,
        t0_boot_us: u64,
        control: Arc<Control>,
        reports: mpsc::Sender<CoreReport>,
    ) -> Join {
        Box::new(self.prepared.start(t0_boot_us, control, reports))
    }
}

struct ReadyShard {
    prepared: Prepared,
    n_cores: usize,
}

impl Ready for ReadyShard {
    fn n_cores(&self) -> usize {
        self.n_cores
    }

    fn probe(&mut self, offset_us: i64) -> Option<Probing> {
        let prober = self.prepared.prober()?;
        let unix_us = move || SystemClock.boot_us().saturating_add_signed(offset_us);
        // That nothing is to be waited for is said like that it was seen.
        let said = |(observer, sent): (ObserverId, Option<String>)| v1::Probed {
            observer: observer.0,
            sent: sent.unwrap_or_default(),
        };
        let sending = async move {
            let sent = prober.send(unix_us).await;
            let sent = sent.map_err(|why| Refusal::new("SH0311", why))?;
            Ok(sent.into_iter().map(said).collect())
        };
        Some(sending.boxed())
    }

    fn start(
        self: Box<Self>,
        t0_boot_us: u64,
        control: Arc<Control>,
        reports: mpsc::Sender<CoreReport>,
    ) -> Join {
        let running = self.prepared.start(t0_boot_us, control, reports);
        Box::new(move || running.join())
    }
}

/// Everything in an assignment that can be wrong without asking the network.
fn read(
    wanted: &v1::Assignment,
    files: &Files,
    (guard, sources): (TargetGuard, SourceAddresses),
    secrets_dir: Option<PathBuf>,
    cores: usize,
) -> Result<Work, Refusal> {
    let differs = |why: String| Refusal::new("SH0209", why);
    let plan = parse(wanted, files)?;
    if plan.hash()[..] != wanted.plan_hash[..] {
        return Err(differs(
            "this agent reads another plan out of the scenario than the control plane: \
             run the same build on both"
                .to_owned(),
        ));
    }
    let shard =
        shard_from_wire(&plan, &wanted.blocks).map_err(|error| differs(error.to_string()))?;
    let run = wanted.run_id.parse().map_err(|error| differs(format!("{error}")))?;
    let builtin = match wanted.builtin.as_str() {
        "" => None,
        addr => Some(addr.parse().map_err(|error| {
            differs(format!("the demo broker's address `{addr}` is none: {error}"))
        })?),
    };
    if !(wanted.spawn_rate.is_finite() && wanted.spawn_rate > 0.0) {
        return Err(differs(format!("a spawn rate of {}/s cannot be kept", wanted.spawn_rate)));
    }
    let secrets = match secrets_dir {
        Some(dir) => read_secrets(&dir)?,
        None => BTreeMap::new(),
    };
    let (plan, secrets) = (Arc::new(plan), Arc::new(secrets));
    if let Some(part) = &wanted.observe {
        if part.observer as usize >= plan.observers.len() || part.share >= part.n_shares {
            let (observer, share) = (part.observer, part.share);
            return Err(differs(format!("no share {share} of observer {observer}")));
        }
        return Ok(Work::Observe(ObserverJob {
            plan,
            observer: ObserverId(part.observer),
            share: part.share,
            n_shares: part.n_shares,
            positions: positions_from_wire(&part.positions),
            is_resumed: part.is_resumed,
            from_us: wanted.from_us,
            run,
            seed: wanted.seed,
            secrets,
            guard,
            builtin,
        }));
    }
    // A core without devices would only cost a thread.
    let cores = cores.min(usize::try_from(shard.devices()).unwrap_or(usize::MAX)).max(1);
    Ok(Work::Drive(Box::new(Job {
        plan,
        shard,
        seed: wanted.seed,
        run,
        secrets,
        guard,
        sources,
        builtin,
        sampling: Sampling::from_millionths(wanted.sample_millionths),
        cores,
        spawn_rate: wanted.spawn_rate,
        protocols: Protocols::default(),
    })))
}

fn parse(wanted: &v1::Assignment, files: &Files) -> Result<Plan, Refusal> {
    let overrides: Vec<(String, String)> =
        wanted.overrides.iter().map(|o| (o.name.clone(), o.value.clone())).collect();
    shoal_domain::check::parse_plan(&wanted.scenario, &overrides, files).map_err(|diagnostics| {
        let first = diagnostics.first().map_or_else(String::new, |first| format!(": {first}"));
        let first = first.lines().next().unwrap_or_default().to_owned();
        Refusal::new("SH0209", format!("this agent cannot read the scenario{first}"))
    })
}

/// Each regular file is one secret, named like the file; one line end at its end is not part of it.
fn read_secrets(dir: &std::path::Path) -> Result<BTreeMap<String, String>, Refusal> {
    let refuse = |error: std::io::Error| {
        Refusal::new(
            "SH0303",
            format!("secrets directory {} cannot be read: {error}", dir.display()),
        )
    };
    let mut secrets = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        // Follows links: mounted secrets are links to files.
        let is_secret = std::fs::metadata(entry.path())
            .is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_SECRET);
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !is_secret || name.starts_with('.') {
            continue;
        }
        // What is no text cannot stand in a template; a scenario that needs it hears `missing`.
        let Ok(mut text) = std::fs::read_to_string(entry.path()) else { continue };
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        secrets.insert(name, text);
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests;
