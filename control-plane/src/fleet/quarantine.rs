//! Agents that are not believed any more, and what is not believed of any.
//!
//! An agent that reported what cannot be is sent away: no session, no leases, no devices, and nothing
//! that it uploads is taken. Those that it had go to others once its lease and grace have passed, as
//! with one that is lost. Only an operator lifts it: it is stored, and taken up again after a restart.

use shoal_domain::ids::AgentId;
use shoal_proto::v1;

use super::{Agent, Fleet};
use crate::refusal::{Kind, Refusal};

/// No agent weighs more, in cores.
const MOST_WEIGHT: f64 = 4_096.0;
/// No agent drives more devices.
const MOST_DEVICES: u64 = 100_000_000;
const MOST_LABELS: usize = 64;
const MOST_TEXT: usize = 300;
/// Assignments in an inventory, positions in an observation.
const MOST_LISTED: usize = 1_024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    pub why: String,
    pub since_us: u64,
    /// Reports that were not taken, the first one included.
    pub n_refused: u64,
}

impl Quarantine {
    /// For people.
    pub fn sentence(&self) -> String {
        let n = self.n_refused;
        format!("it reported {}; {n} report(s) were not taken", self.why)
    }

    pub(super) fn refusal(&self, id: &AgentId) -> Refusal {
        let message = format!("agent `{id}` is quarantined: it reported {}", self.why);
        Refusal::new(Kind::Conflict, "SH0412", message)
            .help(format!("once it is right again: `shoal agent drain {id} --undo`"))
    }
}

impl Fleet {
    /// Does not believe an agent any more; `true` if it was believed until now. Otherwise one more
    /// report of it is counted.
    pub fn quarantine(&self, id: &AgentId, why: &str, now_us: u64) -> bool {
        let mut state = self.lock();
        if let Some(known) = state.quarantined.get_mut(id) {
            known.n_refused += 1;
            return false;
        }
        let quarantine = Quarantine { why: cut(why), since_us: now_us, n_refused: 1 };
        state.quarantined.insert(id.clone(), quarantine);
        // Without its sender the session ends, and with it the renewal of its leases.
        if let Some(agent) = state.agents.get_mut(id) {
            agent.session = None;
        }
        drop(state);
        self.changed();
        true
    }

    /// Takes up what was decided before this process began. Its last lease may still run: it counts as
    /// heard now.
    pub fn resume_quarantine(&self, id: AgentId, why: &str, since_us: u64, now_us: u64) {
        let quarantine = Quarantine { why: cut(why), since_us, n_refused: 0 };
        let mut state = self.lock();
        state.agents.entry(id.clone()).or_insert_with(|| Agent::awaited(now_us));
        state.quarantined.entry(id).or_insert(quarantine);
    }

    /// Counts a report of an agent that is not believed; `false`: it is.
    pub fn refuses(&self, id: &AgentId) -> bool {
        let mut state = self.lock();
        let known = state.quarantined.get_mut(id);
        known.map(|known| known.n_refused += 1).is_some()
    }

    /// Believes it again.
    pub fn lift_quarantine(&self, id: &AgentId) {
        self.lock().quarantined.remove(id);
        self.changed();
    }

    /// Whose process this is: only an agent and this process know its incarnation.
    pub fn who(&self, incarnation: &str) -> Option<AgentId> {
        let state = self.lock();
        let of = |(id, agent): (&AgentId, &Agent)| {
            (!incarnation.is_empty() && agent.incarnation == incarnation).then(|| id.clone())
        };
        state.agents.iter().find_map(of)
    }
}

/// What an agent says of itself, within bounds.
pub(super) fn sane(mut hello: v1::Hello) -> v1::Hello {
    if let Some(capacity) = &mut hello.capacity {
        let finite =
            |number: f64| if number.is_finite() { number.clamp(0.0, MOST_WEIGHT) } else { 0.0 };
        (capacity.weight, capacity.cores) = (finite(capacity.weight), finite(capacity.cores));
        capacity.max_devices = capacity.max_devices.min(MOST_DEVICES);
    }
    if let Some(host) = &mut hello.host {
        for text in [&mut host.name, &mut host.system, &mut host.kernel, &mut host.processor] {
            *text = cut(text);
        }
    }
    hello.build = cut(&hello.build);
    hello.labels = hello
        .labels
        .into_iter()
        .take(MOST_LABELS)
        .map(|(name, value)| (cut(&name), cut(&value)))
        .collect();
    hello.inventory.truncate(MOST_LISTED);
    hello.inventory = hello.inventory.into_iter().map(sane_observed).collect();
    hello
}

pub(super) fn sane_observed(mut observed: v1::Observed) -> v1::Observed {
    observed.error_code = cut(&observed.error_code);
    observed.error = cut(&observed.error);
    observed.plan_hash.truncate(32);
    observed.positions.truncate(MOST_LISTED);
    observed
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MOST_TEXT)].to_owned()
}
