//! Counter-based random numbers: every generated value is a pure function of
//! (seed, group, device, series, slot, field).
//!
//! No generator keeps state, so a device that changes hands continues where it was and a pinned
//! seed repeats a run. A walk is the one value with a past: it is replayed from its start, and
//! [`Walks`] only remembers where the last replay stood. Invariant: forgetting every walk changes
//! no value.

/// What a stream of values belongs to; a field is one expression of the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) seed: u64,
    pub(crate) group: u32,
    pub(crate) device: u64,
    /// `u32::MAX` for values drawn once per device.
    pub(crate) series: u32,
    pub(crate) field: u64,
}

/// All values of one field of one device and series, by slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream(u64);

/// 2⁶⁴ / the golden ratio: steps of it visit all 64-bit numbers evenly.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64: each input bit changes half of the output bits.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const fn absorb(state: u64, part: u64) -> u64 {
    mix(state.wrapping_add(GOLDEN) ^ part)
}

impl Stream {
    pub(crate) const fn of(source: Source) -> Self {
        let state = absorb(source.seed, source.device);
        let place = (source.group as u64) << 32 | source.series as u64;
        Self(absorb(absorb(state, place), source.field))
    }

    /// The `k`-th of the numbers that belong to `slot`.
    pub(crate) const fn draw(self, slot: u64, k: u64) -> u64 {
        absorb(absorb(self.0, slot), k)
    }

    /// In 0..1, one excluded.
    pub(crate) fn unit(self, slot: u64, k: u64) -> f64 {
        // 53 bits fill the mantissa of a double exactly.
        (self.draw(slot, k) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Both ends included.
    pub(crate) fn int(self, slot: u64, low: i64, high: i64) -> i64 {
        let span = i128::from(high) - i128::from(low) + 1;
        let offset = (u128::from(self.draw(slot, 0)) * span as u128) >> 64;
        (i128::from(low) + offset as i128) as i64
    }

    pub(crate) fn float(self, slot: u64, low: f64, high: f64) -> f64 {
        (low + self.unit(slot, 0) * (high - low)).clamp(low, high)
    }

    /// Box and Muller's transform of two even draws.
    pub(crate) fn normal(self, slot: u64, mean: f64, deviation: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit(slot, 0)).ln()).sqrt();
        mean + deviation * radius * (std::f64::consts::TAU * self.unit(slot, 1)).cos()
    }

    pub(crate) fn choice(self, slot: u64, n: usize) -> usize {
        ((u128::from(self.draw(slot, 0)) * n as u128) >> 64) as usize
    }
}

/// A random walk between two bounds that it is reflected at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Walk {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) step: f64,
}

impl Walk {
    fn start(self, stream: Stream) -> f64 {
        stream.float(0, self.low, self.high)
    }

    fn next(self, stream: Stream, slot: u64, value: f64) -> f64 {
        let moved = value + (2.0 * stream.unit(slot, 0) - 1.0) * self.step;
        let reflected = if moved < self.low {
            2.0 * self.low - moved
        } else if moved > self.high {
            2.0 * self.high - moved
        } else {
            moved
        };
        // A step wider than the range could leave it on the other side.
        reflected.clamp(self.low, self.high)
    }

    /// The walk after `slot` steps; cheap where `walks` remembers a slot not far before.
    pub(crate) fn at(self, stream: Stream, slot: u64, walks: &mut Walks) -> f64 {
        let known = walks.places.iter_mut().find(|place| place.stream == stream);
        let (mut at, mut value) = match &known {
            Some(place) if place.slot <= slot => (place.slot, place.value),
            _ => (0, self.start(stream)),
        };
        while at < slot {
            at += 1;
            value = self.next(stream, at, value);
        }
        let now = WalkPlace { stream, slot, value };
        match known {
            Some(place) => *place = now,
            None => walks.places.push(now),
        }
        value
    }
}

/// The walks of one device and series, remembered so that the next step costs one step.
#[derive(Debug, Clone, Default)]
pub struct Walks {
    places: Vec<WalkPlace>,
}

#[derive(Debug, Clone, Copy)]
struct WalkPlace {
    stream: Stream,
    slot: u64,
    value: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(seed: u64, device: u64, field: u64) -> Stream {
        Stream::of(Source { seed, group: 0, device, series: 1, field })
    }

    #[test]
    fn neighbors_draw_differently_and_evenly() {
        let mean = (0..10_000).map(|device| stream(1, device, 7).unit(0, 0)).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        let mean = (0..10_000).map(|slot| stream(1, 3, 7).unit(slot, 0)).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    /// A change here changes every pinned run: the numbers are part of the contract.
    #[test]
    fn a_pinned_seed_repeats_forever() {
        assert_eq!(stream(42, 7, 3).int(5, 0, 999_999), 581_985);
    }

    proptest! {
        #[test]
        fn ranges_are_kept(seed: u64, device: u64, slot: u64, a: i64, b: i64) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!((low..=high).contains(&stream(seed, device, 1).int(slot, low, high)));
            let (low, high) = (low as f64, high as f64);
            prop_assert!((low..=high).contains(&stream(seed, device, 1).float(slot, low, high)));
            prop_assert!(stream(seed, device, 1).normal(slot, 0.0, 1.0).is_finite());
            prop_assert!(stream(seed, device, 1).choice(slot, 3) < 3);
        }

        #[test]
        fn a_walk_continues_across_a_hand_over(
            seed: u64, slots in proptest::collection::vec(0..300_u64, 1..20), step in 0.1..30.0_f64
        ) {
            let walk = Walk { low: 15.0, high: 35.0, step };
            let one = stream(seed, 1, 1);
            let mut remembered = Walks::default();
            for slot in slots {
                let value = walk.at(one, slot, &mut remembered);
                prop_assert_eq!(value, walk.at(one, slot, &mut Walks::default()));
                prop_assert!((15.0..=35.0).contains(&value));
            }
        }
    }
}
