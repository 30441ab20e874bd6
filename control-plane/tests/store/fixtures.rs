//! Rows that are fine unless a test says otherwise.

use shoal_control_plane::store::{
    FoldedThrough, IncomingDelta, IncomingRequests, NewAssignment, NewRun, Outcome, RunChange,
    Store, SummaryRow, WindowRow,
};
use shoal_domain::ids::RunId;
use shoal_domain::labels::Labels;
use shoal_domain::run::Phase;

pub(crate) const NOW_US: i64 = 1_790_000_000_000_000;

/// Run ids sort by their first argument, which stands for the time.
pub(crate) fn run_id(unix_ms: u64) -> RunId {
    RunId::from_parts(unix_ms, 0x00c0_ffee)
}

pub(crate) fn new_run(run_id: RunId, name: &str) -> NewRun {
    NewRun {
        run_id,
        name: name.to_owned(),
        scenario_name: "telemetry".to_owned(),
        scenario_text: "scenario: telemetry\n".to_owned(),
        scenario_sha256: "ab".repeat(32),
        files: vec![],
        vars_json: r#"{"rate":10}"#.to_owned(),
        seed: u64::MAX,
        planned_devices: 6_000,
        created_at_us: NOW_US,
        labels: Labels::default(),
        note: String::new(),
        started_by: String::new(),
        revision: String::new(),
        owner: "one".to_owned(),
        lead_epoch: None,
        owner_token_hash: Some("cd".repeat(32)),
        phase: Phase::Pending,
        state_json: r#"{"phase":"PENDING"}"#.to_owned(),
    }
}

/// A change of a run as it was inserted.
pub(crate) fn change(run_id: RunId, phase: Phase) -> RunChange {
    RunChange {
        run_id,
        version: 1,
        owner_epoch: 1,
        phase,
        state_json: "{}".to_owned(),
        validity: None,
        verdict: None,
        exit_code: None,
        cause: None,
        t0_us: Some(NOW_US + 5),
        ended_at_us: phase.is_over().then_some(NOW_US + 9),
    }
}

pub(crate) fn grant(run_id: RunId, assignment_id: &str, epoch: i64) -> NewAssignment {
    NewAssignment {
        assignment_id: assignment_id.to_owned(),
        epoch,
        run_id,
        agent_id: "agent-1".to_owned(),
        blocks: vec![0, 1, 2, 255],
        n_devices: 3_000,
        incarnation: 2,
    }
}

/// A run with the grants (`a`, 1) and (`b`, 1).
pub(crate) async fn run_with_two_grants(store: &Store) -> RunId {
    let run_id = run_id(1);
    store.insert_run(&new_run(run_id, "steady-heron")).await.unwrap();
    store.insert_assignments(&[grant(run_id, "a", 1), grant(run_id, "b", 1)]).await.unwrap();
    run_id
}

pub(crate) fn delta(assignment_id: &str, seq: i64) -> IncomingDelta {
    IncomingDelta {
        assignment_id: assignment_id.to_owned(),
        epoch: 1,
        seq,
        first_window: seq,
        last_window: seq,
        body: vec![seq as u8; 8],
        received_at_us: NOW_US + seq,
        requests: IncomingRequests::default(),
    }
}

pub(crate) async fn ingest(store: &Store, deltas: &[IncomingDelta]) -> Vec<Outcome> {
    store.ingest(deltas).await.unwrap().into_iter().map(|one| one.outcome).collect()
}

pub(crate) fn folded(assignment_id: &str, from: i64, through: i64) -> FoldedThrough {
    FoldedThrough { assignment_id: assignment_id.to_owned(), epoch: 1, from, through }
}

pub(crate) fn window(window: i64, sent: i64) -> WindowRow {
    WindowRow {
        series: 0,
        region: String::new(),
        window,
        body: vec![1, 2, 3],
        sent,
        acked: sent,
        errors: 0,
    }
}

pub(crate) fn summary(series: i64, stage: i64, body: &[u8]) -> SummaryRow {
    SummaryRow { series, stage, assignment_id: "a".to_owned(), epoch: 1, body: body.to_vec() }
}
