//! What each grant of a run reported, from the sums that were folded and the deltas that were not yet.

use std::collections::BTreeMap;

use shoal_domain::delta::{Delta, Tally};
use shoal_domain::ids::ObserverId;
use shoal_domain::plan::Plan;
use shoal_domain::roster::{Grant, Why};
use shoal_domain::shard::{Block, Shard};
use shoal_proto::v1;

use crate::orchestrator::decode;
use crate::record::{Record, grant_of, observe_of, reader_of, shard_of};
use crate::refusal::Refusal;
use crate::store::{AssignmentRow, RunRow, Store};
use crate::trackers::Trackers;

/// One grant with everything that is stored of it.
pub(super) struct Share {
    pub(super) row: AssignmentRow,
    /// In run time; empty where it never began.
    pub(super) shard: Shard,
    /// It reads for an observer and drives no devices.
    pub(super) observe: Option<v1::ObserverShare>,
    /// Another reader went on where this one ended.
    pub(super) is_superseded: bool,
    /// Devices that it held at the end, or was to hold.
    pub(super) devices: u64,
    pub(super) ended: Option<Why>,
    pub(super) total: Delta,
    pub(super) totals_proved: Option<bool>,
}

impl Share {
    pub(super) fn reads(&self, observer: ObserverId) -> bool {
        self.observe.as_ref().is_some_and(|share| share.observer == observer.0)
    }
}

pub(super) async fn of_run(
    store: &Store,
    row: &RunRow,
    plan: &Plan,
    record: &Record,
) -> Result<(Vec<Share>, Trackers), Refusal> {
    let mut trackers = Trackers::restored(plan, &store.trackers(row.run_id).await?)?;
    let mut parts: BTreeMap<(String, i64), Vec<Delta>> = BTreeMap::new();
    let mut add = |id: String, epoch: i64, delta: Delta| {
        parts.entry((id, epoch)).or_default().push(delta);
    };
    for summary in store.summaries(row.run_id).await? {
        let delta = decode("summaries", &summary.assignment_id, &summary.body)?;
        add(summary.assignment_id, summary.epoch, delta);
    }
    for stored in store.unfolded(row.run_id, None).await? {
        let mut delta = decode("deltas", &stored.assignment_id, &stored.body)?;
        trackers.add(&std::mem::take(&mut delta.receipts), delta.last_window);
        add(stored.assignment_id, stored.epoch, delta);
    }
    let mut shares = Vec::new();
    for assignment in store.assignments(row.run_id).await? {
        let granted = shard_of(plan, &assignment)?;
        let observe = observe_of(plan, &assignment)?;
        let key = (assignment.grant.assignment_id.clone(), assignment.grant.epoch);
        let mut total = Delta::default();
        parts.remove(&key).into_iter().flatten().for_each(|part| total.absorb(part));
        let totals_proved = match &assignment.closing {
            Some(closing) if !closing.totals.is_empty() => {
                let closing = decode("assignments", &key.0, &closing.totals)?;
                Some(closing.cells == total.cells && closing.arrivals == total.arrivals)
            }
            _ => None,
        };
        // There may be hundreds of shares, and all of them are held at once.
        total.cells.values_mut().for_each(Tally::pack);
        let stays = |block: &&Block| block.until_us == u64::MAX;
        let devices = granted.blocks.iter().filter(stays).map(Block::len).sum();
        let grant = grant_of(&record.roster, &assignment).cloned();
        let reader = reader_of(&record.roster, &assignment);
        let is_superseded = reader.is_some_and(|reader| record.roster.successor(reader).is_some());
        let ended = grant.as_ref().and_then(|grant| grant.ended.as_ref()).map(|ended| ended.why);
        let shard = grant
            .and_then(|grant| Grant { blocks: granted.blocks, ..grant }.tenures(total.handover))
            .unwrap_or_default();
        shares.push(Share {
            row: assignment,
            shard,
            observe,
            is_superseded,
            devices,
            ended,
            total,
            totals_proved,
        });
    }
    Ok((shares, trackers))
}
