//! When the open numbers of a block were sent: a map from stretches of numbers to windows.
//!
//! A number stands here from the first news of it until nothing about it is open any more, so the map
//! is as small as the set of open numbers. Invariant: no two stretches overlap.

use std::collections::BTreeMap;

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
