//! Who strained, and when: an agent's spells as reasons.
//!
//! Every missed slot and everything that ran out is told. Late windows are told once they are more than
//! chance; causes only where their effect is. Invariant: no more than [`MOST_TOLD`] of one kind, the worst.

use super::AgentHealth;
use crate::report::ValidityReason;
use crate::run::Validity;
use crate::strain::{Spell, Strain};

/// Spells of one kind that stand in a document, over all agents.
pub(super) const MOST_TOLD: usize = 20;
/// An agent is late for more than this share of its windows, and at least so many, or it is chance.
const LATE_SHARE: f64 = 0.01;
const LATE_WINDOWS: u64 = 5;

/// From the first to behind the last window of the fleet that strained so.
pub(super) fn hull(agents: &[AgentHealth], strain: Strain) -> (Option<u64>, Option<u64>) {
    hull_of(agents.iter().flat_map(|agent| &agent.spells), strain)
}

/// The same of one agent.
pub(super) fn span_of(agent: &AgentHealth, strain: Strain) -> (Option<u64>, Option<u64>) {
    hull_of(agent.spells.iter(), strain)
}

fn hull_of<'s>(
    spells: impl Iterator<Item = &'s Spell> + Clone,
    strain: Strain,
) -> (Option<u64>, Option<u64>) {
    let spells = spells.filter(|spell| spell.strain == strain);
    let last = spells.clone().map(|spell| spell.last_window.saturating_add(1)).max();
    (spells.map(|spell| spell.first_window).min(), last)
}

pub(super) fn reasons(agents: &[AgentHealth]) -> Vec<(Validity, ValidityReason)> {
    let mut reasons = Vec::new();
    for strain in Strain::ALL {
        // What ran out is told in one sentence an agent, see above.
        if strain == Strain::Exhausted {
            continue;
        }
        let told = |agent: &AgentHealth| match strain {
            Strain::Late => is_late(agent),
            // Nothing but an effect that is told needs an explanation.
            _ if strain.is_cause() => {
                is_late(agent) || agent.spells.iter().any(|spell| spell.strain == Strain::Missed)
            }
            _ => true,
        };
        let mut spells: Vec<(&str, &Spell)> = agents
            .iter()
            .filter(|agent| told(agent))
            .flat_map(|agent| agent.spells.iter().map(|spell| (agent.agent.as_str(), spell)))
            .filter(|(_, spell)| spell.strain == strain)
            .collect();
        spells.sort_by_key(|(_, spell)| std::cmp::Reverse(spell.amount));
        spells.truncate(MOST_TOLD);
        spells.sort_by_key(|(agent, spell)| (spell.first_window, *agent));
        reasons.extend(spells.into_iter().map(|(agent, spell)| reason(agent, spell)));
    }
    reasons
}

fn is_late(agent: &AgentHealth) -> bool {
    let late = agent.spells.iter().filter(|spell| spell.strain == Strain::Late);
    let windows: u64 = late.map(|spell| spell.windows).fold(0, u64::saturating_add);
    windows >= LATE_WINDOWS && windows as f64 > agent.windows as f64 * LATE_SHARE
}

fn reason(agent: &str, spell: &Spell) -> (Validity, ValidityReason) {
    let amount = spell.amount;
    let percent = format!("up to {} % of the time", amount / 10);
    let (code, what) = match spell.strain {
        Strain::Missed => ("missed_slots", format!("agent {agent} slept through {amount} slots")),
        Strain::Late => {
            ("send_lag", format!("agent {agent} sent late, by up to {} ms", amount / 1_000))
        }
        Strain::Exhausted => {
            ("generator_exhausted", format!("agent {agent} ran out of something {amount} times"))
        }
        Strain::Waited => (
            "run_queue_delay",
            format!("agent {agent}: its threads waited for a processor {percent}"),
        ),
        Strain::Pressure => (
            "cpu_pressure",
            format!("agent {agent}: something on its machine waited for a processor {percent}"),
        ),
        Strain::Stolen => (
            "cpu_steal",
            format!("agent {agent}: its machine's processors ran for others {percent}"),
        ),
        Strain::Throttled => (
            "cpu_throttled",
            format!("agent {agent}: its container's share of the processors was used up {percent}"),
        ),
    };
    let reason = ValidityReason {
        code: code.to_owned(),
        agent: Some(agent.to_owned()),
        from_s: Some(spell.first_window),
        to_s: Some(spell.last_window.saturating_add(1)),
        text: what,
    };
    (Validity::Degraded, reason)
}
