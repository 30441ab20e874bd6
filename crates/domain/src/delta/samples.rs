//! Durations that were measured, as a histogram and what it cannot tell exactly.

use std::borrow::Cow;

use hdrhistogram::Histogram;

use crate::histogram;

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
        self.histogram().saturating_record(us);
        self.min_us = if self.count == 0 { us } else { self.min_us.min(us) };
        self.max_us = self.max_us.max(us);
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    pub fn merge(&mut self, other: &Self) {
        let Some(theirs) = &other.counts else { return };
        match &self.counts {
            Some(_) => {
                let ours = self.histogram();
                ours.add(&*theirs.read()).expect("all histograms have one layout");
            }
            None => self.counts = Some(theirs.clone()),
        }
        self.min_us = if self.count == 0 { other.min_us } else { self.min_us.min(other.min_us) };
        self.max_us = self.max_us.max(other.max_us);
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// For keeping rather than for counting more: takes hundreds of bytes instead of tens of kilobytes.
    pub fn pack(&mut self) {
        if let Some(Counts::Open(histogram)) = &self.counts {
            self.counts = Some(Counts::Packed(histogram::encode(histogram).into()));
        }
    }

    /// For counting more.
    fn histogram(&mut self) -> &mut Histogram<u64> {
        let counts = self.counts.get_or_insert_with(|| Counts::Open(Box::new(histogram::empty())));
        if let Counts::Packed(bytes) = counts {
            *counts = Counts::Open(Box::new(unpacked(bytes)));
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
        let histogram = self.counts.as_ref()?.read();
        Some(histogram.value_at_quantile(quantile).clamp(self.min_us, self.max_us))
    }

    /// How many are at most `us`, up to the width of its bucket.
    pub fn count_at_most(&self, us: u64) -> u64 {
        self.counts.as_ref().map_or(0, |counts| counts.read().count_between(0, us))
    }

    /// Their counts in buckets that grow evenly.
    pub fn exponential(&self) -> histogram::Exponential {
        let of = |counts: &Counts| histogram::Exponential::of(&counts.read());
        self.counts.as_ref().map(of).unwrap_or_default()
    }

    /// V2 bytes, empty without samples.
    pub fn encoded(&self) -> Vec<u8> {
        match &self.counts {
            None => Vec::new(),
            Some(Counts::Open(histogram)) => histogram::encode(histogram),
            Some(Counts::Packed(bytes)) => bytes.to_vec(),
        }
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
        let histogram = histogram::decode(bytes)?;
        if histogram.len() != count || count == 0 {
            return Err(SamplesError::Inconsistent("the count differs from the histogram's"));
        }
        if min_us > max_us {
            return Err(SamplesError::Inconsistent("the minimum is above the maximum"));
        }
        let bounds = (min_us.saturating_mul(count), max_us.saturating_mul(count));
        if sum_us < bounds.0 || sum_us > bounds.1 {
            return Err(SamplesError::Inconsistent("the sum is outside count × [min, max]"));
        }
        Ok(Self { counts: Some(Counts::Packed(bytes.into())), count, sum_us, min_us, max_us })
    }
}

/// Whether they hold the same, however they hold it.
impl PartialEq for Samples {
    fn eq(&self, other: &Self) -> bool {
        let known =
            |samples: &Self| (samples.count, samples.sum_us, samples.min_us, samples.max_us);
        let same_counts = || match (&self.counts, &other.counts) {
            (Some(ours), Some(theirs)) => *ours.read() == *theirs.read(),
            (ours, theirs) => ours.is_none() == theirs.is_none(),
        };
        known(self) == known(other) && same_counts()
    }
}

/// A histogram in which one can count takes tens of kilobytes, its bytes some hundred. What came
/// from elsewhere stays packed until something is added to it, so that whoever holds the results of
/// hundreds of agents does not hold as many histograms.
#[derive(Debug, Clone)]
enum Counts {
    Open(Box<Histogram<u64>>),
    /// They were decoded once, so they can be again.
    Packed(Box<[u8]>),
}

impl Counts {
    fn read(&self) -> Cow<'_, Histogram<u64>> {
        match self {
            Self::Open(histogram) => Cow::Borrowed(histogram),
            Self::Packed(bytes) => Cow::Owned(unpacked(bytes)),
        }
    }
}

fn unpacked(bytes: &[u8]) -> Histogram<u64> {
    histogram::decode(bytes).expect("these bytes were decoded before")
}
