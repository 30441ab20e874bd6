//! Delays over two clocks: signed samples, and what may be said about the clocks.
//!
//! A delay that comes out negative is a fact about clocks and is kept as one. Two histograms, of the
//! values from 0 up and of the magnitudes below, are read as one. A delay between two machines is
//! only known up to the difference of their clocks, so the bound travels with the number.

use crate::delta::{Samples, SamplesError};

/// Signed durations in microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delays {
    /// From 0 up.
    pub ahead: Samples,
    /// Magnitudes of the negative ones.
    pub behind: Samples,
}

impl Delays {
    pub fn record(&mut self, us: i64) {
        match u64::try_from(us) {
            Ok(us) => self.ahead.record(us),
            Err(_) => self.behind.record(us.unsigned_abs()),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.ahead.merge(&other.ahead);
        self.behind.merge(&other.behind);
    }

    pub fn count(&self) -> u64 {
        self.ahead.count() + self.behind.count()
    }

    pub fn n_negative(&self) -> u64 {
        self.behind.count()
    }

    pub fn min_us(&self) -> Option<i64> {
        self.behind.max_us().map(negative).or_else(|| self.ahead.min_us().map(positive))
    }

    pub fn max_us(&self) -> Option<i64> {
        self.ahead.max_us().map(positive).or_else(|| self.behind.min_us().map(negative))
    }

    pub fn mean_us(&self) -> Option<f64> {
        let count = self.count();
        let sum = self.ahead.sum_us() as f64 - self.behind.sum_us() as f64;
        (count > 0).then(|| sum / count as f64)
    }

    /// The smallest value with at least this share of the samples at or below it.
    pub fn quantile_us(&self, quantile: f64) -> Option<i64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((quantile * count as f64).ceil()).clamp(1.0, count as f64);
        let (n_behind, n_ahead) = (self.behind.count() as f64, self.ahead.count() as f64);
        // Half a rank less, so that no rounding reaches the next one.
        if rank <= n_behind {
            // The k-th smallest of all is the k-th greatest magnitude.
            return self.behind.quantile_us((n_behind - rank + 0.5) / n_behind).map(negative);
        }
        self.ahead.quantile_us((rank - n_behind - 0.5) / n_ahead).map(positive)
    }

    pub fn from_samples(ahead: Samples, behind: Samples) -> Result<Self, SamplesError> {
        if behind.min_us() == Some(0) {
            return Err(SamplesError::Inconsistent("a negative delay of 0"));
        }
        Ok(Self { ahead, behind })
    }
}

fn positive(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

fn negative(us: u64) -> i64 {
    -positive(us)
}

/// The platform's clock minus ours, as far as causality bounds it: nothing is enqueued before it
/// was sent or after it was received.
///
/// The difference is taken as constant until the events disprove it; from then on the interval spans
/// what cannot be one difference, and widens only by what it does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockInterval {
    pub low_us: i64,
    pub high_us: i64,
    /// No constant difference fits all events: one of the clocks has moved.
    pub has_moved: bool,
}

impl Default for ClockInterval {
    /// Nothing is known.
    fn default() -> Self {
        Self { low_us: i64::MIN, high_us: i64::MAX, has_moved: false }
    }
}

impl ClockInterval {
    /// One event: stamps in our time, `enqueued_us` in the platform's and cut off to
    /// `resolution_us`.
    pub fn narrow(&mut self, sent_us: u64, enqueued_us: u64, received_us: u64, resolution_us: u64) {
        let minus =
            |one: u64, other: u64| i64::try_from(i128::from(one) - i128::from(other)).unwrap_or(0);
        let low_us = minus(enqueued_us, received_us);
        let high_us = minus(enqueued_us.saturating_add(resolution_us), sent_us);
        self.merge(&Self { low_us, high_us, has_moved: false });
    }

    pub fn merge(&mut self, other: &Self) {
        let both = Self {
            low_us: self.low_us.max(other.low_us),
            high_us: self.high_us.min(other.high_us),
            has_moved: false,
        };
        let either = Self {
            low_us: self.low_us.min(other.low_us),
            high_us: self.high_us.max(other.high_us),
            has_moved: true,
        };
        let is_known = !self.is_unknown() && !other.is_unknown();
        *self = match (self.has_moved, other.has_moved) {
            _ if is_known && both.low_us > both.high_us => either,
            (true, true) => either,
            // It may be anywhere that it has been, and this is one of the places.
            (true, false) => *self,
            (false, true) => *other,
            (false, false) => both,
        };
    }

    fn is_unknown(&self) -> bool {
        self.low_us == i64::MIN || self.high_us == i64::MAX
    }
}

/// What to take off a raw difference of stamps, and the bound of what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockCorrection {
    /// The platform's clock minus ours, as it is taken.
    pub shift_us: i64,
    pub bound_us: u64,
    pub has_moved: bool,
}

/// Over all partitions, each of which may have a clock of its own; `error_us` bounds our own
/// clocks. `None` without events.
pub fn correction<'i>(
    intervals: impl Iterator<Item = &'i ClockInterval>,
    error_us: u64,
) -> Option<ClockCorrection> {
    let error = positive(error_us);
    let known = intervals.filter(|interval| !interval.is_unknown()).copied();
    let hull = known.reduce(|one, other| ClockInterval {
        low_us: one.low_us.min(other.low_us),
        high_us: one.high_us.max(other.high_us),
        has_moved: one.has_moved || other.has_moved,
    })?;
    let (low, high) = (hull.low_us.saturating_sub(error), hull.high_us.saturating_add(error));
    // A clock that may be right is taken as right.
    let shift_us = if low <= 0 && high >= 0 { 0 } else { low.midpoint(high) };
    let bound_us = high.abs_diff(shift_us).max(shift_us.abs_diff(low));
    Some(ClockCorrection { shift_us, bound_us, has_moved: hull.has_moved })
}

