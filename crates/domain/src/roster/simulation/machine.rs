//! One machine with an agent, seen from both ends of its connection.
//!
//! It keeps the rules that a real one keeps: a lease from the send time of the newest acked beat, no send
//! without it, promises on its own clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// What an agent holds of one grant.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) grant: Grant,
    pub(super) prepared_us: u64,
    pub(super) lease_until_us: u64,
    pub(super) handover: u32,
    pub(super) handover_late: u32,
    pub(super) closed: Option<(u64, bool)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// Up: a beat with everything that is held.
    Beat { sent_us: u64, leaving: bool, observed: Vec<(GrantId, GrantSeen)> },
    /// Down: which grants a beat renews.
    Ack { sent_us: u64, renewed: Vec<GrantId> },
    /// Down: all that is to be held.
    Desired(Vec<Grant>),
}

/// A machine with an agent, seen from both ends of its connection.
pub(super) struct Machine {
    pub(super) name: AgentId,
    pub(super) is_up: bool,
    pub(super) frozen_until_us: u64,
    pub(super) cut_until_us: u64,
    pub(super) is_leaving: bool,
    pub(super) held: BTreeMap<GrantId, Held>,
    pub(super) next_beat_us: u64,
    /// Words on their way, with the time of arrival; the connection keeps their order.
    pub(super) up: VecDeque<(u64, Word)>,
    pub(super) down: VecDeque<(u64, Word)>,
    /// The session as the control plane has it.
    pub(super) is_joined: bool,
    pub(super) heard_us: u64,
    pub(super) leaving_heard: bool,
    pub(super) desired: BTreeMap<GrantId, Grant>,
    pub(super) observed: BTreeMap<GrantId, GrantSeen>,
}

impl Machine {
    pub(super) fn new(n: usize) -> Self {
        Self {
            name: format!("agent-{n}").parse().unwrap(),
            is_up: true,
            frozen_until_us: 0,
            cut_until_us: 0,
            is_leaving: false,
            held: BTreeMap::new(),
            next_beat_us: 0,
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_joined: false,
            heard_us: 0,
            leaving_heard: false,
            desired: BTreeMap::new(),
            observed: BTreeMap::new(),
        }
    }

    pub(super) fn runs(&self, now_us: u64) -> bool {
        self.is_up && now_us >= self.frozen_until_us
    }

    pub(super) fn reaches(&self, now_us: u64) -> bool {
        self.is_up && now_us >= self.cut_until_us
    }

    pub(super) fn hang_up(&mut self) {
        self.up.clear();
        self.down.clear();
        self.is_joined = false;
        self.leaving_heard = false;
    }

    pub(super) fn die(&mut self) {
        self.is_up = false;
        self.held.clear();
        self.hang_up();
    }

    /// A hello: what the process does not hold died with the one before it.
    pub(super) fn join(&mut self, now_us: u64) {
        self.is_joined = true;
        self.heard_us = now_us;
        self.observed = self.said();
        let held = &self.held;
        self.desired.retain(|id, _| held.contains_key(id));
    }

    fn said(&self) -> BTreeMap<GrantId, GrantSeen> {
        let seen = |held: &Held| GrantSeen {
            is_prepared: held.closed.is_none(),
            closed_at_us: held.closed.map(|(at_us, _)| at_us),
            is_fenced: held.closed.is_some_and(|(_, is_fenced)| is_fenced),
            handover: held.handover,
            handover_late: held.handover_late,
            ..GrantSeen::default()
        };
        let is_ready = |held: &&Held| held.prepared_us == 0;
        self.held
            .values()
            .filter(is_ready)
            .map(|held| (held.grant.id.clone(), seen(held)))
            .collect()
    }

    /// What the process does by itself.
    pub(super) fn live(&mut self, now_us: u64, dice: &mut Dice) {
        for held in self.held.values_mut() {
            if held.prepared_us <= now_us {
                held.prepared_us = 0;
            }
            if held.closed.is_none() && now_us >= held.lease_until_us {
                held.closed = Some((held.lease_until_us, true));
            }
            let last_us = held.grant.blocks.iter().map(|block| block.until_us).max();
            if held.closed.is_none() && last_us.is_some_and(|last_us| last_us < now_us) {
                held.closed = Some((last_us.unwrap_or(now_us), false));
            }
        }
        while self.down.front().is_some_and(|(at_us, _)| *at_us <= now_us) {
            let Some((_, word)) = self.down.pop_front() else { return };
            self.hear(word, now_us, dice);
        }
        if now_us >= self.next_beat_us && self.is_joined {
            self.next_beat_us = now_us + BEAT_US;
            let observed = self.said().into_iter().collect();
            let word = Word::Beat { sent_us: now_us, leaving: self.is_leaving, observed };
            send(&mut self.up, now_us, word, dice);
        }
    }

