//! A fleet in a world that goes wrong, by seed: agents die, restart, freeze, lose their network or
//! leave, words come late or never, the control plane forgets what it was told.
//!
//! The agents here keep the rules that real ones keep (a lease from the send time of the newest
//! acked beat, no send without it, promises on their own clock); who holds what is decided by the
//! real [`Roster`]. Invariants: no device is driven twice at one time, whatever happens; and when
//! the world is calm again, every device is driven.
//!
//! `SHOAL_SEEDS=10000 cargo test --workspace --lib roster` plays more of them; a failure names its
//! seed, and `SHOAL_SEED=N` plays that one alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

const STEP_US: u64 = 100_000;
const BEAT_US: u64 = 2_000_000;
const LEASE_US: u64 = 20_000_000;
const GRACE_US: u64 = 10_000_000;
/// Trouble until then, and calm for longer than a lease, its grace and all moves after it.
const TROUBLE_US: u64 = 120_000_000;
const END_US: u64 = 240_000_000;
const DEVICES: u64 = 90;
const AGENTS: usize = 3;

/// Small, seeded and the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

/// What an agent holds of one grant.
#[derive(Debug, Clone)]
struct Held {
    grant: Grant,
    prepared_us: u64,
    lease_until_us: u64,
    handover: u32,
    handover_late: u32,
    closed: Option<(u64, bool)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Word {
    /// Up: a beat with everything that is held.
    Beat { sent_us: u64, leaving: bool, observed: Vec<(GrantId, GrantSeen)> },
    /// Down: which grants a beat renews.
    Ack { sent_us: u64, renewed: Vec<GrantId> },
    /// Down: all that is to be held.
    Desired(Vec<Grant>),
}

/// A machine with an agent, seen from both ends of its connection.
struct Machine {
    name: AgentId,
    is_up: bool,
    frozen_until_us: u64,
    cut_until_us: u64,
    is_leaving: bool,
    held: BTreeMap<GrantId, Held>,
    next_beat_us: u64,
    /// Words on their way, with the time of arrival; the connection keeps their order.
    up: VecDeque<(u64, Word)>,
    down: VecDeque<(u64, Word)>,
    /// The session as the control plane has it.
    is_joined: bool,
    heard_us: u64,
    leaving_heard: bool,
    desired: BTreeMap<GrantId, Grant>,
    observed: BTreeMap<GrantId, GrantSeen>,
}

impl Machine {
    fn new(n: usize) -> Self {
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

    fn runs(&self, now_us: u64) -> bool {
        self.is_up && now_us >= self.frozen_until_us
    }

    fn reaches(&self, now_us: u64) -> bool {
        self.is_up && now_us >= self.cut_until_us
    }

    fn hang_up(&mut self) {
        self.up.clear();
        self.down.clear();
        self.is_joined = false;
        self.leaving_heard = false;
    }

    fn die(&mut self) {
        self.is_up = false;
        self.held.clear();
        self.hang_up();
    }

    /// A hello: what the process does not hold died with the one before it.
    fn join(&mut self, now_us: u64) {
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
    fn live(&mut self, now_us: u64, dice: &mut Dice) {
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

    /// Devices that it sends for now.
    fn drives(&self, now_us: u64) -> Vec<u64> {
        if !self.runs(now_us) {
            return Vec::new();
        }
        let mut devices = Vec::new();
        for held in self.held.values() {
            let may = held.prepared_us == 0 && held.closed.is_none();
            let Some(from_us) = held.grant.from_us.filter(|_| may && now_us < held.lease_until_us)
            else {
                continue;
            };
            for block in &held.grant.blocks {
                if (from_us + block.from_us..block.until_us).contains(&now_us) {
                    devices.extend(block.devices.clone());
                }
            }
        }
        devices
    }

    /// What the control plane takes in.
    fn listen(&mut self, now_us: u64, dice: &mut Dice) {
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

    fn seen(&self, now_us: u64) -> AgentSeen {
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

fn send(queue: &mut VecDeque<(u64, Word)>, now_us: u64, word: Word, dice: &mut Dice) {
    let earliest_us = queue.back().map_or(0, |(at_us, _)| *at_us);
    queue.push_back(((now_us + dice.roll(400_000)).max(earliest_us), word));
}

struct World {
    machines: Vec<Machine>,
    roster: Roster,
    dice: Dice,
    policy: Policy,
    /// The control plane is away until then.
    away_until_us: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let machines: Vec<Machine> = (0..AGENTS).map(Machine::new).collect();
        let share = DEVICES / AGENTS as u64;
        let shards = machines.iter().enumerate().map(|(n, machine)| {
            let first = n as u64 * share;
            (machine.name.clone(), Shard { blocks: vec![Block::new(0, first..first + share)] })
        });
        let roster = Roster::dealt(shards);
        let policy = Policy {
            on_loss: OnAgentLoss::Reassign,
            rebalance: dice.one_in(2),
            spawn_rate: 20.0,
            load_end_us: u64::MAX,
            is_running: true,
            is_reading: false,
        };
        Self { machines, roster, dice, policy, away_until_us: 0 }
    }

    fn disturb(&mut self, now_us: u64) {
        let dice = &mut self.dice;
        if dice.one_in(600) {
            // A new process: it knows the roster from its store, and nothing else.
            self.away_until_us = now_us + dice.roll(15_000_000);
            for machine in &mut self.machines {
                machine.hang_up();
                machine.observed.clear();
                machine.heard_us = self.away_until_us;
            }
        }
        for machine in &mut self.machines {
            match dice.roll(2_400) {
                0 => machine.die(),
                1 | 2 => machine.frozen_until_us = now_us + dice.roll(45_000_000),
                3 | 4 => {
                    machine.cut_until_us = now_us + dice.roll(60_000_000);
                    machine.hang_up();
                }
                5 => machine.is_leaving = true,
                _ => {}
            }
            if !machine.is_up && dice.one_in(100) {
                machine.is_up = true;
                machine.is_leaving = false;
                machine.frozen_until_us = 0;
            }
        }
    }

    fn calm_down(&mut self) {
        for machine in &mut self.machines {
            machine.is_up = true;
            machine.is_leaving = false;
            (machine.frozen_until_us, machine.cut_until_us) = (0, 0);
        }
        self.away_until_us = 0;
    }

    fn step(&mut self, now_us: u64) {
        for machine in &mut self.machines {
            if machine.runs(now_us) {
                machine.live(now_us, &mut self.dice);
            }
        }
        if now_us < self.away_until_us {
            return;
        }
        for machine in &mut self.machines {
            if !machine.is_joined && machine.reaches(now_us) && machine.runs(now_us) {
                machine.join(now_us);
                let wanted = machine.desired.values().cloned().collect();
                send(&mut machine.down, now_us, Word::Desired(wanted), &mut self.dice);
            }
            // A frozen process keeps its connection for a while, and says nothing.
            machine.listen(now_us, &mut self.dice);
        }
        let mut said: BTreeMap<GrantId, GrantSeen> = BTreeMap::new();
        for id in self.roster.ids() {
            let Some(machine) = self.machines.iter().find(|m| m.name == id.agent) else { continue };
            let mut seen = machine.observed.get(&id).copied().unwrap_or_default();
            let is_known = machine.is_joined && self.roster.grant(&id).is_some_and(Grant::is_live);
            seen.is_held = is_known.then(|| machine.desired.contains_key(&id));
            said.insert(id, seen);
        }
        // At the very first nobody has been given anything.
        if now_us == 0 {
            said.values_mut().for_each(|seen| seen.is_held = None);
        }
        let agents: Vec<AgentSeen> = self.machines.iter().map(|m| m.seen(now_us)).collect();
        let seen = |id: &GrantId| said.get(id).copied().unwrap_or_default();
        self.roster.step(&self.policy, &agents, seen, now_us);
        self.tell(now_us);
    }

    /// Brings what agents should hold up to the roster.
    fn tell(&mut self, now_us: u64) {
        for machine in &mut self.machines {
            let live =
                self.roster.grants.iter().filter(|g| g.is_live() && g.id.agent == machine.name);
            let wanted: BTreeMap<GrantId, Grant> =
                live.map(|grant| (grant.id.clone(), grant.clone())).collect();
            if wanted != machine.desired {
                machine.observed.retain(|id, _| wanted.contains_key(id));
                machine.desired = wanted;
                if machine.is_joined {
                    let grants = machine.desired.values().cloned().collect();
                    send(&mut machine.down, now_us, Word::Desired(grants), &mut self.dice);
                }
            }
        }
    }

    /// One line a grant.
    fn history(&self) -> String {
        let mut text = String::new();
        for grant in &self.roster.grants {
            let devices: Vec<String> = grant
                .blocks
                .iter()
                .map(|block| format!("{:?}@{}..{}", block.devices, block.from_us, block.until_us))
                .collect();
            let (id, from, giver, ended) = (&grant.id, grant.from_us, &grant.giver, &grant.ended);
            let giver = giver.as_ref().map(ToString::to_string);
            let base = grant.base_us;
            let line = format!("\n{id} from {from:?} base {base:?} giver {giver:?} {ended:?}: ");
            text.push_str(&line);
            text.push_str(&devices.join(" "));
        }
        for machine in &self.machines {
            let held: Vec<String> = machine
                .held
                .values()
                .map(|held| {
                    format!("{} lease {} {:?}", held.grant.id, held.lease_until_us, held.closed)
                })
                .collect();
            text.push_str(&format!("\n{} holds {held:?}", machine.name));
        }
        text
    }

    fn drives(&self, now_us: u64) -> BTreeMap<u64, AgentId> {
        let mut driven: BTreeMap<u64, AgentId> = BTreeMap::new();
        for machine in &self.machines {
            for device in machine.drives(now_us) {
                let before = driven.insert(device, machine.name.clone());
                assert_eq!(
                    before,
                    None,
                    "device {device} of {} twice at {now_us}: {}",
                    machine.name,
                    self.history()
                );
            }
        }
        driven
    }
}

/// Whether it ended in what kills agents.
fn play(seed: u64) -> bool {
    let mut world = World::new(seed);
    let mut now_us = 0;
    while now_us < END_US {
        if now_us < TROUBLE_US {
            world.disturb(now_us);
        } else if now_us == TROUBLE_US {
            world.calm_down();
        }
        world.step(now_us);
        let driven = world.drives(now_us);
        assert!(driven.len() as u64 <= DEVICES);
        now_us += STEP_US;
    }
    // Two deaths right after the begin, one after the other: nobody else gets those devices.
    if world.roster.poisoned().is_some() {
        return true;
    }
    let driven = world.drives(END_US);
    assert_eq!(driven.len() as u64, DEVICES, "all are driven in the end: {}", world.history());
    false
}

#[test]
fn no_device_is_ever_driven_twice_and_in_the_end_all_are_driven() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SHOAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SHOAL_SEEDS").unwrap_or(200),
    };
    let (mut n, mut n_poisoned) = (0, 0);
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(seed));
        let is_poisoned =
            played.unwrap_or_else(|_| panic!("seed {seed}: play it alone with SHOAL_SEED={seed}"));
        (n, n_poisoned) = (n + 1, n_poisoned + u32::from(is_poisoned));
    }
    // Chance alone must not look like it often, even where something dies every few seconds.
    assert!(n < 100 || n_poisoned < n / 4, "{n_poisoned} of {n} worlds were given up");
}
