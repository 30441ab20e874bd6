//! When the open numbers of a block were sent: a map from stretches of numbers to windows.
//!
//! A number stands here from the first news of it until nothing about it is open any more, so the map
//! is as small as the set of open numbers. Where a platform is dead for long that is one stretch for each
//! device and second, so what is old is then kept by 2, 4, 8 … seconds: coarser in time, never in number.
//! Invariant: no two stretches overlap.

use std::collections::BTreeMap;

/// Stretches of one block above which they are joined.
pub(super) const MAX_SPANS: usize = 128 * 1_024;
/// The coarsest that they become: nine hours.
const MAX_GRAIN: u32 = 1 << 15;

/// Numbers of one device and incarnation, from the key on, that belong to one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) count: u32,
    pub(super) window: u32,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Spans(BTreeMap<u64, Span>);

impl Spans {
    /// Ascending and disjoint, as [`Spans::iter`] gives them.
    pub(super) fn from_sorted(spans: impl IntoIterator<Item = (u64, Span)>) -> Self {
        Self(spans.into_iter().collect())
    }

    /// Of the same numbers, at most half of `most` stretches, if joining neighbours can do that: each
    /// belongs to the window at the begin of 2, 4, 8 … instead of its own.
    pub(super) fn joined(open: Vec<(u64, Span)>, most: usize) -> Vec<(u64, Span)> {
        let (mut joined, mut grain) = (open, 1);
        while joined.len() > most / 2 && grain < MAX_GRAIN {
            grain *= 2;
            let mut coarser: Vec<(u64, Span)> = Vec::with_capacity(joined.len() / 2);
            for (first, span) in joined {
                let window = span.window / grain * grain;
                match coarser.last_mut() {
                    Some((at, last))
                        if *at + u64::from(last.count) == first && last.window == window =>
                    {
                        last.count += span.count;
                    }
                    _ => coarser.push((first, Span { window, ..span })),
                }
            }
            joined = coarser;
        }
        joined
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (u64, Span)> + '_ {
        self.0.iter().map(|(first, span)| (*first, *span))
    }

    /// These numbers belong to this window, whatever was believed of them.
    pub(super) fn put(&mut self, first: u64, span: Span) {
        let end = first + u64::from(span.count);
        if let Some((&before, known)) = self.0.range_mut(..first).next_back() {
            let known_end = before + u64::from(known.count);
            if known_end > first {
                known.count = (first - before) as u32;
                let window = known.window;
                self.put_rest(end, known_end, window);
            }
        }
        let covered: Vec<u64> = self.0.range(first..end).map(|(at, _)| *at).collect();
        for at in covered {
            if let Some(known) = self.0.remove(&at) {
                self.put_rest(end, at + u64::from(known.count), known.window);
            }
        }
        self.0.insert(first, span);
    }

    fn put_rest(&mut self, from: u64, end: u64, window: u32) {
        if end > from {
            self.0.insert(from, Span { count: (end - from) as u32, window });
        }
    }

    /// Those of these numbers that belong to no window yet belong to this one.
    pub(super) fn fill(&mut self, first: u64, span: Span) {
        let end = first + u64::from(span.count);
        let before = self.0.range(..first).next_back();
        let mut from = before.map_or(first, |(at, known)| first.max(at + u64::from(known.count)));
        let known: Vec<(u64, u64)> = self
            .0
            .range(first..end)
            .map(|(at, known)| (*at, at + u64::from(known.count)))
            .collect();
        for (at, known_end) in known {
            self.put_rest(from, at, span.window);
            from = known_end;
        }
        self.put_rest(from, end, span.window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 40 devices of which nothing is acknowledged for 100 windows.
    fn dead() -> Vec<(u64, Span)> {
        let of = |device: u64| {
            (0..100).map(move |n| ((device << 52) + n, Span { count: 1, window: n as u32 }))
        };
        (0..40).flat_map(of).collect()
    }

    #[test]
    fn a_long_silence_is_told_coarser_in_time_and_never_in_number() {
        let joined = Spans::joined(dead(), 1_000);
        // 16 seconds: 7 stretches a device, where 8 seconds would leave 13.
        assert_eq!(joined.len(), 40 * 7);
        assert_eq!(joined[1], (16, Span { count: 16, window: 16 }));
        assert_eq!(joined.iter().map(|(_, span)| span.count).sum::<u32>(), 4_000);
    }

    #[test]
    fn numbers_that_are_no_neighbours_stay_apart() {
        let apart: Vec<_> = dead().into_iter().step_by(2).collect();
        let joined = Spans::joined(apart.clone(), 10);
        assert_eq!(joined.len(), apart.len());
        let same = joined.iter().zip(&apart).all(|(one, other)| {
            one.0 == other.0 && one.1.count == other.1.count && one.1.window <= other.1.window
        });
        assert!(same);
    }

    proptest! {
        #[test]
        fn stretches_say_what_single_numbers_would(
            told in proptest::collection::vec((any::<bool>(), 0u64..60, 1u32..20, 0u32..9), 0..40),
        ) {
            let mut spans = Spans::default();
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            for (is_sure, first, count, window) in told {
                let span = Span { count, window };
                let numbers = first..first + u64::from(count);
                match is_sure {
                    true => {
                        spans.put(first, span);
                        model.extend(numbers.map(|n| (n, window)));
                    }
                    false => {
                        spans.fill(first, span);
                        numbers.for_each(|n| { model.entry(n).or_insert(window); });
                    }
                }
            }
            let single = |(first, span): (u64, Span)| {
                (first..first + u64::from(span.count)).map(move |n| (n, span.window))
            };
            let found: Vec<(u64, u32)> = spans.iter().flat_map(single).collect();
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }
}
