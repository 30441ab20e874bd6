//! Counts per bucket, without the buckets that are empty.
//!
//! A second of one series fills a few hundred of 23,552 buckets, so a course of an hour that was
//! decoded into whole histograms would clear and walk gigabytes. Quantiles are those of the whole
//! histogram, bucket for bucket; a test holds the two against each other.

use std::collections::BTreeMap;

use super::{DecodeError, payload_of, walk};

/// Half of the sub-buckets of one bucket: below twice this every value has its own.
const HALF: u64 = 1_024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    counts: BTreeMap<u32, u64>,
    total: u64,
}

impl Sparse {
    /// Adds V2 bytes of our layout, checked like [`super::decode`]; empty bytes add nothing.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut added = Vec::new();
        walk(payload_of(bytes)?, |bucket, count| added.push((bucket as u32, count)))?;
        for (bucket, count) in added {
            let known = self.counts.entry(bucket).or_default();
            *known = known.saturating_add(count);
            self.total = self.total.saturating_add(count);
        }
        Ok(())
    }

    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.counts {
            let known = self.counts.entry(*bucket).or_default();
            *known = known.saturating_add(*count);
        }
        self.total = self.total.saturating_add(other.total);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    /// `quantile` in 0..=1; the upper end of the bucket that it falls into, of 0 the lower end.
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        // As the crate does: rounded up, at least the first.
        let wanted = ((quantile.clamp(0.0, 1.0) * self.total as f64).ceil() as u64).max(1);
        if quantile == 0.0 {
            return self.counts.keys().next().map(|bucket| ends(u64::from(*bucket)).0);
        }
        let mut seen = 0u64;
        for (bucket, count) in &self.counts {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return Some(ends(u64::from(*bucket)).1);
            }
        }
        self.counts.keys().next_back().map(|bucket| ends(u64::from(*bucket)).1)
    }
}

/// The least and the largest value that fall into a bucket.
fn ends(bucket: u64) -> (u64, u64) {
    if bucket < 2 * HALF {
        return (bucket, bucket);
    }
    let power = bucket / HALF - 1;
    let least = (bucket % HALF + HALF) << power;
    (least, least + (1 << power) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::{HIGHEST_US, empty, encode};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_whole_histogram(
            values in proptest::collection::vec(0..HIGHEST_US, 1..200),
            small in proptest::collection::vec(0u64..5_000, 0..200),
            cut in 0usize..400,
        ) {
            let values: Vec<u64> = values.into_iter().chain(small).collect();
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut whole = empty();
            let mut sparse = Sparse::default();
            for part in [left, right] {
                let mut histogram = empty();
                for value in part {
                    histogram.saturating_record(*value);
                }
                whole.add(&histogram).unwrap();
                sparse.add(&encode(&histogram)).unwrap();
            }
            prop_assert_eq!(sparse.count(), whole.len());
            for quantile in [0.0, 0.001, 0.25, 0.5, 0.66, 0.95, 0.99, 0.999, 1.0] {
                prop_assert_eq!(sparse.quantile_us(quantile), Some(whole.value_at_quantile(quantile)));
            }
            let mut doubled = sparse.clone();
            doubled.merge(&sparse);
            prop_assert_eq!(doubled.quantile_us(0.5), sparse.quantile_us(0.5));
        }

        #[test]
        fn whatever_comes_it_is_added_or_refused_and_never_half(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut histogram = empty();
            histogram.saturating_record(5);
            let mut broken = encode(&histogram);
            broken.extend(&bytes);
            let length = (broken.len() - 40) as u32;
            broken[4..8].copy_from_slice(&length.to_be_bytes());
            let mut sparse = Sparse::default();
            if sparse.add(&broken).is_err() {
                prop_assert_eq!(sparse, Sparse::default());
            }
        }
    }
}
