//! Readiness probes of what is held here: sent or awaited while the run prepares, once.

use shoal_proto::v1;
use shoal_service_kit::Clock as _;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use super::load::Refusal;
use super::{Reconciler, Report, State, of_run, refused};
use crate::uplink::queue::Key;

/// How it stands with the probes of one assignment.
pub(super) enum Probing {
    Not,
    Going { _stop: DropGuard },
    Done(Vec<v1::Probed>),
}

impl Probing {
    pub(super) fn said(&self) -> Vec<v1::Probed> {
        match self {
            Self::Not | Self::Going { .. } => Vec::new(),
            Self::Done(said) => said.clone(),
        }
    }
}

impl Reconciler {
    /// Begins with the probes of what is prepared, under a lease that holds.
    pub(super) fn probe(&mut self) {
        let Some(offset_us) = *self.shared.offset.borrow() else { return };
        let now_us = self.shared.clock.boot_us();
        for held in self.held.values_mut() {
            let State::Prepared { ready, .. } = &mut held.state else { continue };
            let is_due = held.wanted.probe && matches!(held.probing, Probing::Not);
            if !is_due || self.is_stopping || !self.shared.leases.holds_at(&held.key, now_us) {
                continue;
            }
            let Some(probing) = ready.probe(offset_us) else {
                held.probing = Probing::Done(Vec::new());
                continue;
            };
            let stop = CancellationToken::new();
            held.probing = Probing::Going { _stop: stop.clone().drop_guard() };
            let (key, reports) = (held.key.clone(), self.reports.clone());
            let span = tracing::info_span!("probe", run = key.run(), assignment = key.assignment);
            let span = of_run(span, &held.wanted.run_id);
            let probe = async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    said = probing => {
                        // Refused only when the reconciler is gone, and nobody asks any more.
                        let _ = reports.send(Report::Probed { key, said }).await;
                    }
                }
            };
            self.shared.lifecycle.spawn("probe", probe.instrument(span));
        }
    }

    pub(super) fn probed(&mut self, key: &Key, said: Result<Vec<v1::Probed>, Refusal>) {
        let Some(held) = self.held_under(key) else { return };
        if !matches!(held.state, State::Prepared { .. }) {
            return;
        }
        match said {
            Ok(said) => held.probing = Probing::Done(said),
            Err(refusal) => held.state = refused(key, refusal),
        }
    }
}
