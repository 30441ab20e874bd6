//! One observer that reads by itself, without an agent around it: what a bench measures.

use std::sync::Arc;

use shoal_domain::ids::{ObserverId, RunId};
use shoal_domain::plan::Plan;
use shoal_service_kit::{Clock, SystemClock};
use tokio::sync::mpsc;

use super::{ObserverJob, prepare};
use crate::engine::Control;

/// Lets the plan's first observer read until it has received `n` events of the run. `listening` is
/// called when none can pass unseen any more, `done` when they are there and it still reads.
pub async fn read(
    plan: Plan,
    run: RunId,
    n: u64,
    listening: impl FnOnce(),
    done: impl FnOnce(),
) -> Result<(), String> {
    let job = ObserverJob::alone(Arc::new(plan), ObserverId(0), run, 0);
    let prepared = prepare(job).await.map_err(|refusal| refusal.why)?;
    let control = Arc::new(Control::new(u64::MAX, u64::MAX));
    let (sender, mut reports) = mpsc::channel(64);
    let join = prepared.start(SystemClock.boot_us(), Arc::clone(&control), sender);
    listening();
    let mut received = 0;
    while received < n {
        let Some(report) = reports.recv().await else {
            return Err("the observer ended".to_owned());
        };
        received += report.delta.arrivals.values().map(|arrivals| arrivals.received).sum::<u64>();
    }
    done();
    control.abort();
    while reports.recv().await.is_some() {}
    join();
    Ok(())
}
