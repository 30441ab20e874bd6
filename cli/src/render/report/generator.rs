//! The generator beside its results: what it used, how it fared, and what that says of the numbers.

use std::fmt::Write as _;

use shoal_domain::report::RunReport;
use shoal_domain::run::Validity;

use crate::render::clean;
use crate::render::columns::Columns;
use crate::render::numbers::{bytes, count, micros, percent};

/// A clock that is off by less is one that is kept by NTP.
const OFF_US: u64 = 100_000;

/// What the generator itself used, and how it fared: whether it had room to spare.
pub(super) fn agents(report: &RunReport) -> String {
    if report.agents.is_empty() {
        return String::new();
    }
    let mut columns = Columns::new(&[
        "agent",
        "state",
        ">devices",
        ">cores used",
        ">memory",
        ">descriptors",
        ">received",
        ">sent",
    ]);
    let mut health = Columns::new(&[
        "agent",
        ">began late",
        ">missed",
        ">send lag p99",
        ">longest stall",
        ">waited",
        ">pressure",
        ">stolen",
        ">throttled",
        ">ran out",
    ]);
    for agent in &report.agents {
        health.row(vec![
            agent.agent.clone(),
            micros(agent.start_lag_us as f64),
            count(agent.missed),
            agent.send_lag_p99_us.map_or_else(|| "-".to_owned(), |us| micros(us as f64)),
            micros(agent.stall_max_us as f64),
            percent(agent.waited_ratio),
            percent(agent.pressure_ratio),
            percent(agent.stolen_ratio),
            percent(agent.throttled_ratio),
            count(agent.descriptor_errors + agent.port_errors),
        ]);
        columns.row(vec![
            agent.agent.clone(),
            agent.state.clone(),
            count(agent.devices),
            format!("{:.2}", agent.cpu_cores),
            bytes(agent.memory_max_bytes),
            count(agent.descriptors_max),
            bytes(agent.network_received_bytes),
            bytes(agent.network_sent_bytes),
        ]);
    }
    let mut text = format!("\n{}\n{}", columns.render(), health.render());
    for agent in &report.agents {
        if let Some(us) = agent.clock_offset_us.filter(|us| us.unsigned_abs() > OFF_US) {
            let _ = writeln!(
                text,
                "agent {}: its own clock is {} {} (± {}); no number depends on it, all are in the control plane's time",
                clean(&agent.agent),
                micros(us.unsigned_abs() as f64),
                if us < 0 { "slow" } else { "fast" },
                micros(agent.clock_bound_us as f64),
            );
        }
    }
    text
}

pub(super) fn validity(report: &RunReport) -> String {
    let mut text = String::new();
    if let Some(validity) = report.validity {
        let meaning = match validity {
            Validity::Valid => "the numbers are what the target did",
            Validity::Degraded => "the numbers stand, with these limits",
            Validity::Invalid => "the numbers must not be trusted",
        };
        let _ = writeln!(text, "\nvalidity {}: {meaning}", validity.word());
    }
    for reason in &report.validity_reasons {
        let _ = write!(text, "  {}", clean(&reason.code));
        if let Some(agent) = &reason.agent {
            let _ = write!(text, " (agent {})", clean(agent));
        }
        match (reason.from_s, reason.to_s) {
            (Some(from), Some(to)) if from != to => {
                let _ = write!(text, " from {from} s to {to} s");
            }
            (Some(at), _) | (None, Some(at)) => {
                let _ = write!(text, " at {at} s");
            }
            (None, None) => {}
        }
        let _ = writeln!(text, ": {}", clean(&reason.text));
    }
    text
}
