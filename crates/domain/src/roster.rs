//! Who holds which devices of a run, and what becomes of the devices of an agent that goes.
//!
//! A grant is a set of blocks that one agent holds under one epoch. It never changes hands: when its
//! agent is gone, or is to give devices away, *new* grants take them on, and those that stay are not
//! touched. [`Roster::step`] looks at what is true now and decides; like [`crate::run::apply`] it is
//! pure and may be repeated, so a decision that could not be stored is simply made again.
//!
//! Break before make, in three ways: the giver is over (its lease and grace have passed, it said so
//! itself, or its next process proves it); or it has promised, ahead of time and on its own clock,
//! when it lets go, and the taker begins [`HANDOVER_GAP_US`] later; or nobody ever began.
//! Invariant: at any run time a device is held by at most one grant.

mod handover;
mod loss;
mod moves;
mod outage;
mod poison;
mod readers;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::moves::Move;
pub use self::outage::Outage;
pub use self::poison::SOON_US;
pub use self::readers::{ReadShare, Reader};
use crate::ids::{AgentId, GrantId};
use crate::plan::OnAgentLoss;
use crate::shard::{Block, Shard};

/// From the decision that a taker begins to its first devices: the word must have arrived by then.
pub const TAKE_LEAD_US: u64 = 1_000_000;
/// From the decision on a handover to the first device that is let go.
pub const HANDOVER_LEAD_US: u64 = 2_000_000;
/// From letting go of a device to its first slot elsewhere: its last acks and its goodbye.
pub const HANDOVER_GAP_US: u64 = 500_000;
/// Devices move in batches of this time at the spawn rate.
pub const BATCH_US: u64 = 1_000_000;
/// An agent that joined gets devices only if its fair share lacks at least this part of all.
const WORTH_MOVING: f64 = 0.02;

/// Why a grant is over before the load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Silent for longer than lease and grace.
    Lost,
    /// Another process runs under its id and proves that the one before is dead.
    Restarted,
    /// It reported what cannot be, and is not believed any more; its lease and grace have passed.
    Quarantined,
    /// Its lease lapsed, and it stopped by itself.
    Fenced,
    /// It closed before it was asked to, as on SIGTERM with nobody to hand over to.
    Left,
    /// It gave all of its devices away as agreed.
    HandedOver,
    /// It could not take what it was given.
    Refused,
    /// It was not needed any more before it began.
    Dropped,
}

impl Why {
    /// Whether nothing more can come from it: what it did not report is gone.
    pub const fn is_silent(self) -> bool {
        matches!(
            self,
            Self::Lost | Self::Restarted | Self::Quarantined | Self::Refused | Self::Dropped
        )
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Restarted => "restarted",
            Self::Quarantined => "quarantined",
            Self::Fenced => "fenced",
            Self::Left => "left",
            Self::HandedOver => "handed_over",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Run time of the decision.
    pub at_us: u64,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub id: GrantId,
    /// They begin relative to `from_us`. Kept beside the record, since there can be thousands.
    #[serde(skip)]
    pub blocks: Vec<Block>,
    /// Run time at which it begins; `None` while it only prepares.
    pub from_us: Option<u64>,
    /// Number of the newest schedule by which it lets devices go.
    pub handover: u32,
    /// When that schedule begins, for a grant that takes from one that lives.
    pub base_us: Option<u64>,
    /// Whose devices these were.
    pub giver: Option<GrantId>,
    pub ended: Option<Ended>,
    /// All of its devices have found a taker, or need none.
    pub is_settled: bool,
}

impl Grant {
    fn new(id: GrantId, blocks: Vec<Block>, giver: Option<GrantId>) -> Self {
        let (from_us, base_us, ended) = (None, None, None);
        Self { id, blocks, from_us, handover: 0, base_us, giver, ended, is_settled: false }
    }

    /// What an agent holds that drives no devices, and begins with the run.
    pub fn of_no_devices(id: GrantId) -> Self {
        Self { from_us: Some(0), ..Self::new(id, Vec::new(), None) }
    }

    pub fn is_live(&self) -> bool {
        self.ended.is_none()
    }

    pub fn devices(&self) -> u64 {
        self.blocks.iter().map(Block::len).sum()
    }

    /// Run time at which a taker of `blocks` could begin if this grant is told to let go of all of
    /// them, each early enough for the taker's own pace.
    fn lets_go_us(&self, blocks: &[Block]) -> Option<u64> {
        let mut latest_us = 0;
        for block in blocks {
            for own in self.blocks.iter().filter(|own| own.overlaps(block)) {
                let until_us = Some(own.until_us).filter(|until_us| *until_us != u64::MAX)?;
                latest_us = latest_us.max(until_us.saturating_sub(block.from_us));
            }
        }
        Some(latest_us)
    }

