//! Counts per bucket, without the buckets that are empty.
//!
//! A second of one series fills a few hundred of 23,552 buckets, so whoever keeps or adds up what many
//! agents counted would clear and walk gigabytes of whole histograms. Bytes, sums and quantiles are those
//! of the whole histogram, bucket for bucket; tests hold the two against each other.

use std::cmp::Ordering;

use hdrhistogram::Histogram;

use super::{DecodeError, HEADER, header, payload_of, walk};

/// Half of the sub-buckets of one bucket: below twice this every value has its own.
const HALF: u64 = 1_024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    /// In order of buckets, none of them empty.
    counts: Vec<(u32, u64)>,
    total: u64,
}

impl Sparse {
    /// Reads V2 bytes of exactly our layout; anything else is an error before any allocation.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut counts, mut total) = (Vec::new(), 0);
        walk(payload_of(bytes)?, |bucket, count| {
            counts.push((bucket as u32, count));
            total += count;
        })?;
        Ok(Self { counts, total })
    }

    /// Those of a histogram of our layout.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let recorded = histogram.iter_recorded();
        let counts: Vec<(u32, u64)> =
            recorded.map(|at| (bucket_of(at.value_iterated_to()), at.count_at_value())).collect();
        let total = counts.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        Self { counts, total }
    }

    /// Adds V2 bytes of our layout, checked like [`Sparse::decode`]; empty bytes add nothing.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if !bytes.is_empty() {
            self.merge(&Self::decode(bytes)?);
        }
        Ok(())
    }

    pub fn merge(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        let mut merged = Vec::with_capacity(self.counts.len().max(other.counts.len()));
        let (mut ours, mut theirs) =
            (self.counts.iter().peekable(), other.counts.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some(our), Some(their)) => match our.0.cmp(&their.0) {
                    Ordering::Less => ours.next().copied(),
                    Ordering::Greater => theirs.next().copied(),
                    Ordering::Equal => {
                        let (our, their) = (ours.next(), theirs.next());
                        our.zip(their).map(|(our, their)| (our.0, our.1.saturating_add(their.1)))
                    }
                },
                (Some(_), None) => ours.next().copied(),
                (None, _) => theirs.next().copied(),
            };
            let Some(next) = next else { break };
            merged.push(next);
        }
        self.counts = merged;
    }

    /// Adds them to a histogram of our layout, or one that grows to it.
    pub fn add_to(&self, histogram: &mut Histogram<u64>) {
        for (bucket, count) in &self.counts {
            histogram
                .record_n(ends(u64::from(*bucket)).0, *count)
                .expect("the layout has this bucket");
        }
    }

    /// V2 bytes, those of the whole histogram.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(4 * self.counts.len() + 4);
        let mut next = 0u32;
        for (bucket, count) in &self.counts {
            match bucket - next {
                0 => {}
                1 => put(&mut payload, 0),
                empty => put(&mut payload, -i64::from(empty)),
            }
            put(&mut payload, i64::try_from(*count).unwrap_or(i64::MAX));
            next = bucket + 1;
        }
        if self.counts.is_empty() {
            put(&mut payload, 0);
        }
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend(header(payload.len() as u32));
        bytes.extend(payload);
        bytes
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    /// Bucket by bucket: the least and the largest value that fall into it, and its count.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.counts.iter().map(|(bucket, count)| {
            let (least, most) = ends(u64::from(*bucket));
            (least, most, *count)
        })
    }

    /// Up to the width of its bucket.
    pub fn count_at_most(&self, us: u64) -> u64 {
        let last = bucket_of(us);
        let below = self.counts.iter().take_while(|(bucket, _)| *bucket <= last);
        below.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    /// `quantile` in 0..=1; the upper end of the bucket that it falls into, of 0 the lower end.
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        let (first, last) = (self.counts.first()?.0, self.counts.last()?.0);
        // As the crate does: rounded up, at least the first.
        let wanted = ((quantile.clamp(0.0, 1.0) * self.total as f64).ceil() as u64).max(1);
        if quantile == 0.0 {
            return Some(ends(u64::from(first)).0);
        }
        let mut seen = 0u64;
        let reached = self.counts.iter().find(|(_, count)| {
            seen = seen.saturating_add(*count);
            seen >= wanted
        });
        Some(ends(u64::from(reached.map_or(last, |(bucket, _)| *bucket))).1)
    }
}

/// A ZigZag number in groups of seven bits, the ninth byte whole.
fn put(payload: &mut Vec<u8>, number: i64) {
    let mut value = ((number << 1) ^ (number >> 63)) as u64;
    for _ in 0..8 {
        if value < 0x80 {
            payload.push(value as u8);
            return;
        }
        payload.push(value as u8 | 0x80);
        value >>= 7;
    }
    payload.push(value as u8);
}

/// The bucket that a value falls into.
fn bucket_of(us: u64) -> u32 {
    let power = (us | (2 * HALF - 1)).ilog2() - (2 * HALF - 1).ilog2();
    let bucket = (us >> power) + u64::from(power) * HALF;
    u32::try_from(bucket).unwrap_or(u32::MAX)
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
    use crate::histogram::whole::{decode, empty, encode};
    use crate::histogram::{BUCKETS, HIGHEST_US, growing};
    use proptest::prelude::*;

    #[test]
    fn a_value_falls_into_the_bucket_whose_ends_it_lies_between() {
        for bucket in 0..BUCKETS {
            let (least, most) = ends(bucket);
            assert_eq!((bucket_of(least), bucket_of(most)), (bucket as u32, bucket as u32));
        }
    }

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
            prop_assert_eq!(&sparse, &Sparse::of(&whole));
            prop_assert_eq!(sparse.encode(), encode(&whole));
            for us in [0, 1, 999, 4_096, 1_000_000, HIGHEST_US, u64::MAX] {
                prop_assert_eq!(sparse.count_at_most(us), whole.count_between(0, us));
            }
            for mut filled in [empty(), growing()] {
                sparse.add_to(&mut filled);
                prop_assert_eq!(&filled, &whole);
                prop_assert_eq!(&Sparse::of(&filled), &sparse);
            }
            for quantile in [0.0, 0.001, 0.25, 0.5, 0.66, 0.95, 0.99, 0.999, 1.0] {
                prop_assert_eq!(sparse.quantile_us(quantile), Some(whole.value_at_quantile(quantile)));
            }
            let mut doubled = sparse.clone();
            doubled.merge(&sparse);
            prop_assert_eq!(doubled.quantile_us(0.5), sparse.quantile_us(0.5));
        }

        #[test]
        fn large_counts_are_written_as_the_crate_writes_them(
            counts in proptest::collection::vec((0..HIGHEST_US, 1u64..1 << 62), 0..2),
        ) {
            let mut whole = empty();
            counts.iter().for_each(|(us, count)| whole.saturating_record_n(*us, *count));
            let sparse = Sparse::of(&whole);
            prop_assert_eq!(sparse.encode(), encode(&whole));
            prop_assert_eq!(decode(&sparse.encode()), Ok(whole));
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
