//! Dealing: which agent simulates which devices.
//!
//! Devices are cut into blocks (at most devices/4096 each, so any plan has few of them) and dealt
//! by smooth weighted round robin. Any prefix of the deal, so any moment of a ramp, splits by the
//! weights. An agent whose cap is reached drops out and the rest is dealt to the others.

use std::ops::Range;

use crate::files::File;
use crate::ids::ObserverId;
use crate::plan::{Group, Plan};

/// Neighbouring devices of one group as one agent holds them: from when, until when, and after how
/// many others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Index into [`Plan::groups`].
    pub group: usize,
    pub devices: Range<u64>,
    /// How often these devices changed hands before.
    pub incarnation: u32,
    /// Run time of the first slot that this agent may class: earlier ones were somebody else's.
    pub from_us: u64,
    /// Run time from which they are let go; `u64::MAX` for the whole run.
    pub until_us: u64,
}

impl Block {
    /// Devices that never changed hands and are not to.
    pub fn new(group: usize, devices: Range<u64>) -> Self {
        Self { group, devices, incarnation: 0, from_us: 0, until_us: u64::MAX }
    }

    /// The same tenure of other devices.
    pub fn with_devices(&self, devices: Range<u64>) -> Self {
        Self { devices, ..self.clone() }
    }

    /// Whether both are one block that was cut.
    fn continues(&self, next: &Self) -> bool {
        self.with_devices(next.devices.clone()) == *next && self.devices.end == next.devices.start
    }

    /// Whether they have devices in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (own, others) = (&self.devices, &other.devices);
        self.group == other.group && own.start < others.end && others.start < own.end
    }

    pub fn len(&self) -> u64 {
        self.devices.end - self.devices.start
    }

    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// The part of a plan for one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shard {
    pub blocks: Vec<Block>,
}

impl Shard {
    pub fn devices(&self) -> u64 {
        self.blocks.iter().map(Block::len).sum()
    }

    /// The devices that an observer must know, although it drives none.
    pub fn observed(plan: &Plan, observer: ObserverId) -> Self {
        let observer = plan.observers.get(observer.index());
        let group = observer.filter(|observer| observer.needs_ids()).map(|observer| {
            let group = plan.series[observer.of.index()].group;
            Block::new(group, 0..plan.groups[group].devices)
        });
        Self { blocks: group.into_iter().collect() }
    }

    /// The files that an agent needs for these devices: of a table only their rows.
    pub fn files(&self, plan: &Plan) -> Vec<File> {
        let rows_of = |file: &File| {
            let rows = |group: &Group| group.rows.clone().filter(|rows| rows.path() == file.path);
            plan.groups.iter().find_map(rows)
        };
        let part = |file: &File| {
            let Some(rows) = rows_of(file) else { return file.clone() };
            let is_read = |block: &&Block| {
                let rows = plan.groups[block.group].rows.as_ref();
                rows.is_some_and(|rows| rows.path() == file.path)
            };
            let blocks = self.blocks.iter().filter(is_read);
            let ranges: Vec<Range<u64>> = blocks.map(|block| block.devices.clone()).collect();
            File::sliced(&file.path, file.sha256, file.n_bytes, rows.slice(&ranges))
        };
        plan.files.iter().map(part).collect()
    }

    /// Adds a block, joined with the last one where it continues it.
    pub fn push(&mut self, block: Block) {
        match self.blocks.last_mut() {
            Some(last) if last.continues(&block) => last.devices.end = block.devices.end,
            _ => self.blocks.push(block),
        }
    }

    /// Every device as (group, index).
    pub fn each(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.blocks.iter().flat_map(|block| block.devices.clone().map(|index| (block.group, index)))
    }
}

/// What an agent can take part with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Relative speed, for example its CPU cores; only ratios count.
    pub weight: f64,
    /// Most devices it can hold.
    pub cap: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{devices} devices are planned, but the agents can hold {capacity} together")]
