//! Devices of an agent that lives: it is asked to go, or another one joined.
//!
//! One handover at a time. Takers prepare first; only then the giver is told when to let go of what.

use std::collections::BTreeMap;

use super::{AgentSeen, Changes, Grant, GrantSeen, HANDOVER_LEAD_US, Policy, Roster, WORTH_MOVING};
use crate::ids::{AgentId, GrantId};
use crate::shard::{Block, without};

impl Roster {
    /// Starts at most one handover at a time: from an agent that leaves, or to one that joined.
    pub(super) fn hand_over(
        &mut self,
        policy: &Policy,
        agents: &BTreeMap<&AgentId, &AgentSeen>,
        now_us: u64,
        changes: &mut Changes,
    ) {
        let moves = |grant: &Grant| {
            let ends =
                |block: &Block| grant.from_us.is_none_or(|from| now_us < from + block.from_us);
            // One that was over before it began: its devices are its holder's still, and go to whoever takes its place, maybe
            // only after an outage.
            let is_to_be_replaced =
                !grant.is_live() && !grant.is_settled && grant.from_us.is_none();
            let is_moving = grant.is_live() && grant.blocks.iter().any(ends);
            grant.giver.is_some() && (is_moving || is_to_be_replaced)
        };
        if self.grants.iter().any(moves) {
            return;
        }
        let takers: Vec<&AgentSeen> = agents
            .values()
            .filter(|agent| agent.can_take() && !self.has_refused(&agent.id))
            .copied()
            .collect();
        let holds = |grant: &Grant| grant.is_live() && grant.from_us.is_some();
        let leaving = self.grants.iter().position(|grant| {
            let agent = agents.get(&grant.id.agent);
            holds(grant)
                && agent.is_some_and(|agent| agent.is_leaving && agent.is_connected)
                && grant.blocks.iter().any(|block| block.until_us == u64::MAX)
        });
        if let Some(at) = leaving {
            if !takers.is_empty() {
                let open = open_blocks(&self.grants[at]);
                let giver = self.grants[at].id.clone();
                self.take(&giver, open, &takers, policy.spawn_rate, changes);
            }
        } else if policy.rebalance {
            self.rebalance(policy, &takers, changes);
        }
    }

    /// One step towards shares by weight: from the grant of the agent that has the most too much.
    fn rebalance(&mut self, policy: &Policy, takers: &[&AgentSeen], changes: &mut Changes) {
        let mut held: BTreeMap<&AgentId, u64> = takers.iter().map(|taker| (&taker.id, 0)).collect();
        for grant in self.grants.iter().filter(|grant| grant.is_live()) {
            if let Some(held) = held.get_mut(&grant.id.agent) {
                *held += n_open(grant);
            }
        }
        let total: u64 = held.values().sum();
        let weights: f64 = takers.iter().map(|taker| taker.weight).sum();
        let surplus = |taker: &AgentSeen| {
            let fair = total as f64 * taker.weight / weights.max(f64::MIN_POSITIVE);
            held.get(&taker.id).map_or(0.0, |held| *held as f64 - fair)
        };
        let worth_it = (total as f64 * WORTH_MOVING).max(1.0);
        let joined: Vec<&AgentSeen> =
            takers.iter().filter(|taker| -surplus(taker) >= worth_it).copied().collect();
        if joined.is_empty() {
            return;
        }
        let missing: f64 = joined.iter().map(|taker| -surplus(taker)).sum();
        let richest = takers.iter().copied().max_by(|a, b| surplus(a).total_cmp(&surplus(b)));
        let Some(richest) = richest else { return };
        let of_richest = self
            .grants
            .iter()
            .filter(|grant| grant.is_live() && grant.id.agent == richest.id)
            .max_by_key(|grant| n_open(grant));
        let Some(grant) = of_richest else { return };
        let n = surplus(richest).min(missing).max(0.0) as u64;
        let (giver, chosen) = (grant.id.clone(), pick(open_blocks(grant), n));
        self.take(&giver, chosen, &joined, policy.spawn_rate, changes);
    }

    /// Once all takers of a living giver are prepared, it is told when to let go of what.
    pub(super) fn schedule(
        &mut self,
        seen: &impl Fn(&GrantId) -> GrantSeen,
        now_us: u64,
        changes: &mut Changes,
    ) {
        let waits = |at: &usize| {
            let taker = &self.grants[*at];
            taker.is_live() && taker.from_us.is_none() && taker.giver.is_some()
        };
        let waiting: Vec<usize> = (0..self.grants.len()).filter(waits).collect();
        if waiting.is_empty() {
            return;
        }
        for at in 0..self.grants.len() {
            if !self.grants[at].is_live() {
                continue;
            }
            let giver = self.grants[at].id.clone();
            let is_taker = |taker: &usize| {
                let holder = self.holder(&self.grants[*taker]);
                holder.is_some_and(|holder| holder.id == giver)
            };
            let takers: Vec<usize> = waiting.iter().copied().filter(is_taker).collect();
            let is_ready = |taker: &usize| seen(&self.grants[*taker].id).is_prepared;
            if takers.is_empty() || !takers.iter().all(is_ready) {
                continue;
            }
            let is_told = takers
                .iter()
                .all(|taker| self.grants[at].lets_go_us(&self.grants[*taker].blocks).is_some());
            let is_late = seen(&giver).handover_late >= self.grants[at].handover;
            if is_told && !is_late {
                continue;
            }
            let base_us = now_us + HANDOVER_LEAD_US;
            let leaving: Vec<Block> =
                takers.iter().flat_map(|taker| self.grants[*taker].blocks.clone()).collect();
            let known = &self.grants[at].blocks;
            let mut blocks = without(known, &leaving);
            for block in &leaving {
                // The giver's own tenure of these devices, cut where they leave.
                let tenure = known.iter().find(|known| {
                    known.group == block.group && known.devices.contains(&block.devices.start)
                });
                blocks.extend(tenure.map(|tenure| Block {
                    until_us: base_us + block.from_us,
                    ..tenure.with_devices(block.devices.clone())
                }));
            }
            blocks.sort_by_key(|block| (block.group, block.devices.start));
            let grant = &mut self.grants[at];
            grant.blocks = blocks;
            grant.handover += 1;
            changes.cut.insert(at);
            for taker in takers {
                self.grants[taker].base_us = Some(base_us);
            }
        }
    }
}

/// Devices that it is to hold for the whole run.
fn n_open(grant: &Grant) -> u64 {
    grant.blocks.iter().filter(|block| block.until_us == u64::MAX).map(Block::len).sum()
}

pub(super) fn open_blocks(grant: &Grant) -> Vec<Block> {
    grant.blocks.iter().filter(|block| block.until_us == u64::MAX).cloned().collect()
}

/// About `n` devices, spread evenly over the blocks.
fn pick(blocks: Vec<Block>, n: u64) -> Vec<Block> {
    let total: u64 = blocks.iter().map(Block::len).sum();
    let (mut chosen, mut passed, mut taken) = (Vec::new(), 0u64, 0u64);
    for block in blocks {
        passed += block.len();
        let due = (u128::from(passed) * u128::from(n) / u128::from(total.max(1))) as u64;
        let take = (due - taken).min(block.len());
        if take > 0 {
            chosen.push(block.with_devices(block.devices.end - take..block.devices.end));
            taken += take;
        }
    }
    chosen
}
