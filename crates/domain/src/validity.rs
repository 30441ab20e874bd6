//! Can the numbers be trusted? The generator convicts itself, by coded reasons.
//!
//! A stall of the generator, descriptors or ports that ran out, a lost agent and sums that do not
//! hold are our faults, never the target's. `docs/validity.md` explains each code.

use crate::delta::Health;
use crate::report::ValidityReason;
use crate::roster::{Move, Why};
use crate::run::Validity;

/// Missed slots above this share of the planned ones make a run INVALID; any make it DEGRADED.
const MISSED_LIMIT: f64 = 0.01;
/// p99 of send lag: above the first DEGRADED, above the second INVALID.
const LAG_LIMITS_US: (u64, u64) = (50_000, 500_000);
/// Descriptor and port errors above this share of all attempts make a run INVALID.
const EXHAUSTION_LIMIT: f64 = 0.0001;

/// What one agent says of itself over the whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentHealth {
    pub agent: String,
    pub health: Health,
    /// `Some(false)`: its closing totals differ from what was stored.
    pub totals_proved: Option<bool>,
}

/// What the whole fleet did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FleetHealth {
    pub planned: u64,
    pub missed: u64,
    /// Slots of devices that no agent held, once the run is over.
    pub unassigned: u64,
    pub attempts: u64,
    pub lag_p99_us: Option<u64>,
    /// Planned − classed; must be 0 once the run is over.
    pub residual: i64,
}

/// A stretch of run time in which an observer did not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blindness {
    pub observer: String,
    pub from_us: u64,
    pub to_us: u64,
    pub why: String,
}

/// All reasons with their weight, and the validity they add up to.
pub fn assess(
    fleet: &FleetHealth,
    agents: &[AgentHealth],
    moves: &[Move],
    storage_gaps: &[String],
    blind: &[Blindness],
) -> (Validity, Vec<ValidityReason>) {
    let mut findings: Vec<(Validity, ValidityReason)> = Vec::new();
    let mut find = |validity, code: &str, agent: Option<&str>, from_us: Option<u64>, text| {
        let reason = ValidityReason {
            code: code.to_owned(),
            agent: agent.map(str::to_owned),
            from_s: from_us.map(|us| us / 1_000_000),
            to_s: None,
            text,
        };
        findings.push((validity, reason));
    };
    let ratio = |n: u64, of: u64| if of == 0 { 0.0 } else { n as f64 / of as f64 };

    if fleet.residual != 0 {
        let text = format!("{} planned slots ended in no class or in two", fleet.residual);
        find(Validity::Invalid, "slots_do_not_add_up", None, None, text);
    }
    if fleet.missed > 0 {
        let share = ratio(fleet.missed, fleet.planned);
        let validity = if share > MISSED_LIMIT { Validity::Invalid } else { Validity::Degraded };
        let text = format!(
            "the generator slept through {} of {} planned slots",
            fleet.missed, fleet.planned
        );
        find(validity, "missed_slots", None, None, text);
    }
    if fleet.unassigned > 0 {
        let text = format!(
            "no agent held the devices of {} of {} planned slots",
            fleet.unassigned, fleet.planned
        );
        find(Validity::Degraded, "unassigned_slots", None, None, text);
    }
    if let Some(lag) = fleet.lag_p99_us.filter(|lag| *lag > LAG_LIMITS_US.0) {
        let validity = if lag > LAG_LIMITS_US.1 { Validity::Invalid } else { Validity::Degraded };
        let text = format!("the generator sent late: p99 of send lag is {} ms", lag / 1_000);
        find(validity, "send_lag", None, None, text);
    }
    for moved in moves {
        let code = match moved.why {
            Why::HandedOver => "devices_handed_over",
            _ => "agent_lost",
        };
        let name = moved.giver.agent.as_str();
        find(Validity::Degraded, code, Some(name), Some(moved.from_us), moved.sentence());
    }
    for gap in storage_gaps {
        find(Validity::Degraded, "storage_gap", None, None, gap.clone());
    }
    for agent in agents {
        let name = Some(agent.agent.as_str());
        if agent.totals_proved == Some(false) {
            let text =
                format!("agent {}: stored deltas differ from its closing totals", agent.agent);
            find(Validity::Degraded, "storage_gap", name, None, text);
        }
        let exhausted = agent.health.descriptor_errors + agent.health.port_errors;
        if exhausted > 0 {
            let share = ratio(exhausted, fleet.attempts);
            let validity =
                if share > EXHAUSTION_LIMIT { Validity::Invalid } else { Validity::Degraded };
            let text = format!(
                "agent {} ran out of descriptors {} times and of ports {} times",
                agent.agent, agent.health.descriptor_errors, agent.health.port_errors
            );
            find(validity, "generator_exhausted", name, None, text);
        }
    }
    for gap in blind {
        let text = format!(
            "observer {} did not read from {} s to {} s: {}; what did not arrive then is lost_possible",
            gap.observer,
            gap.from_us / 1_000_000,
            gap.to_us.div_ceil(1_000_000),
            gap.why
        );
        find(Validity::Degraded, "reader_gap", None, Some(gap.from_us), text);
    }
    let validity = findings.iter().map(|(validity, _)| *validity).max().unwrap_or(Validity::Valid);
    (validity, findings.into_iter().map(|(_, reason)| reason).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(health: Health) -> AgentHealth {
        AgentHealth { agent: "a".into(), health, totals_proved: Some(true) }
    }

    fn fleet(missed: u64) -> FleetHealth {
        FleetHealth {
            planned: 1_000,
            missed,
            unassigned: 0,
            attempts: 1_000,
            lag_p99_us: Some(900),
            residual: 0,
        }
    }

    #[test]
    fn a_healthy_generator_leaves_the_run_valid() {
        assert_eq!(
            assess(&fleet(0), &[agent(Health::default())], &[], &[], &[]),
            (Validity::Valid, vec![])
        );
    }

    #[test]
    fn few_missed_slots_degrade_and_many_invalidate() {
        assert_eq!(assess(&fleet(10), &[], &[], &[], &[]).0, Validity::Degraded);
        assert_eq!(assess(&fleet(11), &[], &[], &[], &[]).0, Validity::Invalid);
    }

    #[test]
    fn slots_that_do_not_add_up_invalidate() {
        let (validity, reasons) =
            assess(&FleetHealth { residual: -1, ..fleet(0) }, &[], &[], &[], &[]);
        assert_eq!(
            (validity, reasons[0].code.as_str()),
            (Validity::Invalid, "slots_do_not_add_up")
        );
    }

    #[test]
    fn devices_that_nobody_held_degrade_even_when_no_agent_was_lost() {
        let (validity, reasons) =
            assess(&FleetHealth { unassigned: 7, ..fleet(0) }, &[], &[], &[], &[]);
        assert_eq!((validity, reasons[0].code.as_str()), (Validity::Degraded, "unassigned_slots"));
    }

    #[test]
    fn a_lost_agent_degrades_and_says_how_many_devices_were_without_agent_for_how_long() {
        let lost = Move {
            giver: "a@1".parse().unwrap(),
            why: Why::Lost,
            devices: 3_000,
            from_us: 7_000_000,
            until_us: Some(34_200_000),
            takers: ["b".parse().unwrap()].into(),
        };
        let (validity, reasons) = assess(&fleet(0), &[], &[lost], &[], &[]);
        assert_eq!(validity, Validity::Degraded);
        assert_eq!((reasons[0].agent.as_deref(), reasons[0].from_s), (Some("a"), Some(7)));
        assert_eq!(reasons[0].text, "agent a was lost: 3,000 devices without agent, moved in 28 s");
    }
}
