//! Every 30 s, and at the end of a run: deltas into windows and summaries.

use std::collections::BTreeMap;

use shoal_domain::delta::Delta;
use shoal_domain::ids::RunId;
use shoal_domain::plan::Plan;
use shoal_proto::metrics;

use crate::fold::{self, SummaryKey, WindowKey};
use crate::record::internal;
use crate::refusal::Refusal;
use crate::store::{self, FoldBatch, FoldedThrough, Store, SummaryRow, WindowRow};
use crate::trackers::Trackers;

/// One assignment under one epoch.
type Grant = (String, i64);

/// Folds what was received before `received_before_us` (all: `None`). The regions are by
/// assignment id.
pub(super) async fn compact(
    store: &Store,
    run_id: RunId,
    owner_epoch: i64,
    received_before_us: Option<i64>,
    region_of: &BTreeMap<String, String>,
    plan: &Plan,
) -> Result<(), Refusal> {
    let deltas = store.unfolded(run_id, received_before_us).await?;
    if deltas.is_empty() {
        return Ok(());
    }
    let mut summaries: BTreeMap<Grant, BTreeMap<SummaryKey, Delta>> = BTreeMap::new();
    let mut windows: BTreeMap<WindowKey, Delta> = BTreeMap::new();
    let mut gauges = BTreeMap::new();
    let mut through: BTreeMap<Grant, i64> = BTreeMap::new();
    let mut trackers = Trackers::restored(plan, &store.trackers(run_id).await?)?;
    for delta in &deltas {
        let grant = (delta.assignment_id.clone(), delta.epoch);
        let body = decode("deltas", &delta.assignment_id, &delta.body)?;
        let region = region_of.get(&delta.assignment_id).map_or("", String::as_str);
        fold::into_summaries(summaries.entry(grant.clone()).or_default(), &body);
        fold::into_windows(&mut windows, region, &body);
        let held = fold::gauges_of(&delta.assignment_id, delta.epoch);
        fold::gauges_into_windows(&mut windows, &mut gauges, &held, &body);
        trackers.add(&body.receipts, body.last_window);
        through.insert(grant, delta.seq);
    }
    let (trackers, settled) = trackers.take_touched();
    fold::settled_into_windows(&mut windows, settled);
    add_stored_summaries(store, run_id, &mut summaries).await?;
    add_stored_windows(store, run_id, &mut windows).await?;

    let rows = store.assignments(run_id).await?;
    let through = rows
        .iter()
        .filter_map(|row| {
            let grant = (row.grant.assignment_id.clone(), row.grant.epoch);
            let through = *through.get(&grant)?;
            Some(FoldedThrough {
                assignment_id: grant.0,
                epoch: grant.1,
                from: row.folded_through,
                through,
            })
        })
        .collect();
    let batch = FoldBatch {
        run_id,
        owner_epoch,
        through,
        windows: windows.iter().map(|(key, delta)| window_row(key, delta)).collect(),
        summaries: summaries
            .iter()
            .flat_map(|(grant, rows)| {
                rows.iter().map(|(key, delta)| summary_row(grant, key, delta))
            })
            .collect(),
        trackers,
    };
    Ok(store.fold(&batch).await?)
}

/// Proves by the closing totals of each grant that what is stored is all that it counted. Where it
/// is not (acknowledged deltas that a failover of the database forgot), the totals *replace* the
/// grant's summaries: what is lost is when it happened, never that it did. Says so in the run's
/// events and marks the windows of those series.
pub(super) async fn repair(store: &Store, run_id: RunId, owner_epoch: i64) -> Result<(), Refusal> {
    let mut stored: BTreeMap<Grant, BTreeMap<SummaryKey, Delta>> = BTreeMap::new();
    for row in store.summaries(run_id).await? {
        let delta = decode("summaries", &row.assignment_id, &row.body)?;
        let grant = stored.entry((row.assignment_id, row.epoch)).or_default();
        grant.insert((row.series, row.stage), delta);
    }
    for row in store.assignments(run_id).await? {
        let grant = (row.grant.assignment_id.clone(), row.grant.epoch);
        // Totals that were too large to be sent prove nothing.
        let Some(closing) = row.closing.filter(|closing| !closing.totals.is_empty()) else {
            continue;
        };
        let totals = decode("assignments", &grant.0, &closing.totals)?;
        let known = stored.remove(&grant).unwrap_or_default();
        let Some(repair) = fold::repair(&known, &totals) else { continue };
        let text = format!(
            "agent {}: {} of its counts were lost in the store and restored from its closing totals",
            row.grant.agent_id, repair.n_lost
        );
        tracing::warn!(run = %run_id, text, "storage gap");
        let row = |(key, delta): (&SummaryKey, &Delta)| summary_row(&grant, key, delta);
        let summaries: Vec<SummaryRow> = repair.rows.iter().map(row).collect();
        store.repair(run_id, owner_epoch, &summaries, &repair.gone, &text).await?;
    }
    Ok(())
}

async fn add_stored_summaries(
    store: &Store,
    run_id: RunId,
    summaries: &mut BTreeMap<Grant, BTreeMap<SummaryKey, Delta>>,
) -> Result<(), Refusal> {
    for row in store.summaries(run_id).await? {
        let grant = (row.assignment_id.clone(), row.epoch);
        if let Some(delta) =
            summaries.get_mut(&grant).and_then(|rows| rows.get_mut(&(row.series, row.stage)))
        {
            let mut stored = decode("summaries", &row.assignment_id, &row.body)?;
            // The stored one is older: its absolute facts give way to the newer ones.
            stored.absorb(std::mem::take(delta));
            *delta = stored;
        }
    }
    Ok(())
}

async fn add_stored_windows(
    store: &Store,
    run_id: RunId,
    windows: &mut BTreeMap<WindowKey, Delta>,
) -> Result<(), Refusal> {
    let keys: Vec<store::WindowKey> = windows
        .keys()
        .map(|(series, region, window)| store::WindowKey {
            series: *series,
            region: region.clone(),
            window: *window,
        })
        .collect();
    for row in store.windows(run_id, &keys).await? {
        if let Some(delta) = windows.get_mut(&(row.series, row.region.clone(), row.window)) {
            delta.absorb(decode("windows", &run_id.to_string(), &row.body)?);
        }
    }
    Ok(())
}

pub fn decode(table: &str, id: &str, body: &[u8]) -> Result<Delta, Refusal> {
    metrics::decode(body)
        .map_err(|error| internal(format!("table {table}, column body, id {id}: {error}")))
}

pub fn window_row(key: &WindowKey, delta: &Delta) -> WindowRow {
    let sum = |count: fn(&shoal_domain::delta::Tally) -> u64| {
        delta.cells.values().map(count).sum::<u64>() as i64
    };
    WindowRow {
        series: key.0,
        region: key.1.clone(),
        window: key.2,
        body: metrics::encode(delta),
        sent: sum(|tally| tally.sent),
        acked: sum(|tally| tally.acked),
        errors: sum(shoal_domain::delta::Tally::n_errors),
    }
}

fn summary_row(grant: &Grant, key: &SummaryKey, delta: &Delta) -> SummaryRow {
    SummaryRow {
        series: key.0,
        stage: key.1,
        assignment_id: grant.0.clone(),
        epoch: grant.1,
        body: metrics::encode(delta),
    }
}