    /// The blocks in run time; `None` if it never began. `handover` is the number of the schedule
    /// that its last report was made under: an older one was never promised.
    pub fn tenures(&self, handover: u32) -> Option<Shard> {
        let from_us = self.from_us?;
        let in_force = handover >= self.handover;
        let tenure = |block: &Block| Block {
            from_us: from_us + block.from_us,
            until_us: if in_force { block.until_us } else { u64::MAX },
            ..block.clone()
        };
        Some(Shard { blocks: self.blocks.iter().map(tenure).collect() })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Roster {
    pub grants: Vec<Grant>,
    pub moves: Vec<Move>,
    #[serde(default)]
    pub readers: Vec<Reader>,
    /// Most agents are silent at once, and what they hold is given to nobody.
    #[serde(default)]
    pub outage: Option<Outage>,
    epoch: u64,
}

/// What is known of an agent now.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSeen {
    pub id: AgentId,
    pub weight: f64,
    /// Devices that it can take on top of what it has.
    pub free: u64,
    pub is_connected: bool,
    /// Heard within three beats.
    pub is_alive: bool,
    /// Lease and grace have passed.
    pub is_lost: bool,
    /// It is not believed any more.
    pub is_quarantined: bool,
    /// It was asked to go and wants to hand over.
    pub is_leaving: bool,
    /// Run time of its last sign of life.
    pub heard_us: u64,
    /// Groups that are placed elsewhere.
    pub barred: BTreeSet<usize>,
}

impl AgentSeen {
    fn can_take(&self) -> bool {
        self.is_connected && self.is_alive && !self.is_leaving
    }
}

/// What an agent says of one grant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrantSeen {
    /// `Some(false)`: the process that is connected now does not hold it.
    pub is_held: Option<bool>,
    pub is_prepared: bool,
    pub is_refused: bool,
    /// Closed or fenced, at this run time.
    pub closed_at_us: Option<u64>,
    pub is_fenced: bool,
    /// The newest schedule that it promised, and the newest that came too late for it.
    pub handover: u32,
    pub handover_late: u32,
    /// Of a reader: run time up to which its word is stored.
    pub read_through_us: u64,
}

/// What the run asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    pub on_loss: OnAgentLoss,
    pub rebalance: bool,
    /// Devices a second.
    pub spawn_rate: f64,
    pub load_end_us: u64,
    /// The load goes on and nobody has asked for its end: devices may move.
    pub is_running: bool,
    /// What came of the load may still be read: shares may move.
    pub is_reading: bool,
}

impl Policy {
    /// Whether something that an agent holds is over before the load is. What was given at the start
    /// and is refused fails the start; only a taker can fail alone.
    fn fate(
        &self,
        agent: Option<&AgentSeen>,
        said: &GrantSeen,
        gave_all: bool,
        is_taker: bool,
    ) -> Option<Why> {
        // Who closes with the load is no loss, whatever its clock says.
        let is_early = |at_us: u64| self.is_running && at_us < self.load_end_us;
        match said.closed_at_us {
            Some(at_us) if is_early(at_us) => Some(match (said.is_fenced, gave_all) {
                (true, _) => Why::Fenced,
                (false, true) => Why::HandedOver,
                (false, false) => Why::Left,
            }),
            Some(_) => None,
            None if said.is_held == Some(false) => Some(Why::Restarted),
            None if agent.is_some_and(|agent| agent.is_lost) => {
                let is_quarantined = agent.is_some_and(|agent| agent.is_quarantined);
                Some(if is_quarantined { Why::Quarantined } else { Why::Lost })
            }
            None if said.is_refused && is_taker => Some(Why::Refused),
            None => None,
        }
    }
}

/// What a step changed: by position in [`Roster::grants`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub granted: BTreeSet<usize>,
    /// Their blocks are other ones now.
    pub cut: BTreeSet<usize>,
    pub began: BTreeSet<usize>,
    pub ended: BTreeSet<usize>,
    /// By position in [`Roster::readers`]: new ones, and those that are over.
    pub read: BTreeSet<usize>,
    pub unread: BTreeSet<usize>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        [&self.granted, &self.cut, &self.began, &self.ended, &self.read, &self.unread]
            .iter()
            .all(|changed| changed.is_empty())
    }
}

impl Roster {
    /// The grants dealt at the start of a run; they begin with it.
    pub fn dealt(shards: impl IntoIterator<Item = (AgentId, Shard)>) -> Self {
        let grant = |(agent, shard): (AgentId, Shard)| Grant {
            from_us: Some(0),
            ..Grant::new(GrantId { agent, epoch: 1 }, shard.blocks, None)
        };
        Self { grants: shards.into_iter().map(grant).collect(), epoch: 1, ..Self::default() }
    }

