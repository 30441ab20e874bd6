//! The agents of a run: what each held, how it fared, and what it ran on.

use std::collections::BTreeMap;

use shoal_domain::delta::{Health, Samples};
use shoal_domain::report::{AgentReport, HostReport};
use shoal_domain::roster::Why;
use shoal_domain::run::Phase;

use super::shares::Share;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::store::{RunRow, Store};

/// `None` where the agent never said, or said what this release does not know.
fn host(json: &str) -> Option<HostReport> {
    serde_json::from_str(json).ok().filter(|host| *host != HostReport::default())
}

/// One row an agent, whatever it held in turn.
pub(super) async fn of_run(
    store: &Store,
    row: &RunRow,
    record: &Record,
    shares: &[Share],
) -> Result<Vec<AgentReport>, Refusal> {
    let known = store.run_agents(row.run_id).await?;
    let state = |share: &Share| match share.ended {
        _ if share.row.closing.is_some() => "closed",
        Some(why) => why.word(),
        None if record.state.phase() == Phase::FailedToStart => "not_started",
        None if record.state.phase().is_over() => "silent",
        None => "running",
    };
    let mut by_agent: BTreeMap<&str, Vec<&Share>> = BTreeMap::new();
    for share in shares {
        by_agent.entry(&share.row.grant.agent_id).or_default().push(share);
    }
    let report = |(agent, shares): (&str, Vec<&Share>)| {
        let mut health = Health::default();
        let seconds: u64 = shares.iter().map(|share| share.total.seconds()).sum();
        shares.iter().for_each(|share| health.merge(&share.total.health));
        let share_of_time = |us: u64| us as f64 / health.wall_us.max(1) as f64;
        let cells = || shares.iter().flat_map(|share| share.total.cells.values());
        let mut lag = Samples::default();
        cells().for_each(|tally| lag.merge(&tally.send_lag));
        let was_restarted =
            |share: &&&Share| share.observe.is_none() && share.ended == Some(Why::Restarted);
        let restarts = shares.iter().filter(was_restarted).count();
        // What it holds now, else the last that it held.
        let mut newest = shares.clone();
        newest.sort_by_key(|share| (share.ended.is_none(), share.row.grant.epoch));
        let live = shares.iter().filter(|share| share.ended.is_none());
        let proved = shares.iter().filter_map(|share| share.totals_proved);
        let known = known.iter().find(|known| known.agent_id == agent);
        AgentReport {
            agent: agent.to_owned(),
            build: known.map(|known| known.build.clone()).unwrap_or_default(),
            host: known.and_then(|known| host(&known.host_json)),
            devices: live.map(|share| share.devices).sum(),
            state: newest.last().map_or("", |share| state(share)).to_owned(),
            restarts: restarts as u64,
            stall_max_us: health.stall_max_us,
            stalled_us: health.stalled_us,
            descriptor_errors: health.descriptor_errors,
            port_errors: health.port_errors,
            cpu_cores: health.cpu_us as f64 / 1e6 / seconds.max(1) as f64,
            memory_max_bytes: health.memory_bytes,
            descriptors_max: health.descriptors,
            network_received_bytes: health.received_bytes,
            network_sent_bytes: health.sent_bytes,
            waited_ratio: share_of_time(health.waited_us),
            pressure_ratio: share_of_time(health.pressure_us),
            stolen_ratio: share_of_time(health.stolen_us),
            throttled_ratio: share_of_time(health.throttled_us),
            start_lag_us: health.start_lag_us,
            clock_bound_us: shares.iter().map(|s| s.total.clock_error_us).max().unwrap_or(0),
            clock_offset_us: shares.iter().rev().find_map(|s| s.total.wall_offset_us),
            missed: cells().map(|tally| tally.missed).sum(),
            send_lag_p99_us: lag.quantile_us(0.99),
            totals_proved: proved.reduce(|all, one| all && one),
        }
    };
    Ok(by_agent.into_iter().map(report).collect())
}
