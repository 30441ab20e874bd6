//! Counts in buckets that grow evenly: the form of Prometheus' native histograms and OpenTelemetry's
//! exponential ones.
//!
//! Bucket `i` holds what is above `b^(i-1)` and at most `b^i` seconds, with `b = 2^(2^-schema)`; the
//! middle of one of our buckets, of 0.1 %, decides. Invariant: the counts add up to the samples'.

use super::Sparse;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exponential {
    /// Durations of less than a microsecond.
    pub zero: u64,
    /// Index and count, in ascending order, without the empty ones.
    pub buckets: Vec<(i32, u64)>,
}

impl Exponential {
    /// Each power of two in 32 buckets: 2.2 % wide.
    pub const SCHEMA: i32 = 5;

    pub(crate) fn of(samples: &Sparse) -> Self {
        let mut all = Self::default();
        for (least, most, count) in samples.iter() {
            if most == 0 {
                all.zero += count;
                continue;
            }
            let seconds = (least + (most + 1 - least) / 2) as f64 / 1e6;
            let index = (seconds.log2() * f64::from(1 << Self::SCHEMA)).ceil() as i32;
            match all.buckets.last_mut() {
                Some((last, n)) if *last == index => *n += count,
                _ => all.buckets.push((index, count)),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::whole::empty;
    use super::*;

    proptest! {
        #[test]
        fn every_sample_is_in_the_bucket_that_is_its_own(
            mut values in proptest::collection::vec(0u64..=3_600_000_000, 0..200),
        ) {
            let mut histogram = empty();
            values.iter().for_each(|us| histogram.saturating_record(*us));
            let buckets = Exponential::of(&Sparse::of(&histogram));
            let n = buckets.zero + buckets.buckets.iter().map(|(_, n)| n).sum::<u64>();
            prop_assert_eq!(n, values.len() as u64);
            prop_assert!(buckets.buckets.is_sorted_by(|a, b| a.0 < b.0));
            values.sort_unstable();
            let mut left = values.iter().skip(buckets.zero as usize);
            for (index, count) in buckets.buckets {
                for us in left.by_ref().take(count as usize) {
                    let seconds = *us as f64 / 1e6;
                    let exact = seconds.log2() * 32.0;
                    // What lies at a bound may be on either side, by the width of our own bucket.
                    prop_assert!(f64::from(index) - 1.05 <= exact && exact <= f64::from(index) + 0.05, "{} {}", us, index);
                }
            }
        }
    }
}