    fn hear(&mut self, word: Word, now_us: u64, dice: &mut Dice) {
        match word {
            Word::Beat { .. } => {}
            Word::Ack { sent_us, renewed } => {
                for id in renewed {
                    if let Some(held) = self.held.get_mut(&id) {
                        held.lease_until_us = held.lease_until_us.max(sent_us + LEASE_US);
                    }
                }
            }
            Word::Desired(grants) => {
                let wanted: BTreeSet<&GrantId> = grants.iter().map(|grant| &grant.id).collect();
                // Taken back: it stops at once.
                self.held.retain(|id, _| wanted.contains(id));
                for grant in grants {
                    self.take(grant, now_us, dice);
                }
            }
        }
    }

    fn take(&mut self, grant: Grant, now_us: u64, dice: &mut Dice) {
        let Some(held) = self.held.get_mut(&grant.id) else {
            let prepared_us = now_us + 1 + dice.roll(2_000_000);
            // The lease of a new grant runs from the word that gave it.
            let lease_until_us = now_us + LEASE_US / 2;
            let (handover, handover_late, closed) = (grant.handover, 0, None);
            let id = grant.id.clone();
            let held = Held { grant, prepared_us, lease_until_us, handover, handover_late, closed };
            self.held.insert(id, held);
            return;
        };
        if grant.handover > held.handover.max(held.handover_late) {
            let first_us = grant.blocks.iter().map(|block| block.until_us).min().unwrap_or(0);
            if first_us > now_us {
                held.handover = grant.handover;
                held.grant.blocks = grant.blocks;
            } else {
                held.handover_late = grant.handover;
            }
        }
        held.grant.from_us = grant.from_us;
    }

    /// Every device that it sends for now.
    pub(super) fn drives(&self, now_us: u64, mut device: impl FnMut(u64)) {
        if !self.runs(now_us) {
            return;
        }
        for held in self.held.values() {
            let may = held.prepared_us == 0 && held.closed.is_none();
            let Some(from_us) = held.grant.from_us.filter(|_| may && now_us < held.lease_until_us)
            else {
                continue;
            };
            for block in &held.grant.blocks {
                if (from_us + block.from_us..block.until_us).contains(&now_us) {
                    block.devices.clone().for_each(&mut device);
                }
            }
        }
    }

    /// What the control plane takes in.
    pub(super) fn listen(&mut self, now_us: u64, dice: &mut Dice) {
        while self.up.front().is_some_and(|(at_us, _)| *at_us <= now_us) {
            let Some((_, Word::Beat { sent_us, leaving, observed })) = self.up.pop_front() else {
                continue;
            };
            self.heard_us = now_us;
            self.leaving_heard = leaving;
            self.observed.extend(observed);
            let renewed = self.desired.keys().cloned().collect();
            send(&mut self.down, now_us, Word::Ack { sent_us, renewed }, dice);
        }
    }

    pub(super) fn seen(&self, now_us: u64) -> AgentSeen {
        let silent_us = now_us - self.heard_us;
        AgentSeen {
            id: self.name.clone(),
            weight: 1.0,
            free: 10_000,
            is_connected: self.is_joined,
            is_alive: silent_us < 3 * BEAT_US,
            is_quarantined: false,
            is_lost: silent_us >= LEASE_US + GRACE_US,
            is_leaving: self.leaving_heard,
            heard_us: self.heard_us,
            barred: BTreeSet::new(),
        }
    }
}

pub(super) fn send(queue: &mut VecDeque<(u64, Word)>, now_us: u64, word: Word, dice: &mut Dice) {
    let earliest_us = queue.back().map_or(0, |(at_us, _)| *at_us);
    queue.push_back(((now_us + dice.roll(400_000)).max(earliest_us), word));
}
