//! Durations that were measured, as a histogram and what it cannot tell exactly.

use std::borrow::Cow;

use hdrhistogram::Histogram;

use crate::histogram::{self, Sparse};

/// Durations in microseconds; min, max, sum and count are exact, the rest within 0.1 %.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// `None` while empty, so that an idle series costs nothing.
    counts: Option<Counts>,
    count: u64,
    sum_us: u64,
    min_us: u64,
    max_us: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SamplesError {
    #[error(transparent)]
    Histogram(#[from] histogram::DecodeError),
    #[error("samples do not add up: {0}")]
    Inconsistent(&'static str),
}

impl Samples {
    pub fn record(&mut self, us: u64) {
        let within = us.min(histogram::HIGHEST_US);
        self.histogram().record(within).expect("it grows to the layout");
        self.min_us = if self.count == 0 { us } else { self.min_us.min(us) };
        self.max_us = self.max_us.max(us);
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    pub fn merge(&mut self, other: &Self) {
        let Some(theirs) = &other.counts else { return };
        match (&mut self.counts, theirs) {
            (None, _) => self.counts = Some(theirs.clone()),
            (Some(Counts::Open(ours)), Counts::Open(theirs)) => {
                ours.add(&**theirs).expect("both grow to one layout");
            }
            (Some(Counts::Open(ours)), Counts::Packed(theirs)) => theirs.add_to(ours),
            (Some(Counts::Packed(ours)), theirs) => ours.merge(&theirs.packed()),
        }
        self.min_us = if self.count == 0 { other.min_us } else { self.min_us.min(other.min_us) };
        self.max_us = self.max_us.max(other.max_us);
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// For keeping rather than for recording more: takes what its buckets do instead of tens of
    /// kilobytes.
    pub fn pack(&mut self) {
        if let Some(Counts::Open(histogram)) = &self.counts {
            self.counts = Some(Counts::Packed(Sparse::of(histogram)));
        }
    }

    /// For recording more.
    fn histogram(&mut self) -> &mut Histogram<u64> {
        let counts =
            self.counts.get_or_insert_with(|| Counts::Open(Box::new(histogram::growing())));
        if let Counts::Packed(packed) = counts {
            let mut histogram = Box::new(histogram::growing());
            packed.add_to(&mut histogram);
            *counts = Counts::Open(histogram);
        }
        match counts {
            Counts::Open(histogram) => histogram,
            Counts::Packed(_) => unreachable!("it was opened a line above"),
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    pub fn min_us(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min_us)
    }

    pub fn max_us(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_us)
    }

    pub fn mean_us(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_us as f64 / self.count as f64)
    }

    /// `quantile` in 0..=1; never outside [min, max]. `None` without samples.
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        let found = match self.counts.as_ref()? {
            Counts::Open(histogram) => histogram.value_at_quantile(quantile),
            Counts::Packed(packed) => packed.quantile_us(quantile)?,
        };
        Some(found.clamp(self.min_us, self.max_us))
    }

    /// How many are at most `us`, up to the width of its bucket.
    pub fn count_at_most(&self, us: u64) -> u64 {
        match &self.counts {
            None => 0,
            Some(Counts::Open(histogram)) => histogram.count_between(0, us),
            Some(Counts::Packed(packed)) => packed.count_at_most(us),
        }
    }

    /// Their counts in buckets that grow evenly.
    pub fn exponential(&self) -> histogram::Exponential {
        let of = |counts: &Counts| histogram::Exponential::of(&counts.packed());
        self.counts.as_ref().map(of).unwrap_or_default()
    }

    /// V2 bytes, empty without samples.
    pub fn encoded(&self) -> Vec<u8> {
        self.counts.as_ref().map(|counts| counts.packed().encode()).unwrap_or_default()
    }

    /// From untrusted parts, as they came over the wire or out of the database.
    pub fn from_parts(
        bytes: &[u8],
        count: u64,
        sum_us: u64,
        min_us: u64,
        max_us: u64,
    ) -> Result<Self, SamplesError> {
        if bytes.is_empty() {
            return if count == 0 {
                Ok(Self::default())
            } else {
                Err(SamplesError::Inconsistent("a count without a histogram"))
            };
        }
        let packed = Sparse::decode(bytes)?;
        if packed.count() != count || count == 0 {
            return Err(SamplesError::Inconsistent("the count differs from the histogram's"));
        }
        if min_us > max_us {
            return Err(SamplesError::Inconsistent("the minimum is above the maximum"));
        }
        let bounds = (min_us.saturating_mul(count), max_us.saturating_mul(count));
        if sum_us < bounds.0 || sum_us > bounds.1 {
            return Err(SamplesError::Inconsistent("the sum is outside count × [min, max]"));
        }
        Ok(Self { counts: Some(Counts::Packed(packed)), count, sum_us, min_us, max_us })
    }
}

/// Whether they hold the same, however they hold it.
impl PartialEq for Samples {
    fn eq(&self, other: &Self) -> bool {
        let known =
            |samples: &Self| (samples.count, samples.sum_us, samples.min_us, samples.max_us);
        let same_counts = || match (&self.counts, &other.counts) {
            (Some(ours), Some(theirs)) => ours.packed() == theirs.packed(),
            (ours, theirs) => ours.is_none() == theirs.is_none(),
        };
        known(self) == known(other) && same_counts()
    }
}

/// A histogram in which one can record takes tens of kilobytes, its buckets that are not empty some
/// hundred bytes. What came from elsewhere stays packed, also while it is added up, so that whoever holds
/// the results of hundreds of agents does not hold as many histograms.
#[derive(Debug, Clone)]
enum Counts {
    Open(Box<Histogram<u64>>),
    Packed(Sparse),
}

impl Counts {
    fn packed(&self) -> Cow<'_, Sparse> {
        match self {
            Self::Open(histogram) => Cow::Owned(Sparse::of(histogram)),
            Self::Packed(packed) => Cow::Borrowed(packed),
        }
    }
}
