//! Agents that lie, or are broken: nothing impossible is taken, they are sent away, their devices go to
//! the others, and nobody else is disturbed.

use std::time::Duration;

use shoal_domain::check::parse_plan;
use shoal_domain::delta::{Delta, Tally};
use shoal_domain::files::Files;
use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::run::{Phase, Validity};
use shoal_proto::v1::UploadOutcome;
use shoal_proto::{CODE_KEY, PROTOCOL, metrics, v1};
use shoal_testkit::cluster::{Cluster, agent_name, series};
use shoal_testkit::expect::eventually;
use shoal_testkit::impostor::Impostor;

use crate::STEADY;

const PATIENCE: Duration = Duration::from_secs(120);
/// The last bucket's field in the header of a histogram, behind its cookie.
const COOKIE: [u8; 4] = [0x1c, 0x84, 0x93, 0x13];

fn says(of: &v1::Assignment, seq: u64, delta: &Delta) -> v1::UploadDelta {
    let (assignment_id, epoch) = (of.assignment_id.clone(), of.epoch);
    v1::UploadDelta {
        assignment_id,
        epoch,
        seq,
        body: metrics::encode(delta),
        ..Default::default()
    }
}

/// The publishes of [`STEADY`].
fn telemetry() -> SeriesId {
    let plan = parse_plan(STEADY, &[], &Files::none()).expect("it is a plan");
    let mut series = (0u32..).zip(&plan.series);
    let (id, _) = series.find(|(_, series)| series.name == "telemetry").expect("it publishes");
    SeriesId(id)
}

fn counts(series: SeriesId, tally: Tally) -> Delta {
    Delta { cells: [((series, StageId(0)), tally)].into(), ..Delta::default() }
}

