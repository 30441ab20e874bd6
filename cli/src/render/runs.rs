//! Lists of runs and agents, as tables and as documents.
//!
//! The documents carry every field of the wire under stable names with their units.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use shoal_proto::v1::{AgentRow, RunRow};

use super::clean;
use super::columns::Columns;
use super::numbers::{count, instant, micros, seconds};

/// An empty word is shown as a dash: not known yet, or nothing.
fn or_dash(word: &str) -> String {
    if word.is_empty() { "-".into() } else { word.to_owned() }
}

fn sorted(labels: &HashMap<String, String>) -> BTreeMap<&String, &String> {
    labels.iter().collect()
}

fn labels_text(labels: &HashMap<String, String>) -> String {
    let labels = sorted(labels).into_iter().map(|(name, value)| format!("{name}={value}"));
    labels.collect::<Vec<_>>().join(" ")
}

pub(crate) fn runs(rows: &[RunRow]) -> String {
    if rows.is_empty() {
        return "no runs yet\n".into();
    }
    let mut columns = Columns::new(&[
        "run",
        "id",
        "scenario",
        "created (UTC)",
        "phase",
        "validity",
        "verdict",
        ">exit",
        ">devices",
        ">load",
        "labels",
    ]);
    for row in rows {
        columns.row(vec![
            row.name.clone(),
            row.run_id.clone(),
            row.scenario.clone(),
            instant(row.created_us),
            row.phase.clone(),
            or_dash(&row.validity),
            or_dash(&row.verdict),
            if is_over(&row.phase) { row.exit_code.to_string() } else { "-".into() },
            count(row.planned_devices),
            seconds(row.duration_s),
            or_dash(&labels_text(&row.labels)),
        ]);
    }
    columns.render()
}

pub(crate) fn is_over(phase: &str) -> bool {
    shoal_domain::run::Phase::from_word(phase).is_some_and(shoal_domain::run::Phase::is_over)
}

pub(crate) fn run_document(row: &RunRow) -> Value {
    let known = |word: &str| (!word.is_empty()).then(|| word.to_owned());
    json!({
        "run": row.run_id,
        "name": row.name,
        "scenario": row.scenario,
        "created_us": row.created_us,
        "phase": row.phase,
        "validity": known(&row.validity),
        "verdict": known(&row.verdict),
        "exit_code": is_over(&row.phase).then_some(row.exit_code),
        "devices_planned": row.planned_devices,
        "duration_s": row.duration_s,
        "labels": sorted(&row.labels),
        "started_by": known(&row.started_by),
        "revision": known(&row.revision),
    })
}

pub(crate) fn agents(rows: &[AgentRow]) -> String {
    if rows.is_empty() {
        return "no agents\n".into();
    }
    let mut columns = Columns::new(&[
        "agent",
        "state",
        "run",
        ">weight",
        ">devices at most",
        ">descriptors",
        ">memory MiB",
        ">timer p99",
        ">echo p50",
        "last seen (UTC)",
        "build",
        "labels",
    ]);
    for row in rows {
        columns.row(vec![
            row.agent_id.clone(),
            row.state.clone(),
            or_dash(&row.run),
            row.weight.to_string(),
            count(row.max_devices),
            count(row.descriptors),
            count(row.memory_bytes >> 20),
            measured(row.timer_p99_us),
            measured(row.echo_p50_us),
            instant(row.last_seen_us),
            row.build.clone(),
            or_dash(&labels_text(&row.labels)),
        ]);
    }
    let remarks = rows.iter().filter(|row| !row.remark.is_empty());
    let remarks = remarks
        .map(|row| format!("{} is {}: {}\n", clean(&row.agent_id), row.state, clean(&row.remark)));
    columns.render() + &remarks.collect::<String>()
}

/// 0 is what an agent says that could not tell.
fn measured(us: u64) -> String {
    if us == 0 { "-".to_owned() } else { micros(us as f64) }
}

pub(crate) fn agent_document(row: &AgentRow) -> Value {
    json!({
        "agent": row.agent_id,
        "state": row.state,
        "run": (!row.run.is_empty()).then_some(&row.run),
        "weight": row.weight,
        "devices_max": row.max_devices,
        "descriptors": row.descriptors,
        "memory_bytes": row.memory_bytes,
        "timer_p99_us": (row.timer_p99_us > 0).then_some(row.timer_p99_us),
        "echo_p50_us": (row.echo_p50_us > 0).then_some(row.echo_p50_us),
        "echo_p99_us": (row.echo_p99_us > 0).then_some(row.echo_p99_us),
        "last_seen_us": row.last_seen_us,
        "build": row.build,
        "labels": sorted(&row.labels),
        "remark": (!row.remark.is_empty()).then_some(&row.remark),
    })
}

#[cfg(test)]
mod tests {
    use crate::render::golden;

    use super::*;

    #[test]
    fn runs_are_listed_with_what_is_known_of_them() {
        let over = RunRow {
            run_id: "run_01J9ZK3V5T8Q2W4E6R8T0Y2M4N".into(),
            name: "calm-otter".into(),
            scenario: "quickstart".into(),
            phase: "FINISHED".into(),
            validity: "VALID".into(),
            verdict: "PASSED".into(),
            exit_code: 0,
            created_us: 1_772_366_405_000_000,
            planned_devices: 6_000,
            duration_s: 72.0,
            labels: [("env".to_owned(), "staging".to_owned())].into(),
            started_by: "kim".into(),
            revision: "1f6c2a9".into(),
        };
        let going = RunRow {
            name: "brave-heron".into(),
            phase: "RUNNING".into(),
            labels: HashMap::new(),
            validity: String::new(),
            verdict: String::new(),
            ..over.clone()
        };
        golden::assert("runs.txt", &runs(&[going.clone(), over]));
        assert_eq!(run_document(&going)["exit_code"], Value::Null);
        assert_eq!(runs(&[]), "no runs yet\n");
    }

    #[test]
    fn agents_are_listed_with_what_limits_them() {
        let row = AgentRow {
            agent_id: "a1".into(),
            build: "0.1.0".into(),
            state: "connected".into(),
            weight: 2.0,
            max_devices: 20_000,
            labels: [("zone".to_owned(), "b".to_owned()), ("rack".to_owned(), "7".to_owned())]
                .into(),
            last_seen_us: 1_772_366_405_000_000,
            descriptors: 65_536,
            memory_bytes: 8 << 30,
            timer_p99_us: 1_180,
            echo_p50_us: 41,
            echo_p99_us: 96,
            run: String::new(),
            remark: String::new(),
        };
        let liar = AgentRow {
            agent_id: "a2".into(),
            state: "quarantined".into(),
            remark: "it reported 7 slots\u{1b}; 2 report(s) were not taken".into(),
            ..row.clone()
        };
        golden::assert("agents.txt", &agents(&[row, liar]));
    }
}
