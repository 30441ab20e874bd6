//! Agents that go: the run goes on without them and says what is missing.

use shoal_domain::run::{Phase, Validity};
use shoal_testkit::cluster::{Cluster, agent_name, series};

use crate::STEADY;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agent_makes_the_run_degraded_and_the_equation_holds() {
    let mut cluster = Cluster::start(2).await;
    let run = cluster.run(STEADY, &[("hold", "6s")]).await;
    run.has_sent(100).await;

    cluster.kill_agent(1).await;
    // Its successor holds the lock on the directory, which proves the death at once.
    cluster.start_agent(1).await;

    let report = run.over().await;
    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Degraded)));
    let lost = report.validity_reasons.iter().find(|reason| reason.code == "agent_lost");
    assert_eq!(lost.and_then(|reason| reason.agent.clone()), Some(agent_name(1)), "{report:#?}");
    let slots = series(&report, "telemetry", "all").slots.unwrap();
    assert_eq!(slots.planned, slots.n_classed(), "{report:#?}");
    assert!(slots.unassigned > 0, "{slots:?}");
    // Nothing is reported that did not happen.
    assert!(slots.sent <= cluster.broker().publishes_seen(), "{slots:?}");
}
