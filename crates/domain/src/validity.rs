//! Can the numbers be trusted? The generator convicts itself, by coded reasons.
//!
//! A stall of the generator, descriptors or ports that ran out, a lost agent and sums that do not
//! hold are our faults, never the target's. `docs/validity.md` explains each code.
//! Totals over the run decide its weight; the spells of each agent say who, and when.

use crate::delta::Health;
use crate::report::ValidityReason;
use crate::roster::{Move, Why};
use crate::run::Validity;
use crate::strain::{Spell, Strain};

mod strained;

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
    pub spells: Vec<Spell>,
    /// Windows that it reported.
    pub windows: u64,
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
    let mut find =
        |validity, code: &str, agent: Option<&str>, span: (Option<u64>, Option<u64>), text| {
            let (code, agent) = (code.to_owned(), agent.map(str::to_owned));
            let (from_s, to_s) = span;
            findings.push((validity, ValidityReason { code, agent, from_s, to_s, text }));
        };
    let never = (None, None);
    let ratio = |n: u64, of: u64| if of == 0 { 0.0 } else { n as f64 / of as f64 };

    if fleet.residual != 0 {
        let text = format!("{} planned slots ended in no class or in two", fleet.residual);
        find(Validity::Invalid, "slots_do_not_add_up", None, never, text);
    }
    if fleet.missed > 0 {
        let share = ratio(fleet.missed, fleet.planned);
        let validity = if share > MISSED_LIMIT { Validity::Invalid } else { Validity::Degraded };
        let text = format!(
            "the generator slept through {} of {} planned slots",
            fleet.missed, fleet.planned
        );
        find(validity, "missed_slots", None, strained::hull(agents, Strain::Missed), text);
    }
    if fleet.unassigned > 0 {
        let text = format!(
            "no agent held the devices of {} of {} planned slots",
            fleet.unassigned, fleet.planned
        );
        find(Validity::Degraded, "unassigned_slots", None, never, text);
    }
    if let Some(lag) = fleet.lag_p99_us.filter(|lag| *lag > LAG_LIMITS_US.0) {
        let validity = if lag > LAG_LIMITS_US.1 { Validity::Invalid } else { Validity::Degraded };
        let text = format!("the generator sent late: p99 of send lag is {} ms", lag / 1_000);
        find(validity, "send_lag", None, strained::hull(agents, Strain::Late), text);
    }
    for moved in moves {
        let code = match moved.why {
            Why::HandedOver => "devices_handed_over",
            _ => "agent_lost",
        };
        let name = moved.giver.agent.as_str();
        find(
            Validity::Degraded,
            code,
            Some(name),
            span(moved.from_us, moved.until_us),
            moved.sentence(),
        );
    }
    for gap in storage_gaps {
        find(Validity::Degraded, "storage_gap", None, never, gap.clone());
    }
    for agent in agents {
        let name = Some(agent.agent.as_str());
        if agent.totals_proved == Some(false) {
            let text =
                format!("agent {}: stored deltas differ from its closing totals", agent.agent);
            find(Validity::Degraded, "storage_gap", name, never, text);
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
            find(
                validity,
                "generator_exhausted",
                name,
                strained::span_of(agent, Strain::Exhausted),
                text,
            );
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
        find(Validity::Degraded, "reader_gap", None, span(gap.from_us, Some(gap.to_us)), text);
    }
    findings.extend(strained::reasons(agents));
    let validity = findings.iter().map(|(validity, _)| *validity).max().unwrap_or(Validity::Valid);
    (validity, findings.into_iter().map(|(_, reason)| reason).collect())
}

/// Run times in whole seconds; where the end is not known yet there is none.
fn span(from_us: u64, to_us: Option<u64>) -> (Option<u64>, Option<u64>) {
    (Some(from_us / 1_000_000), to_us.map(|us| us.div_ceil(1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(health: Health) -> AgentHealth {
        AgentHealth {
            agent: "a".into(),
            health,
            totals_proved: Some(true),
            spells: Vec::new(),
            windows: 100,
        }
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
        assert_eq!(
            (reasons[0].agent.as_deref(), reasons[0].from_s, reasons[0].to_s),
            (Some("a"), Some(7), Some(35))
        );
        assert_eq!(reasons[0].text, "agent a was lost: 3,000 devices without agent, moved in 28 s");
    }
    fn spell(strain: Strain, first_window: u64, windows: u64, amount: u64) -> Spell {
        let last_window = first_window + windows - 1;
        Spell { strain, first_window, last_window, windows, amount }
    }

    #[test]
    fn who_missed_slots_is_told_with_when_and_why() {
        let spells = vec![
            spell(Strain::Missed, 12, 2, 37),
            spell(Strain::Waited, 12, 2, 410),
            spell(Strain::Late, 40, 3, 60_000),
        ];
        let strained = AgentHealth { spells, ..agent(Health::default()) };
        let (validity, reasons) = assess(&fleet(10), &[strained], &[], &[], &[]);
        assert_eq!(validity, Validity::Degraded);
        let told: Vec<_> = reasons
            .iter()
            .map(|r| (r.code.as_str(), r.agent.as_deref(), r.from_s, r.to_s, r.text.as_str()))
            .collect();
        let when = (Some(12), Some(14));
        assert_eq!(
            told,
            [
                (
                    "missed_slots",
                    None,
                    when.0,
                    when.1,
                    "the generator slept through 10 of 1000 planned slots"
                ),
                ("missed_slots", Some("a"), when.0, when.1, "agent a slept through 37 slots"),
                (
                    "run_queue_delay",
                    Some("a"),
                    when.0,
                    when.1,
                    "agent a: its threads waited for a processor up to 41 % of the time"
                ),
            ],
            "three late windows of a hundred are chance"
        );
    }

    #[test]
    fn an_agent_that_is_late_for_long_degrades_the_run_though_the_others_hide_it() {
        let strained = AgentHealth {
            spells: vec![spell(Strain::Late, 40, 6, 60_000)],
            ..agent(Health::default())
        };
        let (validity, reasons) = assess(&fleet(0), std::slice::from_ref(&strained), &[], &[], &[]);
        let told = (reasons[0].code.as_str(), reasons[0].from_s, reasons[0].to_s);
        assert_eq!((validity, told), (Validity::Degraded, ("send_lag", Some(40), Some(46))));
        let long = AgentHealth { windows: 1_000, ..strained };
        assert_eq!(assess(&fleet(0), &[long], &[], &[], &[]).0, Validity::Valid);
    }

    #[test]
    fn of_a_large_fleet_the_worst_are_told() {
        let of = |n: u64| AgentHealth {
            agent: format!("a{n}"),
            spells: vec![spell(Strain::Missed, n, 1, n + 1)],
            ..agent(Health::default())
        };
        let agents: Vec<AgentHealth> = (0..500).map(of).collect();
        let (_, reasons) = assess(&fleet(10), &agents, &[], &[], &[]);
        assert_eq!(reasons.len(), 1 + strained::MOST_TOLD);
        assert_eq!((reasons[0].from_s, reasons[0].to_s), (Some(0), Some(500)));
        assert!(
            reasons[1..]
                .iter()
                .all(|reason| reason.from_s >= Some(500 - strained::MOST_TOLD as u64))
        );
    }
}