/// Whether a number with this bound is only indicative: the bound exceeds 10 % of the median.
pub fn is_indicative(median_us: i64, bound_us: u64) -> bool {
    bound_us.saturating_mul(10) > median_us.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn delays(values: &[i64]) -> Delays {
        let mut delays = Delays::default();
        values.iter().for_each(|us| delays.record(*us));
        delays
    }

    proptest! {
        #[test]
        fn two_histograms_read_as_one(values in proptest::collection::vec(-5_000_000i64..50_000_000, 1..200)) {
            let delays = delays(&values);
            let mut sorted = values.clone();
            sorted.sort_unstable();
            for quantile in [0.0, 0.1, 0.5, 0.9, 0.95, 0.99, 1.0] {
                let rank = ((quantile * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
                let exact = sorted[rank - 1];
                let found = delays.quantile_us(quantile).unwrap();
                let room = exact.abs() as f64 * 0.001 + 1.0;
                prop_assert!((found - exact).abs() as f64 <= room, "{} {} {}", quantile, found, exact);
            }
            prop_assert_eq!(delays.min_us(), sorted.first().copied());
            prop_assert_eq!(delays.max_us(), sorted.last().copied());
            prop_assert_eq!(delays.n_negative(), sorted.iter().filter(|us| **us < 0).count() as u64);
        }

        #[test]
        fn the_true_clock_difference_is_in_the_interval(
            truth in -10_000_000i64..10_000_000,
            events in proptest::collection::vec((0u64..1_000_000_000, 0u64..50_000, 0u64..50_000), 1..30),
        ) {
            let mut interval = ClockInterval::default();
            for (at, before, after) in events {
                let sent = 1_000_000_000_000 + at;
                let enqueued = (sent + before).strict_add_signed(truth) / 1_000 * 1_000;
                interval.narrow(sent, enqueued, sent + before + after, 1_000);
            }
            prop_assert!(interval.low_us <= truth && truth <= interval.high_us, "{:?}", interval);
            prop_assert!(!interval.has_moved);
            let found = correction([interval].iter(), 0).unwrap();
            prop_assert!(truth.abs_diff(found.shift_us) <= found.bound_us);
        }

        #[test]
        fn clocks_that_differ_or_move_stay_inside_the_bound(
            truths in proptest::collection::vec(-5_000_000i64..5_000_000, 1..6),
            after in 1u64..20_000, skew in 0u64..3_000,
        ) {
            // Each truth is a partition of its own; the first two are moments of another one.
            let mut moving = ClockInterval::default();
            let mut intervals = Vec::new();
            for truth in &truths {
                let mut one = ClockInterval::default();
                for at in 0..5 {
                    let sent = 1_000_000_000_000 + at * 7_001;
                    let enqueued = (sent + after / 2).strict_add_signed(*truth) / 1_000 * 1_000;
                    one.narrow(sent + skew, enqueued, sent + after, 1_000);
                }
                if intervals.len() < 2 {
                    moving.merge(&one);
                }
                intervals.push(one);
            }
            let over_all = correction(intervals.iter(), skew).unwrap();
            for truth in &truths {
                prop_assert!(truth.abs_diff(over_all.shift_us) <= over_all.bound_us);
            }
            let [first, second, ..] = truths[..] else { return Ok(()) };
            if first.abs_diff(second) > after + skew + 1_000 {
                prop_assert!(moving.has_moved, "{:?}", moving);
                let found = correction([moving].iter(), skew).unwrap();
                for truth in [first, second] {
                    prop_assert!(truth.abs_diff(found.shift_us) <= found.bound_us);
                }
            }
        }
    }

    #[test]
    fn the_fixtures_of_the_seed_system_come_out_right() {
        let fixture = |parts: &[(i64, usize)]| {
            let values: Vec<i64> = parts.iter().flat_map(|(us, n)| vec![*us; *n]).collect();
            delays(&values)
        };
        let near = |found: Option<i64>, ms: i64| {
            let us = ms * 1_000;
            assert!((found.unwrap() - us).abs() <= us / 1_000, "{found:?} for {ms} ms");
        };
        let one = fixture(&[(500_000, 1_000)]);
        for quantile in [0.5, 0.9, 0.95, 0.99, 1.0] {
            near(one.quantile_us(quantile), 500);
        }
        let mixed = fixture(&[(10_000, 96), (900_000, 4)]);
        near(mixed.quantile_us(0.95), 10);
        near(mixed.quantile_us(0.97), 900);
        near(fixture(&[(10_000, 94), (900_000, 6)]).quantile_us(0.95), 900);
    }

    #[test]
    fn a_platform_clock_that_is_two_seconds_off_is_found() {
        let mut interval = ClockInterval::default();
        for n in 0..100 {
            let sent = 5_000_000_000 + n * 10_000;
            interval.narrow(sent, sent + 1_000 - 2_000_000, sent + 3_000, 1_000);
        }
        let ClockCorrection { shift_us, bound_us, has_moved } =
            correction([interval].iter(), 0).unwrap();
        assert!(shift_us.abs_diff(-2_000_000) <= bound_us, "{shift_us} ± {bound_us}");
        assert!(bound_us <= 2_500 && !has_moved, "{shift_us} ± {bound_us}");
    }
}
