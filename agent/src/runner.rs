//! The runner: follows one started assignment until all its cores have closed.
//!
//! Cores report per window over one bounded channel; [`windows::Windows`] merges them, the uplink
//! takes the result, and at the end the closing delta with the totals. Invariant: exactly one
//! closing delta per started assignment, also when a core dies without a word.

use tokio::sync::mpsc;

use crate::engine::{Closed, Control, CoreReport};
use crate::meter::{Counts, Meter};
use crate::uplink::Uplink;
use crate::uplink::queue::{Closing, Key};

use self::windows::Windows;

pub(crate) mod windows;

/// Reports of cores that wait to be merged. When full, cores keep merging into their open delta.
pub(crate) const REPORTS: usize = 64;

/// How an assignment ended on this agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) key: Key,
    /// Run time: the latest over all cores.
    pub(crate) closed_at_us: u64,
    /// Sentences of cores that could not do their work.
    pub(crate) errors: Vec<String>,
}

/// Ends when every core has closed, or all of them are gone; `gate` is asked when no core said when
/// it closed, and by which schedule devices are let go.
pub(crate) async fn follow(
    key: Key,
    n_cores: usize,
    mut reports: mpsc::Receiver<CoreReport>,
    (uplink, counts): (Uplink, &Counts),
    gate: &Control,
) -> Ended {
    let mut windows = Windows::new(n_cores);
    let mut meter = Meter::start();
    counts.begin();
    let (mut closed_at_us, mut errors) = (None, Vec::new());
    while let Some(CoreReport { core, delta, closed }) = reports.recv().await {
        windows.add(core, delta, closed.is_some());
        if let Some(Closed { closed_at_us: at_us, error }) = closed {
            closed_at_us = closed_at_us.max(Some(at_us));
            errors.extend(error);
        }
        while let Some(mut delta) = windows.take_complete(|health| meter.add_to(health)) {
            counts.add(&delta);
            delta.handover = gate.handover();
            uplink.push(&key, delta).await;
        }
        if windows.all_closed() {
            break;
        }
    }
    if !windows.all_closed() {
        errors.push("a core ended without its last report".to_owned());
    }
    let (mut last, mut totals) = windows.finish(|health| meter.add_to(health));
    (last.handover, totals.handover) = (gate.handover(), gate.handover());
    counts.add(&last);
    counts.end();
    let closed_at_us = closed_at_us.or_else(|| gate.gate_closed_at_us()).unwrap_or_else(|| {
        // The end of the last window is the nearest that is still known.
        (totals.last_window + 1) * shoal_domain::delta::WINDOW_US
    });
    uplink.close(&key, last, Closing { closed_at_us, totals }).await;
    Ended { key, closed_at_us, errors }
}
