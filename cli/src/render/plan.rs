//! What a scenario amounts to, before anything is sent: its size, its stages, its planned slots.
//!
//! The numbers come from the same functions that pace the agents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};
use shoal_domain::capacity::{Limits, SPARE_DESCRIPTORS, agents_for};
use shoal_domain::plan::{Plan, StageKind};
use shoal_domain::schedule::Timetable;

use super::clean;
use super::columns::Columns;
use super::numbers::{count, rate, seconds};
use crate::scenario::Scenario;

pub(super) const EXAMPLE_SEED: u64 = 1;

fn messages_per_s(plan: &Plan) -> f64 {
    let groups = plan.groups.iter();
    groups
        .flat_map(|group| {
            group.sends().iter().map(|send| group.devices as f64 * 1e9 / send.pace.period_ns as f64)
        })
        .sum()
}

pub(super) fn s(us: u64) -> f64 {
    us as f64 / 1e6
}

pub(crate) fn summary(scenario: &Scenario) -> String {
    let plan = &scenario.plan;
    format!(
        "ok: {} is a plan: {} devices in {}, {} msg/s at full load, {} of load\n",
        clean(&scenario.file.display().to_string()),
        count(plan.devices()),
        plural(plan.groups.len(), "group"),
        rate(messages_per_s(plan)),
        seconds(s(plan.end_us()))
    )
}

pub(crate) fn summary_document(scenario: &Scenario) -> Value {
    let plan = &scenario.plan;
    json!({
        "scenario": plan.name,
        "vars": plan.vars,
        "devices": plan.devices(),
        "groups": plan.groups.len(),
        "messages_per_s": messages_per_s(plan),
        "duration_s": s(plan.end_us()),
        "descriptors": plan.devices() + SPARE_DESCRIPTORS,
    })
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// With the seed of an example where the file pins none: it moves slots, hardly their number.
pub(super) fn timetable(plan: &Plan) -> Timetable {
    Timetable::new(Arc::new(plan.clone()), plan.seed.unwrap_or(EXAMPLE_SEED), &[])
}

/// Planned slots of every sending series, by stage.
fn planned(plan: &Plan) -> Vec<(String, Vec<u64>)> {
    let timetable = timetable(plan);
    let mut rows = Vec::new();
    for (index, group) in plan.groups.iter().enumerate() {
        for send in group.sends() {
            let mut per_stage = vec![0; plan.stages.len()];
            for device in 0..group.devices {
                if let Some(slots) = timetable.slots(index, device, send) {
                    timetable.count_slots(index, &slots, 0, plan.end_us(), &mut per_stage);
                }
            }
            rows.push((plan.series_path(send.series), per_stage));
        }
    }
    rows
}

pub(crate) fn whole(scenario: &Scenario, fleet: Fleet) -> String {
    let plan = &scenario.plan;
    let mut text = summary(scenario);
    let seed = plan.seed.map_or("drawn for every run".into(), |seed| seed.to_string());
    let _ = writeln!(text, "scenario {}, seed {seed}", clean(&plan.name));

    let mut stages = Columns::new(&["stage", ">from", ">to", "devices"]);
    for (stage, level) in plan.stages.iter().zip(plan.levels()) {
        let devices = match stage.kind {
            StageKind::Ramp { from, to } => format!("{} to {}", count(from), count(to)),
            StageKind::Hold => count(level),
            StageKind::Storm(storm) => format!("{} less {}", count(level), count(storm.devices)),
            StageKind::Arrive { arrivals, .. } => {
                format!("{} and {} in turn", count(level), count(arrivals))
            }
        };
        let (from, to) = (seconds(s(stage.start_us)), seconds(s(stage.end_us)));
        stages.row(vec![stage.name.clone(), from, to, devices]);
    }
    let _ = write!(text, "\n{}", stages.render());

    let mut headers = vec!["planned slots".to_owned(), ">in all".to_owned()];
    headers.extend(plan.stages.iter().map(|stage| format!(">{}", stage.name)));
    let mut slots = Columns::new(&headers.iter().map(String::as_str).collect::<Vec<_>>());
    for (path, per_stage) in planned(plan) {
        let mut row = vec![path, count(per_stage.iter().sum())];
        row.extend(per_stage.into_iter().map(count));
        slots.row(row);
    }
    let _ = write!(text, "\n{}", slots.render());

    text.push_str("\nthresholds\n");
    for threshold in &plan.thresholds {
        let origin = if threshold.is_default { " (by default)" } else { "" };
        let _ = writeln!(text, "  {}{origin}", clean(&threshold.text));
    }

    text.push_str(&agents(plan.devices(), fleet));
    text
}

/// How many agents it takes, before anything is started.
fn agents(devices: u64, fleet: Fleet) -> String {
    let n = |per_agent| plural(agents_for(devices, per_agent) as usize, "agent");
    match fleet {
        Fleet::Each(most) => {
            format!("\nagents: {} of at most {} devices each\n", n(most), count(most))
        }
        Fleet::LikeThisMachine(limits) => {
            let (most, binding) = limits.room();
            format!(
                "\nagents: {} like this machine, which has {} for {} devices ({} descriptors)\n",
                n(most),
                binding.word(),
                count(most),
                count(limits.descriptors)
            )
        }
    }
}

/// What one agent is assumed to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fleet {
    /// As a person said it.
    Each(u64),
    LikeThisMachine(Limits),
}

