//! The order in which the groups of one load start: interleaved, so that all reach their share
//! together.

use crate::plan::Plan;

impl Plan {
    /// Place of a device in the start order of the groups of its load.
    pub fn start_rank(&self, group: usize, index: u64) -> u64 {
        let ours = u128::from(self.groups[group].devices);
        // Device i of n stands at (2i + 1) / 2n of the way; ties go to the earlier group.
        let place = 2 * u128::from(index) + 1;
        let before = |(other, count): (usize, u128)| {
            let scaled = place * count;
            let n = if other < group {
                if scaled < ours { 0 } else { (scaled - ours) / (2 * ours) + 1 }
            } else {
                scaled.saturating_sub(ours).div_ceil(2 * ours)
            };
            n.min(count) as u64
        };
        let load = &self.loads[self.groups[group].load];
        let others = load.groups.iter().filter(|other| **other != group);
        index + others.map(|o| before((*o, u128::from(self.groups[*o].devices)))).sum::<u64>()
    }

    /// How many devices of a group have a start rank below `level`.
    pub(super) fn of_level(&self, group: usize, level: u64) -> u64 {
        let (mut low, mut high) = (0, self.groups[group].devices);
        while low < high {
            let middle = low.midpoint(high);
            if self.start_rank(group, middle) < level {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