    /// Everything that was ever granted, of devices and of shares to read.
    pub fn ids(&self) -> impl Iterator<Item = GrantId> + '_ {
        let readers = self.readers.iter().map(|reader| reader.id.clone());
        self.grants.iter().map(|grant| grant.id.clone()).chain(readers)
    }

    pub fn grant(&self, id: &GrantId) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.id == *id)
    }

    /// Devices that nobody holds at `now_us`: those of an ended grant whose takers have not begun.
    pub fn without_agent(&self, now_us: u64) -> u64 {
        let waiting = |grant: &&Grant| grant.is_live() && grant.giver.is_some();
        let not_begun: u64 = self
            .grants
            .iter()
            .filter(waiting)
            .map(|grant| {
                let giver = grant.giver.as_ref().and_then(|giver| self.grant(giver));
                let giver_lives = giver.is_some_and(Grant::is_live);
                let is_waiting = |block: &&Block| match grant.from_us {
                    None => !giver_lives,
                    Some(from_us) => {
                        let begins = from_us + block.from_us;
                        let let_go = begins.saturating_sub(HANDOVER_GAP_US);
                        now_us < begins && (!giver_lives || now_us >= let_go)
                    }
                };
                grant.blocks.iter().filter(is_waiting).map(Block::len).sum::<u64>()
            })
            .sum();
        let orphans = (0..self.grants.len()).filter(|at| !self.grants[*at].is_settled);
        not_begun + orphans.flat_map(|at| self.orphans(at)).map(|block| block.len()).sum::<u64>()
    }

    /// Decides. `seen` tells what the agent of a grant says of it.
    pub fn step(
        &mut self,
        policy: &Policy,
        agents: &[AgentSeen],
        seen: impl Fn(&GrantId) -> GrantSeen,
        now_us: u64,
    ) -> Changes {
        let mut changes = Changes::default();
        let agents: BTreeMap<&AgentId, &AgentSeen> =
            agents.iter().map(|agent| (&agent.id, agent)).collect();
        self.end_the_gone(policy, &agents, &seen, now_us, &mut changes);
        // What kills agents is handed to nobody: for the run this is its end.
        let is_healthy = self.poisoned().is_none();
        let policy = &Policy {
            is_running: policy.is_running && is_healthy,
            is_reading: policy.is_reading && is_healthy,
            ..*policy
        };
        if policy.is_running && policy.on_loss == OnAgentLoss::Reassign {
            self.give_orphans(policy, &agents, now_us, &mut changes);
            self.hand_over(policy, &agents, now_us, &mut changes);
            self.schedule(&seen, now_us, &mut changes);
            self.begin(&seen, now_us, &mut changes);
        }
        if !policy.is_running {
            self.drop_unneeded(now_us, &mut changes);
        }
        self.step_readers(policy, &agents, &seen, now_us, &mut changes);
        changes
    }

    /// Who drives the devices that a grant is to take, or drove them last: takers that were over
    /// before they began are passed over.
    fn holder(&self, grant: &Grant) -> Option<&Grant> {
        let mut giver = self.grant(grant.giver.as_ref()?)?;
        while giver.from_us.is_none() {
            giver = self.grant(giver.giver.as_ref()?)?;
        }
        Some(giver)
    }

    /// Takers that are prepared begin as soon as their giver has let go or is over.
    fn begin(&mut self, seen: &impl Fn(&GrantId) -> GrantSeen, now_us: u64, changes: &mut Changes) {
        for at in 0..self.grants.len() {
            let grant = &self.grants[at];
            if !grant.is_live() || grant.from_us.is_some() || !seen(&grant.id).is_prepared {
                continue;
            }
            let Some(holder) = self.holder(grant) else { continue };
            let lets_go_us = holder.lets_go_us(&grant.blocks);
            let has_promised = seen(&holder.id).handover >= holder.handover;
            if holder.is_live() && (lets_go_us.is_none() || !has_promised) {
                continue;
            }
            let let_go_us = lets_go_us.map_or(0, |lets_go_us| lets_go_us + HANDOVER_GAP_US);
            let from_us = let_go_us.max(now_us + TAKE_LEAD_US);
            let last_us = grant.blocks.iter().map(|block| block.from_us).max().unwrap_or(0);
            self.grants[at].from_us = Some(from_us);
            changes.began.insert(at);
            self.note_begin(at, from_us + last_us);
        }
    }

    fn drop_unneeded(&mut self, now_us: u64, changes: &mut Changes) {
        for at in 0..self.grants.len() {
            if self.grants[at].is_live() && self.grants[at].from_us.is_none() {
                self.end(at, Why::Dropped, now_us, changes);
            }
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
