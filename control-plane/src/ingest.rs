//! Deltas into the store, exactly once: decoded and checked, committed in batches, then acked.
//!
//! All uploads meet in one bounded queue; while the database is slow or away the queue fills, the
//! upload streams wait, and agents keep their deltas. Beats have a stream of their own.

use std::time::Duration;

use shoal_domain::delta::Delta;
use shoal_domain::ids::{AgentId, RunId};
use shoal_domain::stretch;
use shoal_proto::{metrics, v1};
use shoal_service_kit::{Backoff, Clock, Lifecycle};
use tokio::sync::mpsc;
use tonic::Status;

use crate::clock::ControlClock;
use crate::fleet::Fleet;
use crate::orchestrator::Runs;
use crate::store::{
    Closing, IncomingDelta, IncomingRequests, Outcome, QuarantineRow, Store, StoreError,
};

mod believing;
mod logged;
mod pace;

use self::believing::{Beliefs, owner_of};
use self::logged::{Logged, requests_of};
use self::pace::Pace;

/// Deltas that wait for the next commit. Full: upload streams wait.
const QUEUE: usize = 1_024;
/// Most deltas in one transaction.
const BATCH: usize = 512;
/// A transaction also ends where its deltas have this many cells: decoded, a cell's histograms take
/// tens of kilobytes, and many agents would otherwise make that gigabytes.
const MOST_CELLS: usize = 2_000;
/// And where the request logs beside them are this long.
const MOST_LOGGED: usize = 16 * 1024 * 1024;

/// A delta on its way in, and where its ack goes.
pub struct Arrival {
    pub delta: v1::UploadDelta,
    /// Who sent it, as far as its stream said so.
    pub from: Option<AgentId>,
    pub acks: mpsc::Sender<Result<v1::UploadAck, Status>>,
}

/// Starts the one task that writes deltas; the sender is for the upload streams.
pub fn start(
    store: Store,
    runs: Runs,
    fleet: Fleet,
    lifecycle: &Lifecycle,
) -> mpsc::Sender<Arrival> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let hard = lifecycle.hard();
    lifecycle.spawn("ingest", async move {
        let work = Ingest {
            store,
            runs,
            fleet,
            beliefs: Beliefs::default(),
            logged: Logged::default(),
            pace: Pace::start(),
        }
        .run(queue);
        tokio::select! { () = work => {}, () = hard.cancelled() => {} }
    });
    sender
}

struct Ingest {
    store: Store,
    runs: Runs,
    fleet: Fleet,
    beliefs: Beliefs,
    logged: Logged,
    pace: Pace,
}

struct Checked {
    arrival: Arrival,
    run: RunId,
    delta: Delta,
    requests: IncomingRequests,
}