impl Fleet {
    fn per_agent(self) -> u64 {
        match self {
            Self::Each(most) => most,
            Self::LikeThisMachine(limits) => limits.room().0,
        }
    }
}

pub(crate) fn whole_document(scenario: &Scenario, fleet: Fleet) -> Value {
    let plan = &scenario.plan;
    let mut document = summary_document(scenario);
    document["seed"] = json!(plan.seed);
    document["agents"] = json!(agents_for(plan.devices(), fleet.per_agent()));
    document["devices_per_agent"] = json!(fleet.per_agent());
    document["stages"] = plan
        .stages
        .iter()
        .map(|stage| json!({ "name": stage.name, "from_s": s(stage.start_us), "to_s": s(stage.end_us) }))
        .collect();
    document["series"] = planned(plan)
        .into_iter()
        .map(|(path, per_stage)| {
            let stages: BTreeMap<&str, u64> = plan
                .stages
                .iter()
                .map(|stage| stage.name.as_str())
                .zip(per_stage.clone())
                .collect();
            json!({ "series": path, "planned": per_stage.iter().sum::<u64>(), "stages": stages })
        })
        .collect();
    document["thresholds"] = plan.thresholds.iter().map(|t| json!(t.text)).collect();
    document
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::render::golden;

    const HERE: Fleet =
        Fleet::LikeThisMachine(Limits { descriptors: 1_024, ports: 28_232, memory_bytes: 1 << 40 });

    fn quickstart() -> Scenario {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scenarios/quickstart.yaml");
        let mut scenario = Scenario::load(&file, &Default::default()).unwrap();
        scenario.file = "scenarios/quickstart.yaml".into();
        scenario
    }

    #[test]
    fn the_plan_of_the_quickstart() {
        golden::assert("plan.txt", &whole(&quickstart(), HERE));
    }

    #[test]
    fn the_agents_are_counted_before_anything_starts() {
        let text = whole(&quickstart(), Fleet::Each(30));
        assert!(text.ends_with("\nagents: 4 agents of at most 30 devices each\n"), "{text}");
        assert_eq!(whole_document(&quickstart(), Fleet::Each(300))["agents"], 1);
    }

    #[test]
    fn what_the_table_adds_up_is_what_the_stages_have() {
        let document = whole_document(&quickstart(), HERE);
        let series = &document["series"][0];
        let stages = series["stages"].as_object().unwrap();
        let sum: u64 = stages.values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(series["planned"].as_u64().unwrap(), sum);
    }
}
