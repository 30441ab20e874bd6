//! Thresholds by the second and by the region.

use std::time::Duration;

use shoal_domain::report::ThresholdResult::{Failed, NoData, Passed};
use shoal_domain::run::Phase;
use shoal_testkit::cluster::Cluster;
use shoal_testkit::expect::eventually;

use crate::STEADY;

#[tokio::test(flavor = "multi_thread")]
async fn seconds_in_which_a_target_stalled_count_against_a_threshold_of_windows() {
    let cluster = Cluster::start(2).await;
    let scenario = format!(
        "{STEADY}thresholds:
  - {{ expect: sensors.telemetry.response_time.p95 < 400ms, held: 40% }}
  - {{ expect: sensors.telemetry.response_time.p95 < 400ms, held: 99% }}
  - {{ expect: sensors.telemetry.rate >= 1/s, in: hold, windows: 2s }}
"
    );
    let run = cluster.run(&scenario, &[("hold", "8s")]).await;
    run.has_sent(400).await;
    cluster.broker().stall(true);
    let begun = tokio::time::Instant::now();
    eventually(Duration::from_secs(10), "two seconds pass", || {
        std::future::ready(begun.elapsed() > Duration::from_millis(2_100))
    })
    .await;
    cluster.broker().stall(false);

    let report = run.over().await;
    assert_eq!(report.phase, Phase::Finished, "{report:#?}");
    let [lenient, strict, rate, ..] = &report.thresholds[..] else { panic!("{report:#?}") };
    assert_eq!((lenient.result, strict.result, rate.result), (Passed, Failed, Passed));
    assert_eq!((lenient.samples, lenient.value), (8, strict.value), "8.2 s: 8 windows");
    let broken = strict.breached_at_s.expect("it broke somewhere");
    assert!((2.0..7.0).contains(&broken), "{strict:#?}");
    let windows = strict.windows.as_ref().expect("it was judged by windows");
    assert!(windows.worst.is_some_and(|us| us > 1e6), "{windows:#?}");
    assert!((1..7).contains(&(windows.judged - windows.held)), "{windows:#?}");
    assert_eq!((rate.samples, rate.value), (3, Some(1.0)), "of the hold: 1 s to 8.2 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_region_is_judged_by_itself_and_one_without_agents_has_no_data() {
    let cluster = Cluster::start(2).await;
    let scenario = format!(
        "{STEADY}thresholds:
  - {{ expect: sensors.telemetry.sent >= 95%, region: eu }}
  - {{ expect: sensors.telemetry.response_time.p95 < 1us, region: each }}
  - {{ expect: sensors.telemetry.errors == 0, region: mars }}
  - {{ expect: sensors.telemetry.rate >= 50/s, region: us, in: hold, held: 100% }}
  - {{ expect: sensors.devices.connected == 10, region: each }}
  - sensors.telemetry.sent > 0
"
    );
    let report = cluster.run(&scenario, &[("hold", "3s")]).await.over().await;

    let results: Vec<_> = report.thresholds.iter().map(|t| t.result).collect();
    assert_eq!(results[..6], [Passed, Failed, NoData, Passed, Passed, Passed], "{report:#?}");
    let (eu, all) = (report.thresholds[0].samples, &report.series);
    let planned = all.iter().find(|row| row.name == "telemetry").unwrap().slots.unwrap().planned;
    assert!(planned.abs_diff(2 * eu) <= 10, "half of the devices: {eu} of {planned}");
    let worst = report.thresholds[1].worst_region.as_deref();
    assert!(matches!(worst, Some("eu" | "us")), "{worst:?}");
    assert_eq!(report.thresholds[2].sentence(), "sensors.telemetry.errors == 0, in region mars");
}

/// Every region has half of the rate: the whole run's rate is too much, that of each region is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_aborts_the_run_by_its_own_numbers_and_not_by_those_of_all() {
    let cluster = Cluster::start(2).await;
    let expect = |limit: u32| {
        format!(
            "{STEADY}thresholds:\n  \
             - {{ expect: sensors.telemetry.rate <= {limit}/s, region: eu, abort_after: 1s }}\n  \
             - {{ expect: sensors.telemetry.rate <= {limit}/s, region: each, abort_after: 1s }}\n"
        )
    };
    let report = cluster.run(&expect(150), &[("hold", "5s")]).await.over().await;
    assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(0)), "{report:#?}");
    assert_eq!(report.cause.as_deref(), Some("completed"));

    let report = cluster.run(&expect(50), &[("hold", "60s")]).await.over().await;
    assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(1)), "{report:#?}");
    assert_eq!(report.cause.as_deref(), Some("threshold"));
    assert!(report.duration_s < 20.0, "{report:#?}");
    assert!(report.thresholds[0].breached_at_s.is_some_and(|at| at < report.duration_s));
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_do_not_hold_abort_the_run() {
    let cluster = Cluster::start(2).await;
    let scenario = format!(
        "{STEADY}thresholds:
  - {{ expect: sensors.telemetry.response_time.p95 < 400ms, held: 90%, abort_after: 2s }}
  - {{ expect: sensors.telemetry.rate >= 1/s, region: each, windows: 2s, abort_after: 1s }}
"
    );
    let run = cluster.run(&scenario, &[("hold", "60s")]).await;
    run.has_sent(400).await;
    cluster.broker().stall(true);
    let report = run.over().await;
    assert_eq!((report.phase, report.exit_code), (Phase::Finished, Some(1)), "{report:#?}");
    assert_eq!(report.cause.as_deref(), Some("threshold"));
    assert!(report.duration_s < 40.0, "{report:#?}");
    let [windows, ..] = &report.thresholds[..] else { panic!("{report:#?}") };
    assert_eq!(windows.result, Failed);
}
