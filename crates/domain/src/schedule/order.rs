//! The order in which the groups of one load start: interleaved, so that all reach their share
//! together.

use crate::plan::{Group, Plan};

impl Plan {
    /// Place of a device in the start order of the groups of its load.
    pub fn start_rank(&self, group: usize, index: u64) -> u64 {
        start_rank(&self.groups, &self.loads[self.groups[group].load].groups, group, index)
    }

    /// How many devices of a group have a start rank below `level`: those of the lowest indices.
    pub(super) fn of_level(&self, group: usize, level: u64) -> u64 {
        of_level(&self.groups, &self.loads[self.groups[group].load].groups, group, level)
    }
}

fn start_rank(groups: &[Group], members: &[usize], group: usize, index: u64) -> u64 {
    let ours = u128::from(groups[group].devices);
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
    let others = members.iter().filter(|other| **other != group);
    index + others.map(|o| before((*o, u128::from(groups[*o].devices)))).sum::<u64>()
}

pub(crate) fn of_level(groups: &[Group], members: &[usize], group: usize, level: u64) -> u64 {
    let (mut low, mut high) = (0, groups[group].devices);
    while low < high {
        let middle = low.midpoint(high);
        if start_rank(groups, members, group, middle) < level {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
