//! Agents that go: the others take over their devices, nobody else notices, and the sum holds.

use shoal_domain::report::{RunReport, SlotReport};
use shoal_domain::run::{Phase, Validity};
use shoal_testkit::cluster::{Cluster, agent_name, series};
use shoal_testkit::expect::eventually;

use crate::STEADY;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The equation holds, and nothing is reported that did not happen.
#[track_caller]
fn accounted(report: &RunReport, seen: u64) -> SlotReport {
    let slots = series(report, "telemetry", "all").slots.expect("a series that sends has slots");
    assert_eq!(slots.planned, slots.n_classed(), "{report:#?}");
    assert!(slots.sent <= seen, "{seen} {report:#?}");
    slots
}

#[track_caller]
fn reason<'r>(report: &'r RunReport, code: &str) -> &'r str {
    let found = report.validity_reasons.iter().find(|reason| reason.code == code);
    &found.unwrap_or_else(|| panic!("no {code} in {report:#?}")).text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_restarted_takes_up_its_own_devices_again() {
    let mut cluster = Cluster::start(2).await;
    let run = cluster.run(STEADY, &[("hold", "10s")]).await;
    run.has_sent(100).await;

    cluster.kill_agent(1).await;
    // Its successor holds the lock on the directory, which proves the death at once.
    cluster.start_agent(1).await;

    let report = run.over().await;
    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Degraded)));
    let slots = accounted(&report, cluster.broker().publishes_seen());
    assert!(slots.unassigned > 0, "{slots:?}");
    assert_eq!(slots.planned, slots.sent + slots.unassigned, "{report:#?}");
    let text = reason(&report, "agent_lost");
    assert!(text.contains("restarted: 10 devices without agent, moved in"), "{text}");
    let row = report.agents.iter().find(|row| row.agent == agent_name(1)).unwrap();
    assert_eq!((row.devices, row.restarts), (10, 1), "{report:#?}");
    assert_eq!(report.devices.connected, 20, "{report:#?}");
    // 10 devices, 10/s: without them for less than six seconds of ten.
    assert!(slots.unassigned < 600, "{slots:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_before_a_moved_device_is_connected_again_is_nobodys_and_is_not_sent_late() {
    let mut cluster = Cluster::start(2).await;
    let run = cluster.run(STEADY, &[("hold", "14s")]).await;
    run.has_sent(100).await;

    cluster.kill_agent(1).await;
    // Whoever comes anew is to come again: CONNACK 3.
    cluster.broker().refuse_connects(Some(3));
    let before = cluster.broker().connects_seen();
    cluster.start_agent(1).await;
    eventually(PATIENCE, "every device has tried twice", || {
        std::future::ready(cluster.broker().connects_seen() >= before + 20)
    })
    .await;
    cluster.broker().refuse_connects(None);

    let report = run.over().await;
    let slots = accounted(&report, cluster.broker().publishes_seen());
    assert_eq!(slots.planned, slots.sent + slots.unassigned, "{report:#?}");
    // A second of ten slots each at least, and hardly one of them was held.
    assert!(slots.unassigned > 100 && slots.held < 20, "{slots:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_asked_to_go_hands_its_devices_over() {
    let mut cluster = Cluster::start(2).await;
    let run = cluster.run(STEADY, &[("hold", "12s")]).await;
    run.has_sent(100).await;

    cluster.dismiss_agent(1).await;

    let report = run.over().await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let slots = accounted(&report, cluster.broker().publishes_seen());
    assert_eq!(slots.sent, cluster.broker().publishes_seen(), "{report:#?}");
    assert_eq!(slots.planned, slots.sent + slots.unassigned, "{report:#?}");
    // One batch holds all ten: half a second of 10/s, and what falls on its edges.
    assert!(slots.unassigned <= 10 * 7, "{slots:?}");
    let text = reason(&report, "devices_handed_over");
    assert!(text.contains("handed over 10 devices"), "{text}");
    assert_eq!(report.devices.connected, 20, "{report:#?}");
    assert!(report.agents.iter().all(|row| row.totals_proved == Some(true)), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_an_agent_that_never_comes_back_go_to_the_others_when_its_lease_is_over() {
    let mut cluster = Cluster::start(2).await;
    let scenario = format!("{STEADY}fleet: {{ lease: 20s, accept: degraded }}\n");
    let run = cluster.run(&scenario, &[("hold", "40s")]).await;
    run.has_sent(100).await;

    cluster.kill_agent(1).await;

    let report = run.over().await;
    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Degraded)));
    let slots = accounted(&report, cluster.broker().publishes_seen());
    assert_eq!(slots.planned, slots.sent + slots.unassigned, "{report:#?}");
    // LOST after lease and grace, 30 s, and then back within seconds; never below the survivor's.
    assert!((10 * 280..10 * 380).contains(&slots.unassigned), "{slots:?}");
    let text = reason(&report, "agent_lost");
    assert!(text.contains("was lost: 10 devices without agent, moved in 3"), "{text}");
    assert_eq!(report.agents[0].devices, 20, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn most_agents_silent_at_once_are_one_incident_in_which_nothing_moves() {
    let mut cluster = Cluster::start(5).await;
    let scenario = format!("{STEADY}fleet: {{ lease: 20s, accept: degraded }}\n");
    let run = cluster.run(&scenario, &[("hold", "40s")]).await;
    run.has_sent(100).await;

    for number in 2..5 {
        cluster.kill_agent(number).await;
    }

    let report = run.over().await;
    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Degraded)));
    let slots = accounted(&report, cluster.broker().publishes_seen());
    assert_eq!(slots.planned, slots.sent + slots.unassigned, "{report:#?}");
    // Also when the leases are over: the two that are there keep to their own four devices each.
    assert!((12 * 350..12 * 420).contains(&slots.unassigned), "{slots:?}");
    let devices: Vec<u64> = report.agents.iter().map(|agent| agent.devices).collect();
    assert_eq!(devices[..2], [4, 4], "{report:#?}");
    let told: Vec<&str> = report
        .events
        .iter()
        .filter(|event| event.kind.starts_with("outage") || event.kind.starts_with("agent_"))
        .map(|event| event.text.as_str())
        .collect();
    let incident = "3 of 5 agents are silent at once, so nothing moves until most are back";
    assert_eq!(told, [incident], "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_may_go_on_without_the_devices_of_a_lost_agent() {
    let mut cluster = Cluster::start(2).await;
    let scenario = format!("{STEADY}fleet: {{ on_agent_loss: continue }}\n");
    let run = cluster.run(&scenario, &[("hold", "6s")]).await;
    run.has_sent(100).await;

    cluster.kill_agent(1).await;
    cluster.start_agent(1).await;

    let report = run.over().await;
    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Degraded)));
    let slots = accounted(&report, cluster.broker().publishes_seen());
    assert!(slots.unassigned > 300, "{slots:?}");
    assert!(reason(&report, "agent_lost").ends_with("10 devices without agent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_joins_gets_its_share_where_that_is_asked_for() {
    let mut cluster = Cluster::start(1).await;
    let scenario = format!("{STEADY}fleet: {{ rebalance: on, accept: degraded }}\n");
    let run = cluster.run(&scenario, &[("hold", "12s")]).await;
    run.has_sent(100).await;

    cluster.start_agent(1).await;

    let report = run.over().await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let slots = accounted(&report, cluster.broker().publishes_seen());
    assert_eq!(slots.sent, cluster.broker().publishes_seen(), "{report:#?}");
    let devices: Vec<u64> = report.agents.iter().map(|row| row.devices).collect();
    assert_eq!(devices, [10, 10], "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_agent_hands_over_and_takes_nothing_until_that_is_undone() {
    let cluster = Cluster::start(2).await;
    let run = cluster.run(STEADY, &[("hold", "10s")]).await;
    run.has_sent(100).await;

    assert_eq!(cluster.drain_agent(1, false).await, "draining");

    let report = run.over().await;
    let slots = accounted(&report, cluster.broker().publishes_seen());
    assert_eq!(slots.planned, slots.sent + slots.unassigned, "{report:#?}");
    assert!(reason(&report, "devices_handed_over").contains("handed over 10 devices"));
    let devices = |report: &RunReport| -> Vec<(String, u64)> {
        report.agents.iter().map(|row| (row.agent.clone(), row.devices)).collect()
    };
    assert_eq!(devices(&report)[0], (agent_name(0), 20), "{report:#?}");

    // Both are wanted, and one is not to be had.
    let report = cluster.run(STEADY, &[("hold", "1s")]).await.over().await;
    assert_eq!(report.phase, Phase::FailedToStart, "{report:#?}");
    let cause = report.cause.unwrap();
    assert!(
        cause.ends_with("2 agents are wanted, 1 connected, and 1 drained or leaving"),
        "{cause}"
    );
    assert_eq!(cluster.drain_agent(1, true).await, "connected");
    let report = cluster.run(STEADY, &[("hold", "1s")]).await.over().await;
    assert_eq!(devices(&report), [(agent_name(0), 10), (agent_name(1), 10)], "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kills_an_agent_twice_is_given_to_nobody_else() {
    let mut cluster = Cluster::start(2).await;
    let run = cluster.run(STEADY, &[("hold", "300s")]).await;
    run.has_sent(50).await;
    cluster.kill_agent(1).await;
    cluster.start_agent(1).await;
    eventually(PATIENCE, "its devices are driven again", || async {
        let report = run.report().await;
        let is_restarted = report.agents.iter().any(|row| row.restarts == 1);
        is_restarted && report.devices.connected == 20
    })
    .await;
    cluster.kill_agent(1).await;
    cluster.start_agent(1).await;

    let report = run.over().await;
    assert_eq!((report.phase, report.exit_code), (Phase::Aborted, Some(3)), "{report:#?}");
    let cause = report.cause.as_deref().unwrap_or_default();
    assert_eq!(
        cause,
        "SH0210: agent agent-1 died twice right after it began: nobody else gets its devices"
    );
    let listed = cluster.agents().await;
    assert!(listed.iter().all(|row| row.state == "connected" && row.run.is_empty()), "{listed:?}");
}