pub struct TooFewAgents {
    pub devices: u64,
    pub capacity: u64,
}

/// Deals the plan's devices; the result has one shard per share, in that order. `may` says whether
/// an agent (by place in `shares`) may hold a group.
pub fn deal(
    plan: &Plan,
    shares: &[Share],
    may: impl Fn(usize, usize) -> bool,
) -> Result<Vec<Shard>, TooFewAgents> {
    let capacity = shares.iter().map(|share| share.cap).fold(0u64, u64::saturating_add);
    let too_few = TooFewAgents { devices: plan.devices(), capacity };
    if capacity < plan.devices() {
        return Err(too_few);
    }
    let (shards, left) = deal_blocks(blocks(plan), shares, may);
    if left.is_empty() { Ok(shards) } else { Err(too_few) }
}

/// Deals these blocks in their order; also returns those that found no room.
pub fn deal_blocks(
    blocks: impl IntoIterator<Item = Block>,
    shares: &[Share],
    may: impl Fn(usize, usize) -> bool,
) -> (Vec<Shard>, Vec<Block>) {
    let mut dealer = Dealer::new(shares);
    let left = blocks.into_iter().filter_map(|block| dealer.give(block, &may)).collect();
    (dealer.shards, left)
}

/// What of `blocks` is in none of `others`, whatever their tenure. `others` are apart.
pub fn without(blocks: &[Block], others: &[Block]) -> Vec<Block> {
    let mut taken: Vec<&Block> = others.iter().collect();
    taken.sort_unstable_by_key(|block| (block.group, block.devices.start));
    let mut left = Vec::new();
    for block in blocks {
        let mut start = block.devices.start;
        let first = taken.partition_point(|other| {
            (other.group, other.devices.end) <= (block.group, block.devices.start)
        });
        for other in &taken[first..] {
            if other.group != block.group || other.devices.start >= block.devices.end {
                break;
            }
            if other.devices.start > start {
                left.push(block.with_devices(start..other.devices.start));
            }
            start = start.max(other.devices.end);
        }
        if start < block.devices.end {
            left.push(block.with_devices(start..block.devices.end));
        }
    }
    left
}

/// All devices load after load in start order, cut where the group changes or a block is full.
fn blocks(plan: &Plan) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (group, def) in plan.groups.iter().enumerate() {
        let size = (def.devices / 4096).max(1);
        let mut start = 0;
        while start < def.devices {
            let end = (start + size).min(def.devices);
            blocks.push(((def.load, plan.start_rank(group, start)), Block::new(group, start..end)));
            start = end;
        }
    }
    blocks.sort_by_key(|(rank, _)| *rank);
    blocks.into_iter().map(|(_, block)| block).collect()
}

struct Dealer<'a> {
    shares: &'a [Share],
    credit: Vec<f64>,
    held: Vec<u64>,
    shards: Vec<Shard>,
}

impl<'a> Dealer<'a> {
    fn new(shares: &'a [Share]) -> Self {
        Self {
            shares,
            credit: vec![0.0; shares.len()],
            held: vec![0; shares.len()],
            shards: vec![Shard::default(); shares.len()],
        }
    }

    fn has_room(&self, agent: usize) -> bool {
        self.held[agent] < self.shares[agent].cap
    }

