//! What two runs were not asked alike: a comparison across that compares the questions.

use std::collections::BTreeSet;

use crate::plan::{Group, Plan};

/// Sentences for people; empty where the runs are alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Other devices, series, paces or stages: not the same load.
    pub load: Vec<String>,
    /// Other values of variables, such as the broker's address: often the very question.
    pub vars: Vec<String>,
}

pub fn differences(baseline: &Plan, candidate: &Plan) -> Differences {
    let mut load = Vec::new();
    if baseline.name != candidate.name {
        load.push(format!("scenario {} against {}", baseline.name, candidate.name));
    }
    groups(baseline, candidate, &mut load);
    let stages = |plan: &Plan| -> Vec<String> {
        let stage = |stage: &crate::plan::Stage| {
            format!("{} {} s", stage.name, (stage.end_us - stage.start_us) as f64 / 1e6)
        };
        plan.stages.iter().map(stage).collect()
    };
    let (before, after) = (stages(baseline), stages(candidate));
    if before != after {
        load.push(format!("stages {} against {}", before.join(", "), after.join(", ")));
    }
    Differences { load, vars: vars(baseline, candidate) }
}

fn groups(baseline: &Plan, candidate: &Plan, load: &mut Vec<String>) {
    let find = |plan: &'_ Plan, name: &str| plan.groups.iter().position(|g| g.name == name);
    for group in &baseline.groups {
        let Some(other) = find(candidate, &group.name) else {
            load.push(format!("group {} only in the baseline", group.name));
            continue;
        };
        let other = &candidate.groups[other];
        if group.devices != other.devices {
            load.push(format!(
                "group {}: {} devices against {}",
                group.name, group.devices, other.devices
            ));
        }
        let (before, after) = (series(baseline, group), series(candidate, other));
        for name in before.symmetric_difference(&after) {
            let side = if before.contains(name) { "baseline" } else { "candidate" };
            load.push(format!("series {}.{name} only in the {side}", group.name));
        }
        for send in group.sends() {
            let name = &baseline.series[send.series.index()].name;
            let same =
                other.sends().iter().find(|o| candidate.series[o.series.index()].name == *name);
            if same.is_some_and(|same| same.pace != send.pace) {
                load.push(format!("series {}.{name} has another pace", group.name));
            }
        }
    }
    for group in &candidate.groups {
        if find(baseline, &group.name).is_none() {
            load.push(format!("group {} only in the candidate", group.name));
        }
    }
}

fn series(plan: &Plan, group: &Group) -> BTreeSet<String> {
    let ours = |series: &&crate::plan::Series| plan.groups[series.group].name == group.name;
    plan.series.iter().filter(ours).map(|series| series.name.clone()).collect()
}

fn vars(baseline: &Plan, candidate: &Plan) -> Vec<String> {
    let names: BTreeSet<&String> = baseline.vars.keys().chain(candidate.vars.keys()).collect();
    let text = |plan: &Plan, name: &str| plan.vars.get(name).cloned().unwrap_or_default();
    names
        .into_iter()
        .filter(|name| baseline.vars.get(*name) != candidate.vars.get(*name))
        .map(|name| format!("{name}: {} against {}", text(baseline, name), text(candidate, name)))
        .collect()
}
