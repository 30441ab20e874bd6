//! Shards on the wire.

use shoal_domain::plan::Plan;
use shoal_domain::schedule::{MAX_REVISIONS, Revision};
use shoal_domain::shard::{Block, Shard};

use crate::{BadField, v1};

pub fn blocks_to_wire(shard: &Shard) -> Vec<v1::Block> {
    let block = |block: &Block| v1::Block {
        group: block.group as u32,
        first: block.devices.start,
        end: block.devices.end,
        incarnation: block.incarnation,
        after_us: block.from_us,
        until_us: if block.until_us == u64::MAX { 0 } else { block.until_us },
    };
    shard.blocks.iter().map(block).collect()
}

/// A block as it was said, whatever the plan says.
pub fn block_from_wire(block: &v1::Block) -> Block {
    Block {
        incarnation: block.incarnation,
        from_us: block.after_us,
        until_us: if block.until_us == 0 { u64::MAX } else { block.until_us },
        ..Block::new(block.group as usize, block.first..block.end)
    }
}

/// Refuses blocks that are empty, overlap or reach outside the plan. What comes out begins relative
/// to the assignment's own begin.
pub fn shard_from_wire(plan: &Plan, blocks: &[v1::Block]) -> Result<Shard, BadField> {
    let mut shard = Shard::default();
    for block in blocks {
        let Some(group) = plan.groups.get(block.group as usize) else {
            return Err(BadField::new("blocks.group", format!("no group {}", block.group)));
        };
        if block.first >= block.end || block.end > group.devices {
            let why = format!("{}..{} of {} devices", block.first, block.end, group.devices);
            return Err(BadField::new("blocks.first", why));
        }
        shard.blocks.push(block_from_wire(block));
    }
    let mut sorted: Vec<&Block> = shard.blocks.iter().collect();
    sorted.sort_by_key(|block| (block.group, block.devices.start));
    let overlap = sorted
        .windows(2)
        .any(|pair| pair[0].group == pair[1].group && pair[0].devices.end > pair[1].devices.start);
    if overlap {
        return Err(BadField::new("blocks", "two blocks overlap"));
    }
    Ok(shard)
}

pub fn revisions_to_wire(revisions: &[Revision]) -> Vec<v1::LoadRevision> {
    let revision = |revision: &Revision| v1::LoadRevision {
        at_us: revision.at_us,
        group: revision.group as u32,
        devices: revision.devices,
        over_us: revision.over_us,
    };
    revisions.iter().map(revision).collect()
}

/// What is beyond the bound is not taken. A group that no plan has changes nothing.
pub fn revisions_from_wire(revisions: &[v1::LoadRevision]) -> Vec<Revision> {
    let revision = |revision: &v1::LoadRevision| Revision {
        at_us: revision.at_us,
        group: revision.group as usize,
        devices: revision.devices,
        over_us: revision.over_us,
    };
    revisions.iter().take(MAX_REVISIONS).map(revision).collect()
}
