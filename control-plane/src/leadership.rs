//! In charge or standing by: of several control planes on one database exactly one drives runs and
//! takes agents in.
//!
//! A process that stands by does not listen, so agents and command lines try their next address.
//! Whoever cannot reach the database any more for [`AUTHORITY`] cannot know that it still leads: it
//! stops renewing leases, and the load ends by itself. Whoever finds another one in charge ends: its
//! writes are refused anyway, and its supervisor starts it again to stand by.
//!
//! Invariant: nobody declares an agent lost that another control plane may still be renewing. Who
//! takes the lead from one that fell silent waits for [`AUTHORITY`] with that.

use std::time::Duration;

use shoal_service_kit::Lifecycle;
use tokio::time::Instant;

use crate::clock::ControlClock;
use crate::fleet::Fleet;
use crate::store::{Leader, Store, StoreError};

const BEAT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);
/// A leader whose beats do not rise for so long is gone.
const SILENCE: Duration = Duration::from_secs(8);
/// A wall clock that jumps by so much between two beats was set by somebody.
const JUMP_US: u64 = 500_000;
/// How long a leader may go on without its database.
pub(crate) const AUTHORITY: Duration = Duration::from_secs(90);

/// A lead as it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lead {
    pub(crate) epoch: i64,
    /// The one before did not give up in order: it may still believe that it leads.
    pub(crate) is_seized: bool,
}

/// Waits until this process leads. `None`: it was stopped before.
pub(crate) async fn wait_for_lead(
    store: &Store,
    owner: &str,
    lifecycle: &Lifecycle,
) -> Result<Option<Lead>, StoreError> {
    let soft = lifecycle.soft();
    let mut known: Option<Leader> = None;
    let mut since = Instant::now();
    let mut is_told = false;
    loop {
        match store.leader().await {
            Ok(now) => {
                if now != known {
                    (known, since) = (now, Instant::now());
                }
                // One that gave up in order has no name any more; a restarted one has its own.
                let is_seized = known
                    .as_ref()
                    .is_some_and(|leader| !leader.owner.is_empty() && leader.owner != owner);
                let is_free = !is_seized || since.elapsed() > SILENCE;
                if is_free && let Some(epoch) = store.take_lead(owner, known.as_ref()).await? {
                    return Ok(Some(Lead { epoch, is_seized }));
                }
                if !is_told {
                    let leader = known.as_ref().map(|leader| leader.owner.as_str());
                    tracing::info!(leader, process = owner, "standing by");
                    is_told = true;
                }
            }
            // Nobody is taken over without its row having been read.
            Err(error) if is_told => {
                tracing::warn!(error = &error as &dyn std::error::Error, "standing by");
                since = Instant::now();
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = soft.cancelled() => return Ok(None),
        }
    }
}

/// Keeps the lead until the process is asked to end, and gives it up then.
pub(crate) async fn keep_lead(store: Store, lead: Lead, fleet: Fleet, lifecycle: Lifecycle) {
    let soft = lifecycle.soft();
    let mut heard = Instant::now();
    let mut ahead_us = ControlClock::wall_ahead_us();
    loop {
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            () = soft.cancelled() => {
                // Best effort: who stands by takes over all the same, only later.
                let _ = tokio::time::timeout(BEAT, store.give_up_lead(lead.epoch)).await;
                return;
            }
        }
        let jumped_us = ControlClock::wall_ahead_us() - ahead_us;
        if jumped_us.unsigned_abs() > JUMP_US {
            let by_s = jumped_us as f64 / 1e6;
            tracing::warn!(by_s, "the wall clock was set: runs go on by the time they began with");
        }
        ahead_us += jumped_us;
        match store.keep_lead(lead.epoch).await {
            Ok(true) => {
                heard = Instant::now();
                fleet.renew_leases(true);
            }
            Ok(false) => {
                tracing::error!("another control plane is in charge of this database: ending");
                fleet.renew_leases(false);
                lifecycle.stop_softly();
                return;
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the lead is not confirmed"
                );
                if heard.elapsed() > AUTHORITY {
                    fleet.renew_leases(false);
                }
            }
        }
    }
}
