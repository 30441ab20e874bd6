//! The pace of recorded traffic: the recording's own distances, once or again and again.

use crate::plan::Recorded;

/// Never due.
const NEVER_NS: u64 = u64::MAX;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Replayed {
    pub(super) first_ns: u64,
    pub(super) recorded: Recorded,
}

impl Replayed {
    pub(super) fn intended_ns(&self, slot: u64) -> u64 {
        let offsets = &*self.recorded.offsets_ns.0;
        let n = offsets.len() as u64;
        let (round, within) = (slot / n, (slot % n) as usize);
        let Some(cycle_ns) = self.recorded.cycle_ns else {
            return if round == 0 { self.first_ns + offsets[within] } else { NEVER_NS };
        };
        round
            .checked_mul(cycle_ns)
            .and_then(|passed| passed.checked_add(self.first_ns + offsets[within]))
            .unwrap_or(NEVER_NS)
    }

    pub(super) fn count_before(&self, ns: u64) -> u64 {
        let Some(since_ns) = ns.checked_sub(self.first_ns) else { return 0 };
        let offsets = &*self.recorded.offsets_ns.0;
        let within = |ns: u64| offsets.partition_point(|offset| *offset < ns) as u64;
        match self.recorded.cycle_ns {
            Some(cycle) => since_ns / cycle * offsets.len() as u64 + within(since_ns % cycle),
            None => within(since_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Offsets;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_due(
            gaps in proptest::collection::vec(0..50_u64, 1..20),
            first_ns in 0..100_u64,
            rest in proptest::option::of(1..60_u64),
            until_ns in 0..2_000_u64,
        ) {
            let offsets: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let cycle_ns = rest.map(|rest| offsets.last().unwrap() + rest);
            let recorded = Recorded { offsets_ns: Offsets(offsets.into()), cycle_ns };
            let replayed = Replayed { first_ns, recorded };
            let times: Vec<u64> = (0..3_000).map(|slot| replayed.intended_ns(slot)).collect();
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            let due = times.iter().filter(|time| **time < until_ns).count() as u64;
            prop_assert_eq!(replayed.count_before(until_ns), due);
        }
    }
}
