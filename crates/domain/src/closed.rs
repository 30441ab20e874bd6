//! The closed model's arithmetic: which task comes next, and when it starts.
//!
//! Both are pure functions of (seed, group, device, round), so a pinned seed repeats a run. Tasks
//! are chosen by a point of a lattice: it moves by one irrational step from device to device and by
//! another from round to round, so the shares are those of the weights in every round of the fleet
//! and in the rounds of every device, to within one or two tasks, where independent draws would be
//! off by their standard deviation.

use crate::plan::{Loop, Wait};
use crate::values::{Source, Stream};

/// frac(golden ratio) in 64-bit fixed point: the step from device to device.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// √2 − 1, likewise: the step from round to round. No multiple of one is near one of the other.
const SILVER: u64 = 0x6a09_e667_f3bc_c908;
/// Streams of values that no expression of a file draws.
const TASK_FIELD: u64 = 1;
const WAIT_FIELD: u64 = 2;

/// Whose next task it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub seed: u64,
    pub group: u32,
    pub device: u64,
    /// Tasks that this device began before.
    pub round: u64,
}

impl Turn {
    fn stream(self, device: u64, field: u64) -> Stream {
        Stream::of(Source { seed: self.seed, group: self.group, device, series: u32::MAX, field })
    }
}

impl Loop {
    /// Index of the task that `turn` begins.
    pub fn task(&self, turn: Turn) -> usize {
        let start = turn.stream(0, TASK_FIELD).draw(0, 0);
        let point = start
            .wrapping_add(turn.device.wrapping_mul(GOLDEN))
            .wrapping_add(turn.round.wrapping_mul(SILVER));
        let mut left = ((u128::from(point) * u128::from(self.weights())) >> 64) as u64;
        for (index, task) in self.tasks.iter().enumerate() {
            let weight = u64::from(task.weight);
            if left < weight {
                return index;
            }
            left -= weight;
        }
        self.tasks.len() - 1
    }
}

impl Wait {
    /// When the next task starts. `began_us` is when the last one was to start (for the first: when
    /// the device started, so `on_start` counts into the first interval), `ended_us` when it ended.
    ///
    /// An overrun of the pacing shifts the schedule: nothing is caught up.
    pub fn next_start_us(self, turn: Turn, began_us: u64, ended_us: u64) -> u64 {
        match self {
            Self::None => ended_us,
            Self::Constant { us } => ended_us.saturating_add(us),
            Self::Between { least_us, most_us } => {
                let stream = turn.stream(turn.device, WAIT_FIELD);
                let wait = stream.float(turn.round, least_us as f64, most_us as f64);
                ended_us.saturating_add(wait as u64)
            }
            Self::Pacing { us } => ended_us.max(began_us.saturating_add(us)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Task;
    use proptest::prelude::*;

    fn tasks(weights: &[u32]) -> Loop {
        let task = |weight: &u32| Task { name: "t".into(), weight: *weight, steps: vec![] };
        Loop { wait: Wait::None, tasks: weights.iter().map(task).collect(), cap_interval_ns: None }
    }

    fn turn(seed: u64, device: u64, round: u64) -> Turn {
        Turn { seed, group: 0, device, round }
    }

    /// Rounds that each of 100 devices begins in the tutorial: 25 each of 12, 11, 10 and 9.
    fn tutorial(seed: u64) -> [u64; 3] {
        let tasks = tasks(&[10, 1, 1]);
        let mut counts = [0; 3];
        for device in 0..100 {
            for round in 0..12 - device / 25 {
                counts[tasks.task(turn(seed, device, round))] += 1;
            }
        }
        counts
    }

    #[test]
    fn the_tutorial_has_1050_tasks_in_the_shares_of_their_weights() {
        for seed in 0..200 {
            let [data, health, ota] = tutorial(seed);
            assert_eq!(data + health + ota, 1_050);
            assert!(data.abs_diff(875) <= 6, "{data} {health} {ota}");
            assert!(health.abs_diff(87) <= 6 && ota.abs_diff(87) <= 6, "{data} {health} {ota}");
        }
    }

    #[test]
    fn twelve_thousand_rounds_of_one_device_have_the_shares_of_the_weights() {
        let tasks = tasks(&[10, 1, 1]);
        let mut counts = [0_u64; 3];
        for round in 0..12_000 {
            counts[tasks.task(turn(7, 3, round))] += 1;
        }
        for (count, share) in counts.into_iter().zip([10_000, 1_000, 1_000]) {
            assert!(count.abs_diff(share) <= 5, "{counts:?}");
        }
    }

    #[test]
    fn pacing_keeps_its_pace_and_an_overrun_shifts_it() {
        let pacing = Wait::Pacing { us: 5_000_000 };
        let at = |began, ended| pacing.next_start_us(turn(1, 1, 1), began, ended);
        assert_eq!(at(0, 800_000), 5_000_000);
        assert_eq!(at(5_000_000, 5_000_000), 10_000_000);
        assert_eq!(at(10_000_000, 17_000_000), 17_000_000);
        assert_eq!(at(17_000_000, 17_100_000), 22_000_000);
    }

    #[test]
    fn a_uniform_wait_has_the_mean_of_its_bounds() {
        let wait = Wait::Between { least_us: 500_000, most_us: 2_500_000 };
        let total: u64 = (0..10_000).map(|round| wait.next_start_us(turn(1, 1, round), 0, 0)).sum();
        assert!((total / 10_000).abs_diff(1_500_000) < 30_000, "{total}");
    }

    proptest! {
        #[test]
        fn shares_are_those_of_the_weights_over_any_fleet_and_time(
            weights in prop::collection::vec(0..30_u32, 1..6), seed: u64,
            devices in 1..60_u64, rounds in 1..60_u64,
        ) {
            prop_assume!(weights.iter().sum::<u32>() > 0);
            let tasks = tasks(&weights);
            let mut counts = vec![0_u64; weights.len()];
            for device in 0..devices {
                for round in 0..rounds {
                    counts[tasks.task(turn(seed, device, round))] += 1;
                }
            }
            let whole = f64::from(weights.iter().sum::<u32>());
            for (count, weight) in counts.into_iter().zip(&weights) {
                prop_assert!(*weight > 0 || count == 0);
                let expected = (devices * rounds) as f64 * f64::from(*weight) / whole;
                let slack = 3.0 * devices.min(rounds) as f64;
                prop_assert!((count as f64 - expected).abs() <= slack, "{} {}", count, expected);
            }
        }
    }
}
