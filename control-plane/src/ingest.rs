//! Deltas into the store, exactly once: decoded and checked, committed in batches, then acked.
//!
//! All uploads meet in one bounded queue; while the database is slow or away the queue fills, the
//! upload streams wait, and agents keep their deltas. Beats have a stream of their own.

use std::time::Duration;

use shoal_domain::delta::Delta;
use shoal_domain::ids::RunId;
use shoal_proto::{metrics, v1};
use shoal_service_kit::{Backoff, Clock, Lifecycle, SystemClock};
use tokio::sync::mpsc;
use tonic::Status;

use crate::orchestrator::Runs;
use crate::store::{Closing, IncomingDelta, Outcome, Store, StoreError};

/// Deltas that wait for the next commit. Full: upload streams wait.
const QUEUE: usize = 1_024;
/// Most deltas in one transaction.
const BATCH: usize = 512;
/// A transaction also ends where its deltas have this many cells: decoded, a cell's histograms take
/// tens of kilobytes, and many agents would otherwise make that gigabytes.
const MOST_CELLS: usize = 2_000;

/// A delta on its way in, and where its ack goes.
pub struct Arrival {
    pub delta: v1::UploadDelta,
    pub acks: mpsc::Sender<Result<v1::UploadAck, Status>>,
}

/// Starts the one task that writes deltas; the sender is for the upload streams.
pub fn start(store: Store, runs: Runs, lifecycle: &Lifecycle) -> mpsc::Sender<Arrival> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let hard = lifecycle.hard();
    lifecycle.spawn("ingest", async move {
        let work = Ingest { store, runs }.run(queue);
        tokio::select! { () = work => {}, () = hard.cancelled() => {} }
    });
    sender
}

struct Ingest {
    store: Store,
    runs: Runs,
}

struct Checked {
    arrival: Arrival,
    run: RunId,
    delta: Delta,
}

impl Ingest {
    async fn run(self, mut queue: mpsc::Receiver<Arrival>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            let mut checked = Vec::with_capacity(batch.len());
            let mut n_cells = 0;
            for arrival in batch.drain(..) {
                match check(&arrival.delta) {
                    Ok((run, delta)) => {
                        n_cells += delta.cells.len();
                        checked.push(Checked { arrival, run, delta });
                    }
                    Err(why) => {
                        tracing::warn!(why, id = arrival.delta.assignment_id, "delta refused");
                        let _ = arrival.acks.try_send(Err(Status::invalid_argument(why)));
                    }
                }
                if n_cells >= MOST_CELLS {
                    n_cells = 0;
                    self.take(std::mem::take(&mut checked)).await;
                }
            }
            if !checked.is_empty() {
                self.take(checked).await;
            }
        }
    }

    async fn take(&self, checked: Vec<Checked>) {
        let received_at_us = SystemClock.unix_us() as i64;
        let incoming: Vec<IncomingDelta> = checked
            .iter()
            .map(|c| IncomingDelta {
                assignment_id: c.arrival.delta.assignment_id.clone(),
                epoch: c.arrival.delta.epoch as i64,
                seq: c.arrival.delta.seq as i64,
                first_window: c.delta.first_window as i64,
                last_window: c.delta.last_window as i64,
                body: c.arrival.delta.body.clone(),
                received_at_us,
            })
            .collect();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        // Nothing is acked until it is committed, so it may be tried as often as it takes.
        let outcomes = loop {
            match self.commit(&incoming, &checked).await {
                Ok(outcomes) => break outcomes,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "deltas wait");
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        };
        for (checked, outcome) in checked.into_iter().zip(outcomes) {
            let is_closing = checked.arrival.delta.closing.is_some();
            if outcome == Outcome::Stored || (is_closing && outcome == Outcome::AlreadyStored) {
                let delta =
                    if outcome == Outcome::Stored { checked.delta } else { Delta::default() };
                let wire = &checked.arrival.delta;
                let grant = (wire.assignment_id.clone(), wire.epoch);
                self.runs.add(checked.run, &grant, &delta, is_closing);
            }
            let ack = v1::UploadAck {
                assignment_id: checked.arrival.delta.assignment_id,
                epoch: checked.arrival.delta.epoch,
                seq: checked.arrival.delta.seq,
                outcome: wire_outcome(outcome).into(),
            };
            // A stream that is gone or does not read its acks will send the delta again.
            let _ = checked.arrival.acks.try_send(Ok(ack));
        }
    }

    async fn commit(
        &self,
        incoming: &[IncomingDelta],
        checked: &[Checked],
    ) -> Result<Vec<Outcome>, StoreError> {
        let outcomes = self.store.ingest(incoming).await?;
        let outcomes: Vec<Outcome> = outcomes.into_iter().map(|outcome| outcome.outcome).collect();
        for (checked, outcome) in checked.iter().zip(&outcomes) {
            let wire = &checked.arrival.delta;
            let is_ours = matches!(outcome, Outcome::Stored | Outcome::AlreadyStored);
            if let (Some(closing), true) = (&wire.closing, is_ours) {
                let closing = Closing {
                    closed_at_us: closing.closed_at_us as i64,
                    last_seq: wire.seq as i64,
                    totals: closing.totals.clone(),
                };
                let epoch = wire.epoch as i64;
                match self.store.close_assignment(&wire.assignment_id, epoch, &closing).await {
                    // It was closed before, by the same delta sent twice.
                    Err(StoreError::Conflict { .. }) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(outcomes)
    }
}

/// Everything that can be wrong with the bytes of a delta is found here, before the store.
fn check(wire: &v1::UploadDelta) -> Result<(RunId, Delta), String> {
    let numbers = [wire.epoch, wire.seq, wire.closing.as_ref().map_or(0, |c| c.closed_at_us)];
    if numbers.iter().any(|n| i64::try_from(*n).is_err()) {
        return Err("a number of the delta does not fit in 63 bits".into());
    }
    let run = run_of(&wire.assignment_id).ok_or("the assignment id names no run")?;
    let delta = metrics::decode(&wire.body).map_err(|error| error.to_string())?;
    if i64::try_from(delta.last_window).is_err() {
        return Err("the window does not fit in 63 bits".into());
    }
    if let Some(closing) = &wire.closing {
        metrics::decode(&closing.totals).map_err(|error| format!("totals: {error}"))?;
    }
    Ok((run, delta))
}

/// Assignment ids are `<run id>.<agent id>`.
pub fn run_of(assignment_id: &str) -> Option<RunId> {
    assignment_id.split_once('.')?.0.parse().ok()
}

fn wire_outcome(outcome: Outcome) -> v1::UploadOutcome {
    match outcome {
        Outcome::Stored | Outcome::AlreadyStored => v1::UploadOutcome::Stored,
        Outcome::UnknownAssignment => v1::UploadOutcome::Unknown,
        Outcome::RunOver => v1::UploadOutcome::RunOver,
    }
}
