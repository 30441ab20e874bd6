//! How many windows an agent puts into one delta: one, unless the control plane cannot keep up.
//!
//! What a delta costs hardly depends on how many windows are in it, so five of them in one are a fifth of the work. Counts and
//! histograms stay exact; what is lost is when in those seconds something happened. Invariant: where a threshold is judged
//! window by window, the windows of a delta never cross the border of one of its windows.

use crate::delta::WINDOW_US;
use crate::plan::{Plan, Threshold};

/// Windows in a delta.
pub const STEPS: [u64; 3] = [1, 2, 5];

/// Of its time, spent on deltas: above this a control plane falls behind soon.
const BUSY: f64 = 0.8;
/// What it would be busy with shorter ones must stay below, so that it is not asked for longer ones again at once.
const CALM: f64 = 0.4;

/// How many from now on, where the control plane was `busy` (a share of its time) with `now` of them.
pub fn next(now: u64, busy: f64) -> u64 {
    let at = STEPS.iter().rposition(|step| *step <= now).unwrap_or(0);
    let shorter = at.checked_sub(1).map(|at| STEPS[at]);
    if busy > BUSY {
        return STEPS.get(at + 1).copied().unwrap_or(STEPS[at]);
    }
    // With shorter ones there would be so many more.
    let would_be = |shorter: u64| busy * STEPS[at] as f64 / shorter as f64;
    shorter.filter(|shorter| would_be(*shorter) < CALM).unwrap_or(STEPS[at])
}

/// As many of `wanted` as a run can bear.
pub fn of_run(plan: &Plan, wanted: u64) -> u64 {
    let fits = |step: &u64| plan.thresholds.iter().all(|one| fits(plan, one, *step));
    STEPS.iter().rev().copied().filter(|step| *step <= wanted).find(fits).unwrap_or(1)
}

/// Windows of a threshold begin where its stage does, in whole seconds.
fn fits(plan: &Plan, threshold: &Threshold, step: u64) -> bool {
    let Some(windows) = threshold.windows else { return true };
    let from_us = threshold.stage.map_or(0, |stage| plan.stages[stage.index()].start_us);
    windows.seconds.is_multiple_of(step) && from_us.div_ceil(WINDOW_US).is_multiple_of(step)
}

/// Whether windows `first` to `last` may be in one delta: of aligned stretches of `step`.
pub fn are_together(step: u64, first: u64, last: u64) -> bool {
    first / step.max(1) == last / step.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn under_a_steady_load_it_settles_and_never_on_more_than_is_needed(cost in 0.0f64..20.0) {
            // What a second's deltas of all agents cost in seconds; nobody is more than always busy.
            let busy = |step: u64| (cost / step as f64).min(1.0);
            let mut step = 1;
            for _ in 0..STEPS.len() {
                step = next(step, busy(step));
            }
            prop_assert_eq!(next(step, busy(step)), step, "it stays");
            prop_assert!(busy(step) <= BUSY || step == STEPS[STEPS.len() - 1], "and is enough");
            let shorter = STEPS.iter().rev().find(|shorter| **shorter < step);
            prop_assert!(shorter.is_none_or(|shorter| busy(*shorter) > BUSY), "and no less would be");
        }

        #[test]
        fn when_the_load_is_gone_it_comes_back_to_one(start in 0usize..STEPS.len(), busy in 0.0f64..0.1) {
            let mut step = STEPS[start];
            for _ in 0..STEPS.len() {
                step = next(step, busy);
            }
            prop_assert_eq!(step, 1);
        }

        #[test]
        fn the_windows_of_a_delta_lie_in_one_window_of_a_threshold(
            step in prop::sample::select(STEPS.to_vec()), n in 1u64..30, k in 0u64..30,
            first in 0u64..1_000, more in 0u64..10,
        ) {
            // What `fits` asks for: its windows are a multiple, and so is where they begin.
            let (every, from) = (n * step, k * step);
            let last = first + more;
            if are_together(step, first, last) && first >= from {
                prop_assert_eq!((first - from) / every, (last - from) / every);
            }
        }
    }
}