impl Ingest {
    async fn run(mut self, mut queue: mpsc::Receiver<Arrival>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            self.pace.works();
            let mut checked = Vec::with_capacity(batch.len());
            let (mut n_cells, mut n_logged) = (0, 0);
            for mut arrival in batch.drain(..) {
                match self.believe(&mut arrival).await {
                    Ok((run, delta, requests)) => {
                        n_cells += delta.cells.len();
                        n_logged += requests.body.len();
                        checked.push(Checked { arrival, run, delta, requests });
                    }
                    Err(why) => self.refuse(&arrival, &why).await,
                }
                if n_cells >= MOST_CELLS || n_logged >= MOST_LOGGED {
                    (n_cells, n_logged) = (0, 0);
                    self.take(std::mem::take(&mut checked)).await;
                }
            }
            if !checked.is_empty() {
                self.take(checked).await;
            }
            self.pace.rests();
        }
    }

    /// Windows that an agent is to put into one delta of this run.
    fn windows_for(&self, run: RunId) -> u32 {
        let wanted = self.pace.windows();
        // Hardly ever anything but one.
        let fits = |wanted| self.runs.active(run).map(|run| stretch::of_run(&run.plan, wanted));
        let windows = if wanted > 1 { fits(wanted).unwrap_or(1) } else { 1 };
        u32::try_from(windows).unwrap_or(1)
    }

    /// What a delta says, if it can be true and comes from who may say it.
    async fn believe(
        &mut self,
        arrival: &mut Arrival,
    ) -> Result<(RunId, Delta, IncomingRequests), String> {
        let requests = requests_of(&mut arrival.delta)?;
        let wire = &arrival.delta;
        if let Some(from) = &arrival.from {
            if self.fleet.refuses(from) {
                return Err("nothing of a quarantined agent is taken".to_owned());
            }
            if owner_of(&wire.assignment_id).is_some_and(|owner| owner != *from) {
                return Err("results of another agent's assignment".to_owned());
            }
        }
        let (run, delta, totals) = check(wire)?;
        let Some(active) = self.runs.active(run) else { return Ok((run, delta, requests)) };
        let grant = (wire.assignment_id.clone(), wire.epoch);
        let believed = self.beliefs.take(&self.store, &active, &grant, wire.seq, &delta, totals);
        believed.await.map(|()| (run, delta, requests))
    }

    /// Whoever reports what cannot be is not listened to any more. Who it was is only known of
    /// streams that said so, and only they prove that it was not somebody in its name.
    async fn refuse(&self, arrival: &Arrival, why: &str) {
        let wire = &arrival.delta;
        let Some(from) = &arrival.from else {
            tracing::warn!(why, id = wire.assignment_id, "delta refused");
            let _ = arrival.acks.try_send(Err(Status::invalid_argument(why)));
            return;
        };
        let now_us = ControlClock.unix_us();
        if self.fleet.quarantine(from, why, now_us) {
            let run = wire.assignment_id.split('.').next();
            tracing::warn!(run, agent = %from, why, "an agent is quarantined");
            let (agent_id, why) = (from.to_string(), why.to_owned());
            let row = QuarantineRow { agent_id, why, since_us: now_us as i64 };
            // It holds without its row, but not over a restart.
            if let Err(error) = self.store.keep_quarantine(&row).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "quarantine");
            }
        }
        // So that an honest one that is broken does not send it for ever.
        let outcome = v1::UploadOutcome::Unknown.into();
        let (assignment_id, epoch, seq) = (wire.assignment_id.clone(), wire.epoch, wire.seq);
        let _ = arrival.acks.try_send(Ok(v1::UploadAck {
            assignment_id,
            epoch,
            seq,
            outcome,
            windows: 0,
        }));
    }

    async fn take(&mut self, mut checked: Vec<Checked>) {
        for Checked { run, requests, .. } in &mut checked {
            self.logged.bound(&self.store, *run, requests).await;
        }
        let received_at_us = ControlClock.unix_us() as i64;
        let incoming: Vec<IncomingDelta> = checked
            .iter_mut()
            .map(|c| IncomingDelta {
                assignment_id: c.arrival.delta.assignment_id.clone(),
                epoch: c.arrival.delta.epoch as i64,
                seq: c.arrival.delta.seq as i64,
                first_window: c.delta.first_window as i64,
                last_window: c.delta.last_window as i64,
                body: c.arrival.delta.body.clone(),
                received_at_us,
                requests: std::mem::take(&mut c.requests),
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
                    self.pace.was_away();
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
                windows: self.windows_for(checked.run),
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
fn check(wire: &v1::UploadDelta) -> Result<(RunId, Delta, Option<Delta>), String> {
    let numbers = [wire.epoch, wire.seq, wire.closing.as_ref().map_or(0, |c| c.closed_at_us)];
    if numbers.iter().any(|n| i64::try_from(*n).is_err()) {
        return Err("a number of the delta does not fit in 63 bits".into());
    }
    let run = run_of(&wire.assignment_id).ok_or("the assignment id names no run")?;
    let delta = metrics::decode(&wire.body).map_err(|error| error.to_string())?;
    if i64::try_from(delta.last_window).is_err() {
        return Err("the window does not fit in 63 bits".into());
    }
    let totals = wire.closing.as_ref().map(|closing| metrics::decode(&closing.totals));
    let totals = totals.transpose().map_err(|error| format!("totals: {error}"))?;
    Ok((run, delta, totals))
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
