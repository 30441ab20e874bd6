//! Grants that are over before the load is, and who takes their devices.
//!
//! Devices of whoever is lost, restarted, fenced or gone are dealt to those who can take them, in batches at
//! the spawn rate; its own next process takes up what it had. Invariant: what nobody has room for stays an
//! orphan and is tried again at every step.

use std::collections::{BTreeMap, BTreeSet};

use super::{AgentSeen, BATCH_US, Changes, Ended, Grant, GrantSeen, Move, Policy, Roster, Why};
use crate::ids::{AgentId, GrantId};
use crate::shard::{Block, Share, deal_blocks, without};

impl Roster {
    pub(super) fn end_the_gone(
        &mut self,
        policy: &Policy,
        agents: &BTreeMap<&AgentId, &AgentSeen>,
        seen: &impl Fn(&GrantId) -> GrantSeen,
        now_us: u64,
        changes: &mut Changes,
    ) {
        for at in 0..self.grants.len() {
            let grant = &self.grants[at];
            if !grant.is_live() {
                continue;
            }
            let said = seen(&grant.id);
            let agent = agents.get(&grant.id.agent).copied();
            let gave_all = grant.blocks.iter().all(|block| block.until_us != u64::MAX);
            let is_taker = grant.giver.is_some();
            let Some(why) = policy.fate(agent, &said, gave_all, is_taker) else { continue };
            let last_us = agent.map_or(now_us, |agent| agent.heard_us.min(now_us));
            self.end(at, why, now_us, changes);
            self.note_loss(at, why, last_us.min(said.closed_at_us.unwrap_or(u64::MAX)));
        }
    }

    pub(super) fn end(&mut self, at: usize, why: Why, now_us: u64, changes: &mut Changes) {
        self.grants[at].ended = Some(Ended { at_us: now_us, why });
        changes.ended.insert(at);
    }

    /// The devices that go down with a grant. Those that never began are part of an earlier loss.
    fn note_loss(&mut self, at: usize, why: Why, from_us: u64) {
        let grant = &self.grants[at];
        let stays = |block: &&Block| block.until_us == u64::MAX;
        let devices = grant.blocks.iter().filter(stays).map(Block::len).sum();
        if grant.from_us.is_none() || devices == 0 {
            return;
        }
        let giver = grant.id.clone();
        let takers = BTreeSet::new();
        self.moves.push(Move { giver, why, devices, from_us, until_us: None, takers });
    }

    /// What an ended grant leaves to others and nobody has taken yet.
    pub(super) fn orphans(&self, at: usize) -> Vec<Block> {
        let grant = &self.grants[at];
        if grant.is_live() {
            return Vec::new();
        }
        let open: Vec<Block> =
            grant.blocks.iter().filter(|block| block.until_us == u64::MAX).cloned().collect();
        let takers = self.grants.iter().filter(|taker| taker.giver.as_ref() == Some(&grant.id));
        let taken: Vec<Block> = takers.flat_map(|taker| taker.blocks.iter().cloned()).collect();
        without(&open, &taken)
    }

    pub(super) fn give_orphans(
        &mut self,
        policy: &Policy,
        agents: &BTreeMap<&AgentId, &AgentSeen>,
        now_us: u64,
        changes: &mut Changes,
    ) {
        let is_outage = self.notice_outage(agents, now_us);
        let is_open = |grant: &Grant| !grant.is_settled && !grant.is_live();
        if !self.grants.iter().any(is_open) {
            return;
        }
        for at in 0..self.grants.len() {
            if !is_open(&self.grants[at]) {
                continue;
            }
            let orphans = self.orphans(at);
            if orphans.is_empty() {
                self.grants[at].is_settled = true;
                continue;
            }
            let giver = self.grants[at].id.clone();
            let why = self.grants[at].ended.as_ref().map(|ended| ended.why);
            if is_outage && why == Some(Why::Lost) {
                continue;
            }
            let able = |agent: &&&AgentSeen| agent.can_take() && !self.has_refused(&agent.id);
            let n_orphans: u64 = orphans.iter().map(Block::len).sum();
            let back = agents.get(&giver.agent).filter(|agent| {
                let is_back = matches!(why, Some(Why::Restarted | Why::Fenced));
                is_back && able(agent) && agent.free >= n_orphans
            });
            // Who comes back takes up its own; otherwise all share.
            let takers: Vec<&AgentSeen> = match back {
                Some(back) => vec![back],
                None => agents.values().filter(able).copied().collect(),
            };
            let left = self.take(&giver, orphans, &takers, policy.spawn_rate, changes);
            self.grants[at].is_settled = left == 0;
        }
    }

    pub(super) fn has_refused(&self, agent: &AgentId) -> bool {
        self.grants.iter().any(|grant| {
            grant.id.agent == *agent
                && grant.ended.as_ref().is_some_and(|ended| ended.why == Why::Refused)
        })
    }

    /// New grants for `blocks` of `giver`, in batches; returns the number of devices without room.
    pub(super) fn take(
        &mut self,
        giver: &GrantId,
        blocks: Vec<Block>,
        takers: &[&AgentSeen],
        spawn_rate: f64,
        changes: &mut Changes,
    ) -> u64 {
        let promised = |agent: &AgentId| -> u64 {
            let new = changes.granted.iter().map(|at| &self.grants[*at]);
            new.filter(|grant| grant.id.agent == *agent).map(Grant::devices).sum()
        };
        let shares: Vec<Share> = takers
            .iter()
            .map(|taker| Share {
                weight: taker.weight,
                cap: taker.free.saturating_sub(promised(&taker.id)),
            })
            .collect();
        let may = |taker: usize, group: usize| !takers[taker].barred.contains(&group);
        let (shards, left) = deal_blocks(batches(blocks, spawn_rate), &shares, may);
        for (taker, shard) in takers.iter().zip(shards) {
            if shard.blocks.is_empty() {
                continue;
            }
            self.epoch += 1;
            let id = GrantId { agent: taker.id.clone(), epoch: self.epoch };
            changes.granted.insert(self.grants.len());
            self.grants.push(Grant::new(id, shard.blocks, Some(giver.clone())));
        }
        left.iter().map(Block::len).sum()
    }
}

/// Small blocks of the next incarnation, batch after batch: each begins when the spawn rate allows.
fn batches(blocks: Vec<Block>, spawn_rate: f64) -> Vec<Block> {
    let batch = (spawn_rate * BATCH_US as f64 / 1e6).ceil().max(1.0) as u64;
    let total: u64 = blocks.iter().map(Block::len).sum();
    let piece = (total / 1_024).clamp(1, batch);
    let (mut pieces, mut n) = (Vec::new(), 0u64);
    for block in blocks {
        let mut start = block.devices.start;
        while start < block.devices.end {
            let left_in_batch = batch - n % batch;
            let end = (start + piece.min(left_in_batch)).min(block.devices.end);
            pieces.push(Block {
                incarnation: block.incarnation + 1,
                from_us: n / batch * BATCH_US,
                until_us: u64::MAX,
                ..block.with_devices(start..end)
            });
            n += end - start;
            start = end;
        }
    }
    pieces
}
