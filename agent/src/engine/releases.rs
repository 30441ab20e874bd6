//! Which devices are let go before the end of the load, and when.
//!
//! A handover is scheduled ahead in run time, so that the next holder may begin without asking: the
//! promise holds on this agent's own clock, also when the control plane is gone by then.

use std::collections::BTreeMap;

use shoal_domain::shard::Shard;

#[derive(Debug, Default)]
pub(crate) struct Releases {
    /// By group and first device: behind the last one, and when.
    ranges: BTreeMap<(usize, u64), (u64, u64)>,
}

impl Releases {
    /// What a shard says of the devices that do not stay to the end.
    pub(crate) fn of(shard: &Shard) -> Self {
        let leaving = shard.blocks.iter().filter(|block| block.until_us != u64::MAX);
        let range = |block: &shoal_domain::shard::Block| {
            ((block.group, block.devices.start), (block.devices.end, block.until_us))
        };
        Self { ranges: leaving.map(range).collect() }
    }

    /// `u64::MAX` for a device that stays.
    pub(crate) fn until_us(&self, group: usize, index: u64) -> u64 {
        let before = self.ranges.range(..=(group, index)).next_back();
        match before {
            Some(((known, _), (end, until_us))) if *known == group && index < *end => *until_us,
            _ => u64::MAX,
        }
    }

    pub(crate) fn last_us(&self) -> u64 {
        self.ranges.values().map(|(_, until_us)| *until_us).max().unwrap_or(0)
    }

    pub(crate) fn first_us(&self) -> u64 {
        self.ranges.values().map(|(_, until_us)| *until_us).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_domain::shard::Block;

    #[test]
    fn only_devices_of_blocks_with_an_end_leave() {
        let leaving = Block { until_us: 7, ..Block::new(1, 10..20) };
        let releases = Releases::of(&Shard { blocks: vec![Block::new(0, 0..30), leaving] });
        assert_eq!((releases.until_us(1, 10), releases.until_us(1, 19)), (7, 7));
        for (group, index) in [(0, 15), (1, 9), (1, 20), (2, 0)] {
            assert_eq!(releases.until_us(group, index), u64::MAX);
        }
        assert_eq!(releases.first_us(), 7);
    }
}