    /// Smooth weighted round robin: everyone with room earns its weight per device, the richest
    /// takes the block and pays for it. A block larger than the taker's room is split; what nobody
    /// has room for comes back.
    fn give(&mut self, mut block: Block, may: impl Fn(usize, usize) -> bool) -> Option<Block> {
        while !block.is_empty() {
            let open: Vec<usize> = (0..self.shares.len())
                .filter(|a| self.has_room(*a) && may(*a, block.group))
                .collect();
            let total: f64 = open.iter().map(|a| self.shares[*a].weight).sum();
            let richest = |a: &usize, b: &usize| {
                let worth = |agent: usize| self.credit[agent] + self.shares[agent].weight;
                worth(*a).total_cmp(&worth(*b)).then(b.cmp(a))
            };
            let Some(taker) = open.iter().copied().max_by(|a, b| richest(a, b)) else {
                return Some(block);
            };
            let taken = block.len().min(self.shares[taker].cap - self.held[taker]);
            for agent in open {
                self.credit[agent] += self.shares[agent].weight * taken as f64;
            }
            self.credit[taker] -= total * taken as f64;
            self.held[taker] += taken;
            let end = block.devices.start + taken;
            self.take(taker, block.with_devices(block.devices.start..end));
            block.devices.start = end;
        }
        None
    }

    fn take(&mut self, agent: usize, block: Block) {
        self.shards[agent].push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::{plan, ramp_and_hold};
    use proptest::prelude::*;

    const ANY: fn(usize, usize) -> bool = |_, _| true;

    fn fleet_plan(devices: &[u64]) -> Plan {
        let total = devices.iter().sum();
        plan(devices, 1_000_000, ramp_and_hold(total, 10_000_000, 10_000_000))
    }

    fn shares(weights: &[f64]) -> Vec<Share> {
        weights.iter().map(|weight| Share { weight: *weight, cap: u64::MAX / 8 }).collect()
    }

    #[test]
    fn four_to_two_to_one_gets_3429_1714_857() {
        let shards = deal(&fleet_plan(&[6_000]), &shares(&[4.0, 2.0, 1.0]), ANY).unwrap();
        for (shard, expected) in shards.iter().zip([3429u64, 1714, 857]) {
            assert!(shard.devices().abs_diff(expected) <= 1, "{}", shard.devices());
        }
    }

    #[test]
    fn what_does_not_fit_one_agent_goes_to_the_others() {
        let mut shares = shares(&[4.0, 1.0]);
        shares[0].cap = 100;
        let shards = deal(&fleet_plan(&[6_000]), &shares, ANY).unwrap();
        assert_eq!(shards.iter().map(Shard::devices).collect::<Vec<_>>(), [100, 5_900]);
    }

    #[test]
    fn too_small_a_fleet_is_refused_with_the_numbers() {
        let error = deal(&fleet_plan(&[50]), &[Share { weight: 1.0, cap: 49 }], ANY).unwrap_err();
        assert_eq!(error, TooFewAgents { devices: 50, capacity: 49 });
    }

    proptest! {
        #[test]
        fn shards_are_disjoint_and_sum_to_the_plan(
            devices in proptest::collection::vec(1u64..9_000, 1..4),
            weights in proptest::collection::vec(1u32..9, 1..6),
        ) {
            let plan = fleet_plan(&devices);
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let shards = deal(&plan, &shares(&weights), ANY).unwrap();
            let mut all: Vec<(usize, u64)> = shards.iter().flat_map(Shard::each).collect();
            all.sort_unstable();
            let expected: Vec<(usize, u64)> = devices.iter().enumerate()
                .flat_map(|(group, n)| (0..*n).map(move |index| (group, index))).collect();
            prop_assert_eq!(all, expected);
        }

        #[test]
        fn every_prefix_of_the_start_order_splits_by_the_weights(
            n in 1u64..4_000, weights in proptest::collection::vec(1u32..9, 1..6),
        ) {
            let plan = fleet_plan(&[n]);
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let total: f64 = weights.iter().sum();
            let shards = deal(&plan, &shares(&weights), ANY).unwrap();
            for cut in [n / 3, n / 2, n] {
                for (shard, weight) in shards.iter().zip(&weights) {
                    let held = shard.each().filter(|(_, index)| *index < cut).count() as f64;
                    let due = cut as f64 * weight / total;
                    prop_assert!((held - due).abs() <= 2.0, "{} of {} at {}", held, due, cut);
                }
            }
        }
    }
}
