//! What a run's row holds beside its columns: the state machine's state and the facts around it.
//! A restarted control plane goes on from this and the assignments alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_domain::check::parse_plan;
use shoal_domain::files::{File, Files};
use shoal_domain::ids::ObserverId;
use shoal_domain::observed::Positions;
use shoal_domain::plan::Plan;
use shoal_domain::roster::{Grant, Reader, Roster};
use shoal_domain::run::RunState;
use shoal_domain::schedule::Revision;
use shoal_domain::shard::Shard;
use shoal_proto::{assignment, v1};

use crate::refusal::{Kind, Refusal};
use crate::store::{AssignmentRow, RunRow, Store};
use prost::Message;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub state: RunState,
    /// Run time at which the load ends: the plan's end, or earlier by a stop.
    pub load_end_us: u64,
    /// Changes of the running load, in order.
    #[serde(default)]
    pub scaled: Vec<Scaled>,
    /// Who holds which devices; the blocks are in the assignments.
    pub roster: Roster,
    /// By position: run time since which a threshold has been false without a break, as last seen.
    #[serde(default)]
    pub false_since_us: BTreeMap<usize, u64>,
    /// Observer, partition and position at which the readers of the start began, of sources that
    /// keep their events.
    #[serde(default)]
    pub starts: Vec<(u32, u32, u64)>,
    /// Agents to wait for.
    pub agents_wanted: u32,
    /// Its owner beats; silence ends it.
    pub is_owned: bool,
    /// Where `builtin` targets listen; empty elsewhere.
    pub builtin: String,
    /// The share of requests that is logged; 0: none.
    #[serde(default)]
    pub sample_millionths: u32,
}

/// One `shoal scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scaled {
    pub revision: Revision,
    pub from_devices: u64,
    pub rate_per_s: f64,
}

impl Record {
    pub fn starts(&self) -> Positions {
        let mut starts = Positions::default();
        for (observer, partition, next) in &self.starts {
            starts.raise(ObserverId(*observer), *partition, *next);
        }
        starts
    }

    pub fn keep_starts(&mut self, starts: &Positions) {
        let start =
            |(observer, partition, next): (ObserverId, u32, u64)| (observer.0, partition, next);
        self.starts = starts.iter().map(start).collect();
    }

    pub fn revisions(&self) -> Vec<Revision> {
        self.scaled.iter().map(|scaled| scaled.revision).collect()
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a record has only string keys")
    }

    pub fn of(row: &RunRow) -> Result<Self, Refusal> {
        serde_json::from_str(&row.state_json).map_err(|error| {
            internal(format!("table runs, column state_json, id {}: {error}", row.run_id))
        })
    }
}

/// `--set` of a run, in order, as kept in `vars_json`.
pub fn overrides_of(row: &RunRow) -> Result<Vec<(String, String)>, Refusal> {
    serde_json::from_str(&row.vars_json).map_err(|error| {
        internal(format!("table runs, column vars_json, id {}: {error}", row.run_id))
    })
}

/// The plan of a stored run: the same text, variables and files give the same plan.
pub async fn plan_of(store: &Store, row: &RunRow) -> Result<Plan, Refusal> {
    let files = store.run_files(row.run_id).await?;
    let files: Files = files.into_iter().map(|file| File::new(file.path, file.body)).collect();
    parse_plan(&row.scenario_text, &overrides_of(row)?, &files).map_err(|diagnostics| {
        let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
        internal(format!("the stored scenario of {} is no plan any more: {first}", row.run_id))
    })
}

pub fn shard_to_blob(shard: &Shard) -> Vec<u8> {
    let blocks = assignment::blocks_to_wire(shard);
    v1::Assignment { blocks, ..v1::Assignment::default() }.encode_to_vec()
}

/// The share of an observer, kept where a shard is kept.
pub fn observe_to_blob(share: v1::ObserverShare) -> Vec<u8> {
    v1::Assignment { observe: Some(share), ..v1::Assignment::default() }.encode_to_vec()
}

/// `None`: the assignment drives devices.
pub fn observe_of(plan: &Plan, row: &AssignmentRow) -> Result<Option<v1::ObserverShare>, Refusal> {
    let id = &row.grant.assignment_id;
    let wrong = |why: String| internal(format!("table assignments, column blocks, id {id}: {why}"));
    let wire = v1::Assignment::decode(row.grant.blocks.as_slice())
        .map_err(|error| wrong(error.to_string()))?;
    match wire.observe {
        Some(share) if share.observer as usize >= plan.observers.len() => {
            Err(wrong(format!("no observer {}", share.observer)))
        }
        observe => Ok(observe),
    }
}

/// The grant that a row belongs to.
pub fn grant_of<'r>(roster: &'r Roster, row: &AssignmentRow) -> Option<&'r Grant> {
    let of = |grant: &&Grant| {
        grant.id.agent.as_str() == row.grant.agent_id && grant.id.epoch == row.grant.epoch as u64
    };
    roster.grants.iter().find(of)
}

/// The reader that a row belongs to.
pub fn reader_of<'r>(roster: &'r Roster, row: &AssignmentRow) -> Option<&'r Reader> {
    let of = |reader: &&Reader| {
        reader.id.agent.as_str() == row.grant.agent_id && reader.id.epoch == row.grant.epoch as u64
    };
    roster.readers.iter().find(of)
}

/// As it was granted: it begins relative to its grant.
pub fn shard_of(plan: &Plan, row: &AssignmentRow) -> Result<Shard, Refusal> {
    let id = &row.grant.assignment_id;
    let wrong = |why: String| internal(format!("table assignments, column blocks, id {id}: {why}"));
    let wire = v1::Assignment::decode(row.grant.blocks.as_slice())
        .map_err(|error| wrong(error.to_string()))?;
    assignment::shard_from_wire(plan, &wire.blocks).map_err(|error| wrong(error.to_string()))
}

pub fn internal(message: String) -> Refusal {
    tracing::error!(message, "inconsistent store");
    Refusal::new(Kind::Internal, "SH0504", message)
}