/// One impossible report each, by the name of who makes it.
fn lies(of: &v1::Assignment, good: &v1::Assignment) -> Vec<(&'static str, v1::UploadDelta)> {
    let million = counts(telemetry(), Tally { sent: 1_000_000, ..Tally::default() });
    let mut bomb = Tally { sent: 1, ..Tally::default() };
    bomb.response_time.record(1_000);
    let mut bomb = says(of, 0, &counts(telemetry(), bomb));
    let at = bomb.body.windows(4).position(|four| four == COOKIE).expect("it has a histogram");
    bomb.body[at + 24..at + 32].fill(0x7f);
    vec![
        ("more-slots", says(of, 0, &million)),
        ("no-such-series", says(of, 0, &counts(SeriesId(99), Tally::default()))),
        (
            "overflow",
            says(of, 0, &counts(telemetry(), Tally { bytes: u64::MAX, ..Tally::default() })),
        ),
        ("from-the-future", says(of, 1_000_000, &Delta::default())),
        ("histogram-bomb", bomb),
        (
            "garbage",
            v1::UploadDelta { body: vec![0xff; 400_000], ..says(of, 0, &Delta::default()) },
        ),
        ("in-anothers-name", says(good, 0, &million)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_lie_are_sent_away_and_the_good_one_ends_with_exact_counts() {
    let cluster = Cluster::start(1).await;
    let names: Vec<&str> = lies(&v1::Assignment::default(), &v1::Assignment::default())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut liars = Vec::new();
    for name in &names {
        liars.push(Impostor::join(cluster.server(), name).await);
    }
    let scenario = format!("{STEADY}fleet: {{ lease: 20s, accept: degraded }}\n");
    let run = cluster.run(&scenario, &[("devices", "40"), ("hold", "300s")]).await;
    for (at, liar) in liars.iter_mut().enumerate() {
        let given = liar.assignment().await;
        let mut good = given.clone();
        good.assignment_id = format!("{}.{}", given.run_id, agent_name(0));
        let (_, lie) = lies(&given, &good).swap_remove(at);
        let name = names[at];
        // An epoch that nobody was given is refused, and proves nothing.
        let foreign = v1::UploadDelta { epoch: 77, ..says(&given, 0, &Delta::default()) };
        assert_eq!(liar.upload(vec![foreign]).await.unwrap(), [UploadOutcome::Unknown], "{name}");
        let honest = says(&given, 0, &Delta::default());
        if name != "in-anothers-name" && lie.seq > 0 {
            let repeated = vec![honest.clone(), honest.clone(), honest];
            assert_eq!(liar.upload(repeated).await.unwrap(), [UploadOutcome::Stored; 3], "{name}");
        }
        assert_eq!(liar.upload(vec![lie]).await.unwrap(), [UploadOutcome::Unknown], "{name}");
        liar.is_sent_away().await;
    }
    let listed = cluster.agents().await;
    for name in &names {
        let row = listed.iter().find(|row| row.agent_id == *name).unwrap();
        assert_eq!(row.state, "quarantined", "{name}: {row:?}");
        assert!(row.remark.contains("1 report(s) were not taken"), "{name}: {row:?}");
    }
    let good = listed.iter().find(|row| row.agent_id == agent_name(0)).unwrap();
    assert_eq!((good.state.as_str(), good.remark.as_str()), ("connected", ""), "{good:?}");

    eventually(PATIENCE, "all devices are driven", || async {
        run.report().await.devices.connected == 40
    })
    .await;
    run.stop().await;
    let report = run.over().await;
    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Degraded)));
    let slots = series(&report, "telemetry", "all").slots.expect("it sends");
    assert_eq!(slots.sent, cluster.broker().publishes_seen(), "{report:#?}");
    assert_eq!(slots.planned, slots.n_classed(), "{report:#?}");
    for name in names {
        let is_its = |text: &str| text.starts_with(&format!("agent {name} was quarantined: 5 dev"));
        let reasons = &report.validity_reasons;
        assert!(reasons.iter().any(|reason| is_its(&reason.text)), "{name}: {reasons:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_protocol_is_refused_with_both_numbers_and_never_half_taken_in() {
    let cluster = Cluster::start(1).await;
    for protocol in [PROTOCOL - 1, PROTOCOL + 1, u32::MAX] {
        let told = Impostor::is_refused(cluster.server(), "skewed", protocol).await;
        let code = told.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok());
        assert_eq!(code, Some("SH0410"), "{told:?}");
        let both = format!("the agent speaks protocol {protocol}, this control plane {PROTOCOL}");
        assert!(told.message().contains(&both), "{told:?}");
    }
    assert!(cluster.agents().await.iter().all(|row| row.agent_id != "skewed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_measure_and_ten_thousand_streams_disturb_nobody() {
    let cluster = Cluster::start(1).await;
    let mut noisy = Impostor::join(cluster.server(), "noisy").await;
    let streams = noisy.open_streams(10_000);
    for n in 0..20 {
        let huge = v1::UploadDelta { body: vec![0; 5 << 20], ..v1::UploadDelta::default() };
        // Only its own streams are used up: others come in.
        let mut other = Impostor::join(cluster.server(), &format!("huge-{n}")).await;
        other.upload(vec![huge]).await.expect_err("more than a message may be");
    }
    let scenario = format!("{STEADY}fleet: {{ lease: 20s, accept: degraded }}\n");
    let run = cluster.run(&scenario, &[("hold", "300s")]).await;
    noisy.assignment().await;
    run.has_sent(100).await;
    // From here on it is silent as well.
    drop(noisy);
    drop(streams);
    eventually(PATIENCE, "all devices are driven", || async {
        run.report().await.devices.connected == 20
    })
    .await;
    run.stop().await;
    let report = run.over().await;
    assert_eq!((report.phase, report.validity), (Phase::Finished, Some(Validity::Degraded)));
    let slots = series(&report, "telemetry", "all").slots.expect("it sends");
    assert_eq!(slots.sent, cluster.broker().publishes_seen(), "{report:#?}");
    assert_eq!(slots.planned, slots.n_classed(), "{report:#?}");
}
