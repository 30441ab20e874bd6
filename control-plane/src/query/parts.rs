//! What one agent or one region did by itself, made like the whole from the shares that are its own.

use std::collections::BTreeMap;

use shoal_domain::plan::Plan;
use shoal_domain::report::{DeviceTotals, PartReport};
use shoal_domain::shard::Shard;
use shoal_domain::verdict::{Facts, GroupDevices};

use super::observers::Observing;
use super::shares::Share;
use crate::record::{Record, plan_of};
use crate::refusal::{Kind, Refusal};
use crate::store::{RunRow, Store};

/// The label by which an agent says where it is.
const REGION: &str = "region";

/// Where each agent of a run is; empty for one that does not say.
pub(super) struct Regions(BTreeMap<String, String>);

impl Regions {
    pub(super) async fn of(store: &Store, row: &RunRow) -> Result<Self, Refusal> {
        let mut regions = BTreeMap::new();
        for agent in store.run_agents(row.run_id).await? {
            regions.insert(agent.agent_id, region_in(&agent.labels_json));
        }
        Ok(Self(regions))
    }

    pub(super) fn of_share(&self, share: &Share) -> &str {
        self.0.get(&share.row.grant.agent_id).map_or("", String::as_str)
    }
}

/// The region that an agent's labels name; empty: none.
pub fn region_in(labels_json: &str) -> String {
    let labels: BTreeMap<String, String> = serde_json::from_str(labels_json).unwrap_or_default();
    labels.get(REGION).cloned().unwrap_or_default()
}

/// As shown: agents that name no region are one, too.
pub(super) fn name_of(region: &str) -> String {
    if region.is_empty() { "none".to_owned() } else { region.to_owned() }
}

/// The facts of some shares, of the same stretch of time as the whole run's.
pub(super) fn facts_of<'s>(
    row: &RunRow,
    plan: &Plan,
    record: &Record,
    ended_us: u64,
    shares: impl Iterator<Item = &'s Share> + Clone,
) -> Facts {
    let mut facts = super::facts(row, plan, record, shares.clone());
    facts.ended_us = ended_us;
    plan_devices(&mut facts, shares.map(|share| &share.shard));
    facts
}

/// Only the devices of these shards were to be driven.
pub fn plan_devices<'s>(facts: &mut Facts, shards: impl Iterator<Item = &'s Shard> + Clone) {
    for (group, devices) in facts.devices.iter_mut().enumerate() {
        let blocks = shards.clone().flat_map(|shard| &shard.blocks);
        let of_group = blocks.filter(|block| block.group == group);
        let planned = of_group.map(|block| block.devices.end - block.devices.start).sum();
        *devices = GroupDevices { planned, ..*devices };
    }
}

/// By `agent` or by `region`, in order of their names.
pub async fn parts(store: &Store, row: &RunRow, by: &str) -> Result<Vec<PartReport>, Refusal> {
    let regions = match by {
        "agent" => None,
        "region" => Some(Regions::of(store, row).await?),
        _ => {
            let message = format!("a run has no parts by `{by}`");
            let refusal = Refusal::new(Kind::Invalid, "SH0706", message);
            return Err(refusal.help("by `agent` or `region`"));
        }
    };
    let (plan, record) = (plan_of(store, row).await?, Record::of(row)?);
    if record.state.t0_us().is_none() {
        return Ok(Vec::new());
    }
    let (shares, trackers) = super::shares::of_run(store, row, &plan, &record).await?;
    let observing = Observing::new(&plan, &record, &shares, trackers);
    let ended_us = super::facts(row, &plan, &record, shares.iter()).ended_us;
    let mut of_part: BTreeMap<String, Vec<&Share>> = BTreeMap::new();
    for share in &shares {
        let name = match &regions {
            Some(regions) => name_of(regions.of_share(share)),
            None => share.row.grant.agent_id.clone(),
        };
        of_part.entry(name).or_default().push(share);
    }
    let part = |(name, shares): (String, Vec<&Share>)| {
        let driving = shares.iter().copied().filter(|share| share.observe.is_none());
        let facts = facts_of(row, &plan, &record, ended_us, driving);
        let mut devices = DeviceTotals::default();
        for group in &facts.devices {
            devices.planned += group.planned;
            devices.connected += group.connected;
            devices.failed += group.failed;
        }
        let mut series = super::series(&plan, &facts);
        series.retain(|series| series.stage == "all");
        let observers = observing.of_part(&plan, &shares);
        PartReport { by: by.to_owned(), name, devices, series, observers }
    };
    Ok(of_part.into_iter().map(part).collect())
}
