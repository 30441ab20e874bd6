//! Whether a difference is more than such runs differ by themselves.
//!
//! Repeats of the baseline are taken as draws from one normal distribution; a further run of the
//! same thing lies within mean ± t · s · √(1 + 1/n) with 95 % (the prediction interval of one more
//! observation). With two runs t is 12.7, so that little evidence claims little. Below what a
//! histogram's bucket can tell there is no difference, whatever the repeats say.

use serde::{Deserialize, Serialize};

use crate::plan::{Metric, Statistic};

/// What can be said about a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// One run against one: nobody knows how much such runs differ by themselves.
    NotJudged,
    /// Within a bucket of the histogram, or within the spread of the repeats.
    NoDifference,
    Better,
    Worse,
}

/// `baseline` holds the baseline's value and those of its repeats; never empty.
pub fn judge(metric: Metric, baseline: &[f64], candidate: f64) -> Judged {
    let grain = grain(metric, baseline[0].max(candidate));
    if (candidate - baseline[0]).abs() <= grain {
        return Judged::NoDifference;
    }
    let n = baseline.len() as f64;
    if baseline.len() < 2 {
        return Judged::NotJudged;
    }
    let mean = baseline.iter().sum::<f64>() / n;
    let variance = baseline.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let margin = student(baseline.len() - 1) * variance.sqrt() * (1.0 + 1.0 / n).sqrt();
    let difference = candidate - mean;
    if difference.abs() <= margin.max(grain) {
        Judged::NoDifference
    } else if (difference < 0.0) == is_lower_better(metric) {
        Judged::Better
    } else {
        Judged::Worse
    }
}

/// What two equal times may differ by in the histogram: one bucket, at three significant digits.
/// Counts, minima, maxima and means are exact to the microsecond.
fn grain(metric: Metric, value: f64) -> f64 {
    match metric {
        Metric::ResponseTime(statistic)
        | Metric::ServiceTime(statistic)
        | Metric::SendLag(statistic) => match statistic {
            Statistic::Min | Statistic::Mean | Statistic::Max => 1.0,
            _ => (value / 1_000.0).max(1.0),
        },
        // Rounding of the division only.
        _ => value * 1e-12,
    }
}

fn is_lower_better(metric: Metric) -> bool {
    !matches!(metric, Metric::Rate | Metric::Sent | Metric::Count)
}

/// The 97.5 % quantile of Student's t by degrees of freedom; beyond the table its last value,
/// which is a little too wide and so on the safe side.
fn student(freedom: usize) -> f64 {
    const T: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    T[freedom.clamp(1, T.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P95: Metric = Metric::ResponseTime(Statistic::P95);

    #[test]
    fn one_run_against_one_is_not_judged() {
        assert_eq!(judge(P95, &[10_000.0], 20_000.0), Judged::NotJudged);
        assert_eq!(judge(P95, &[10_000.0], 10_010.0), Judged::NoDifference);
    }

    #[test]
    fn a_difference_counts_when_it_is_more_than_the_repeats_differ() {
        let steady = [10_000.0, 10_100.0, 9_900.0, 10_050.0];
        assert_eq!(judge(P95, &steady, 10_150.0), Judged::NoDifference);
        assert_eq!(judge(P95, &steady, 11_000.0), Judged::Worse);
        assert_eq!(judge(P95, &steady, 9_000.0), Judged::Better);
        let noisy = [10_000.0, 14_000.0, 7_000.0, 12_000.0];
        assert_eq!(judge(P95, &noisy, 15_000.0), Judged::NoDifference);
    }

    #[test]
    fn two_runs_are_little_evidence() {
        assert_eq!(judge(P95, &[10_000.0, 10_200.0], 11_000.0), Judged::NoDifference);
        assert_eq!(judge(P95, &[10_000.0, 10_200.0], 15_000.0), Judged::Worse);
    }

    #[test]
    fn a_higher_rate_is_better_and_a_higher_error_ratio_worse() {
        let rates = [100.0, 100.1, 99.9];
        assert_eq!(judge(Metric::Rate, &rates, 110.0), Judged::Better);
        assert_eq!(judge(Metric::Rate, &rates, 90.0), Judged::Worse);
        assert_eq!(judge(Metric::Errors, &[0.0, 0.0, 0.0], 0.01), Judged::Worse);
    }

    proptest! {
        #[test]
        fn a_repeat_itself_is_never_a_difference(
            values in proptest::collection::vec(1.0f64..1e9, 2..8), pick in 0usize..8,
        ) {
            // Any of n draws lies within √(n-1) · s of their mean, far inside the interval.
            let again = values[pick % values.len()];
            prop_assert_eq!(judge(P95, &values, again), Judged::NoDifference);
        }

        #[test]
        fn more_spread_never_makes_a_difference_appear(
            spread in 0.0f64..500.0, more in 1.0f64..3.0, candidate in 5_000.0f64..15_000.0,
        ) {
            let runs = |spread: f64| [10_000.0, 10_000.0 + spread, 10_000.0 - spread];
            let wide = judge(P95, &runs(spread * more), candidate);
            if judge(P95, &runs(spread), candidate) == Judged::NoDifference {
                prop_assert_eq!(wide, Judged::NoDifference);
            }
        }
    }
}
