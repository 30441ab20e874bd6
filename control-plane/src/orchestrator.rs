//! The runs of this process: one driver task each, and the registry that others reach them by.
//!
//! A driver never decides by itself: it gathers what is observed, asks `domain::run::apply`, stores
//! the new state and carries out the commands. What is lost with the process is read again.

mod about;
mod compaction;
mod driver;
mod placement;
mod scale;

pub use about::{About, labels_from_wire, text};
pub use compaction::{decode, window_row};
pub use scale::Wanted;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use shoal_domain::check::parse_plan;
use shoal_domain::delta::Delta;
use shoal_domain::files::File;
use shoal_domain::ids::RunId;
use shoal_domain::plan::{Endpoint, Plan};
use shoal_domain::requests::Sampling;
use shoal_domain::run::{Phase, RunState};
use shoal_domain::schedule::Timetable;
use shoal_proto::files::files_from_wire;
use shoal_proto::v1;
use shoal_service_kit::{Clock, Lifecycle, random, traces};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

use crate::clock::ControlClock;
use crate::fleet::{Fleet, Grant};
use crate::live::LiveRuns;
use crate::metrics::{EndedRuns, RunSample};
use crate::record::{Record, Scaled, plan_of};
use crate::refusal::{Kind, Refusal};
use crate::store::{NewRun, RunFile, RunRow, SeriesRow, Store, StoreError};

/// Wishes to one run that may wait; a full queue refuses the caller.
const WISHES: usize = 64;
/// How long a run waits for agents unless it is told.
const AGENTS_TIMEOUT: Duration = Duration::from_secs(30);

/// What callers may ask of a run that goes on.
#[derive(Debug)]
pub enum Wish {
    Stop { abort: bool },
    Scale(scale::Wanted, oneshot::Sender<Result<Scaled, Refusal>>),
    OwnerBeat,
}

/// A run as its driver last stored it.
#[derive(Debug, Clone)]
pub struct Status {
    pub record: Record,
    pub exit_code: Option<u8>,
}

/// What others hold of a run that this process drives.
#[derive(Debug, Clone)]
pub struct ActiveRun {
    pub name: String,
    pub plan: Arc<Plan>,
    /// Without revisions of the load.
    pub timetable: Arc<Timetable>,
    pub owner_token_hash: Option<String>,
    pub wishes: mpsc::Sender<Wish>,
    pub status: watch::Receiver<Status>,
}

/// The registry, and everything a driver needs.
#[derive(Debug, Clone)]
pub struct Runs {
    store: Store,
    fleet: Fleet,
    live: LiveRuns,
    /// For scrapes that come a moment after the end.
    ended: EndedRuns,
    active: Arc<Mutex<HashMap<RunId, ActiveRun>>>,
    lifecycle: Lifecycle,
    /// This process in `runs.owner`; the same after a restart, so that it takes up its own runs
    /// at once, before their agents could miss them.
    owner: Arc<str>,
    /// Under which this process leads its database; `None`: it has it for itself.
    lead_epoch: Option<i64>,
    allows_builtin: bool,
}

impl Runs {
    pub fn new(
        store: Store,
        fleet: Fleet,
        lifecycle: Lifecycle,
        owner: String,
        lead_epoch: Option<i64>,
        allows_builtin: bool,
    ) -> Self {
        Self {
            store,
            fleet,
            live: LiveRuns::default(),
            ended: EndedRuns::default(),
            active: Arc::default(),
            lifecycle,
            owner: owner.into(),
            lead_epoch,
            allows_builtin,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, ActiveRun>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that this process drives.
    pub fn ids(&self) -> Vec<RunId> {
        self.lock().keys().copied().collect()
    }

    pub fn active(&self, run: RunId) -> Option<ActiveRun> {
        self.lock().get(&run).cloned()
    }

    /// One that this process drives, by id, name, unique prefix or `last`: for when the store, which
    /// knows all runs, does not answer.
    pub fn active_called(&self, reference: &str) -> Option<(RunId, ActiveRun)> {
        let active = self.lock();
        let newest = active.keys().max().copied();
        let exact = active.iter().find(|(id, run)| {
            run.name == reference
                || id.to_string() == reference
                || (reference == "last" && Some(**id) == newest)
        });
        let mut begun = active.iter().filter(|(id, run)| {
            id.to_string().starts_with(reference) || run.name.starts_with(reference)
        });
        let unique = begun.next().filter(|_| begun.next().is_none());
        exact.or(unique).map(|(id, run)| (*id, run.clone()))
    }

    pub fn live(&self) -> &LiveRuns {
        &self.live
    }

    pub fn ended(&self) -> &EndedRuns {
        &self.ended
    }

    /// Every run that this process drives, as `/metrics` shows it.
    pub fn samples(&self) -> Vec<RunSample> {
        let active: Vec<(RunId, ActiveRun)> =
            self.lock().iter().map(|(id, active)| (*id, active.clone())).collect();
        active.iter().filter_map(|(run, active)| self.sample(*run, active)).collect()
    }

    fn sample(&self, run: RunId, active: &ActiveRun) -> Option<RunSample> {
        let phase = active.status.borrow().record.state.phase();
        self.live.read(run, |live| RunSample::of(&active.name, &active.plan, phase, live))
    }

    /// A stored delta, for progress and abort thresholds.
    pub fn add(&self, run: RunId, grant: &Grant, delta: &Delta, is_closing: bool) {
        if let Some(active) = self.active(run) {
            self.live.add(run, &active.plan, grant, delta, is_closing);
        }
    }

    /// Accepts a run: checked, stored as PENDING, driven from now on.
    pub async fn accept(
        &self,
        mut request: v1::StartRunRequest,
    ) -> Result<v1::StartRunResponse, Refusal> {
        let overrides: Vec<(String, String)> =
            std::mem::take(&mut request.overrides).into_iter().map(|o| (o.name, o.value)).collect();
        let files = files_from_wire(std::mem::take(&mut request.files))
            .map_err(|error| Refusal::new(Kind::Invalid, "SH0101", error.to_string()))?;
        let plan = parse_plan(&request.scenario, &overrides, &files).map_err(|diagnostics| {
            let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
            Refusal::new(Kind::Invalid, "SH0101", lines.join("\n"))
        })?;
        let is_builtin =
            |target: &shoal_domain::plan::Target| *target.endpoint() == Endpoint::Builtin;
        if plan.targets.iter().any(is_builtin)
            && !(self.allows_builtin && request.builtin.parse::<std::net::SocketAddr>().is_ok())
        {
            let message = "`url: builtin` is the demo broker of a run in the CLI's own process";
            return Err(Refusal::new(Kind::Invalid, "SH0104", message)
                .help("name a broker, for example --set broker=mqtt://host:1883"));
        }
        let about = About::of(&mut request)?;
        let now_us = ControlClock.unix_us();
        let timeout_us = match request.agents_timeout_us {
            0 => AGENTS_TIMEOUT.as_micros() as u64,
            us => us,
        };
        let owner_token = request.owned.then(random::token);
        let record = Record {
            state: RunState::Pending { deadline_us: now_us.saturating_add(timeout_us) },
            load_end_us: plan.end_us(),
            scaled: Vec::new(),
            roster: Default::default(),
            false_since_us: Default::default(),
            starts: Vec::new(),
            agents_wanted: request.agents.max(plan.fleet.min_agents).max(1),
            is_owned: request.owned,
            builtin: request.builtin,
            sample_millionths: request.sample_millionths.min(Sampling::ALL.millionths()),
        };
        let run_id = RunId::from_parts(now_us / 1_000, random::u128());
        let mut new = NewRun {
            run_id,
            name: String::new(),
            scenario_name: plan.name.clone(),
            scenario_sha256: hash_token(&request.scenario),
            scenario_text: request.scenario,
            files: plan.files.iter().map(run_file).collect(),
            vars_json: serde_json::to_string(&overrides).expect("pairs of strings"),
            seed: plan.seed.unwrap_or_else(random::u64),
            planned_devices: plan.devices() as i64,
            created_at_us: now_us as i64,
            labels: about.labels,
            note: about.note,
            started_by: about.started_by,
            revision: about.revision,
            owner: self.owner.to_string(),
            lead_epoch: self.lead_epoch,
            owner_token_hash: owner_token.as_deref().map(hash_token),
            phase: Phase::Pending,
            state_json: record.to_json(),
        };
        self.insert_named(&mut new).await?;
        let series: Vec<SeriesRow> = plan
            .series
            .iter()
            .enumerate()
            .map(|(id, series)| SeriesRow {
                series: id as i64,
                operation: series.operation.word().to_owned(),
                group_name: plan.groups[series.group].name.clone(),
                name: series.name.clone(),
            })
            .collect();
        self.store.insert_series(run_id, &series).await?;
        let row = self.store.run(run_id).await?.ok_or_else(|| {
            Refusal::new(Kind::Internal, "SH0504", format!("run {run_id} vanished from the store"))
        })?;
        self.drive(row, Arc::new(plan), record, now_us).await?;
        Ok(v1::StartRunResponse {
            run_id: run_id.to_string(),
            name: new.name,
            owner_token: owner_token.unwrap_or_default(),
        })
    }

    /// Two words, drawn again while they are taken.
    async fn insert_named(&self, new: &mut NewRun) -> Result<(), Refusal> {
        for _ in 0..20 {
            new.name = two_words();
            match self.store.insert_run(new).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return other.map_err(Refusal::from),
            }
        }
        new.name = new.run_id.to_string();
        Ok(self.store.insert_run(new).await?)
    }

    /// Takes over what an earlier process left unfinished. Runs of a process that still lives on
    /// the same store are left alone.
    pub async fn resume(&self) -> Result<(), Refusal> {
        let now_us = ControlClock.unix_us();
        for mut row in self.store.unfinished_runs().await? {
            let owner = row.owner.clone();
            let claim =
                self.store.claim_run(row.run_id, Some(&owner), &self.owner, now_us as i64).await;
            match claim {
                Ok(epoch) => row.owner_epoch = epoch,
                Err(StoreError::Conflict { what }) => {
                    tracing::info!(run = %row.run_id, what, "left alone");
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            tracing::info!(run = %row.run_id, phase = row.phase.word(), "resumed");
            let plan = Arc::new(plan_of(&self.store, &row).await?);
            let record = Record::of(&row)?;
            self.drive(row, plan, record, now_us).await?;
        }
        Ok(())
    }

    async fn drive(
        &self,
        row: RunRow,
        plan: Arc<Plan>,
        record: Record,
        now_us: u64,
    ) -> Result<(), Refusal> {
        let (wishes, wished) = mpsc::channel(WISHES);
        let status = Status { record, exit_code: None };
        let (publish, status) = watch::channel(status);
        let run = row.run_id;
        let span = tracing::info_span!("drive run", %run, run_name = row.name);
        let span = traces::in_trace(span, run.number());
        let about = [("run", run.to_string()), ("name", row.name.clone())];
        let accepted = UNIX_EPOCH + Duration::from_micros(row.created_at_us.max(0) as u64);
        let active = ActiveRun {
            name: row.name.clone(),
            plan: plan.clone(),
            timetable: Arc::new(Timetable::new(plan.clone(), row.seed, &[])),
            owner_token_hash: row.owner_token_hash.clone(),
            wishes,
            status,
        };
        let driver = driver::Driver::new(self.clone(), row, plan, publish, now_us).await?;
        self.lock().insert(run, active);
        let runs = self.clone();
        let soft = self.lifecycle.soft();
        self.lifecycle.spawn("run driver", async move {
            driver.run(wished, soft).instrument(span).await;
            let ended = runs.lock().remove(&run);
            let phase = ended.as_ref().map(|active| active.status.borrow().record.state.phase());
            // Left behind by a stop of this process, it is another one's to end.
            if let Some(phase) = phase.filter(|phase| phase.is_over()) {
                let phase = [("phase", phase.word().to_owned())];
                traces::first_span(run.number(), "run", accepted, about.into_iter().chain(phase));
            }
            if let Some(sample) = ended.and_then(|active| runs.sample(run, &active)) {
                runs.ended.keep(sample, ControlClock.unix_us());
            }
            runs.live.close(run);
        });
        Ok(())
    }

    /// Tells other processes on the same store that this one lives, and claims what is orphaned.
    pub fn keep_alive(&self) {
        let runs = self.clone();
        let soft = self.lifecycle.soft();
        self.lifecycle.spawn("ownership", async move {
            let mut tick = tokio::time::interval(Duration::from_secs(3));
            loop {
                tokio::select! { _ = tick.tick() => {}, () = soft.cancelled() => return }
                let now_us = ControlClock.unix_us() as i64;
                if let Err(error) = runs.store.touch_owner(&runs.owner, now_us).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "ownership");
                }
                if let Err(error) = runs.resume_orphans().await {
                    tracing::warn!(%error, "orphaned runs");
                }
            }
        });
    }

    async fn resume_orphans(&self) -> Result<(), Refusal> {
        let unfinished = self.store.unfinished_runs().await?;
        let foreign = |row: &RunRow| row.owner != *self.owner && self.active(row.run_id).is_none();
        if unfinished.iter().any(foreign) { self.resume().await } else { Ok(()) }
    }
}

/// What was accepted is whole.
fn run_file(file: &File) -> RunFile {
    RunFile {
        path: file.path.clone(),
        sha256: file.sha256_hex(),
        body: file.bytes().unwrap_or_default().to_vec(),
    }
}

pub fn hash_token(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn two_words() -> String {
    let words = petname::Petnames::default();
    let pick = |list: &[&str]| list[(random::u64() % list.len() as u64) as usize].to_owned();
    format!("{}-{}", pick(&words.adjectives), pick(&words.nouns))
}
