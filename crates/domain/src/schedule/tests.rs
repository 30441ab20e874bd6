use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::ids::SeriesId;
use crate::outcome::Operation;
use crate::plan::*;
use crate::template::Template;

/// A plan of groups with these device counts, each with one series of this period.
pub(crate) fn plan(devices: &[u64], period_us: u64, stages: Vec<Stage>) -> Plan {
    let group = |(i, n): (usize, &u64)| Group {
        name: format!("g{i}"),
        target: 0,
        load: 0,
        devices: *n,
        rows: None,
        id: Template::literal("d"),
        lets: vec![],
        credentials: None,
        reconnect: Reconnect { first_us: 1_000_000, max_us: 60_000_000 },
        max_in_flight: 10,
        connect_within_us: 60_000_000,
        connect: SeriesId(2 * i as u32),
        captures: vec![],
        on_start: vec![],
        on_stop: vec![],
        behaviour: Behaviour::Open(vec![Send {
            series: SeriesId(2 * i as u32 + 1),
            pace: Pace { period_ns: period_us * 1_000 },
            action: Action::Publish(Publish {
                topic: Template::literal("t"),
                qos: Qos::AtLeastOnce,
                retain: false,
                payload: Template::literal("p"),
                ack_timeout_us: 30_000_000,
            }),
        }]),
    };
    let series = |(group, _): (usize, &u64)| {
        [(Operation::Connect, "connect"), (Operation::Publish, "telemetry")]
            .map(|(operation, name)| Series { operation, name: name.into(), group })
    };
    Plan {
        name: "test".into(),
        vars: BTreeMap::new(),
        seed: Some(1),
        files: vec![],
        targets: vec![Target {
            name: "broker".into(),
            kind: TargetKind::Mqtt(MqttTarget {
                endpoint: Endpoint::Builtin,
                keep_alive_us: 60_000_000,
                ca: None,
            }),
        }],
        groups: devices.iter().enumerate().map(group).collect(),
        series: devices.iter().enumerate().flat_map(series).collect(),
        loads: vec![Load { groups: (0..devices.len()).collect(), stages: 0..stages.len() }],
        stages,
        thresholds: vec![],
        fleet: Fleet {
            min_agents: 1,
            accept_degraded: false,
            lease_us: 30_000_000,
            on_agent_loss: OnAgentLoss::Continue,
        },
        stop_timeout_us: 5_000_000,
        max_duration_us: None,
    }
}

pub(crate) fn ramp_and_hold(devices: u64, ramp_us: u64, hold_us: u64) -> Vec<Stage> {
    let ramp = StageKind::Ramp { from: 0, to: devices };
    vec![
        Stage { name: "ramp".into(), kind: ramp, start_us: 0, end_us: ramp_us },
        Stage {
            name: "hold".into(),
            kind: StageKind::Hold,
            start_us: ramp_us,
            end_us: ramp_us + hold_us,
        },
    ]
}

#[test]
fn device_k_starts_at_k_over_the_rate() {
    let plan = plan(&[100], 1_000_000, ramp_and_hold(100, 20_000_000, 40_000_000));
    for k in 0..100 {
        assert_eq!(plan.start_us(0, k), Some(k * 200_000));
    }
    assert_eq!(plan.started_by(0), 1);
    assert_eq!(plan.started_by(19_999_999), 100);
}

#[test]
fn the_stall_fixture_has_300_slots() {
    let mut stages = ramp_and_hold(1, 1_000_000, 29_000_000);
    stages[1].end_us = 30_000_000;
    let plan = plan(&[1], 100_000, stages);
    let slots = plan.slots(0, 0, &plan.groups[0].sends()[0]).unwrap();
    assert_eq!(slots.due_before(30_000_000), 300);
    assert_eq!((slots.intended_us(0), slots.intended_us(299)), (0, 29_900_000));
    let mut per_stage = [0, 0];
    plan.count_slots(&slots, 0, u64::MAX, &mut per_stage);
    assert_eq!(per_stage, [10, 290]);
}

proptest! {
    #[test]
    fn the_start_order_is_a_permutation_in_which_groups_keep_their_share(
        counts in proptest::collection::vec(1u64..40, 1..5),
    ) {
        let total: u64 = counts.iter().sum();
        let plan = plan(&counts, 1_000_000, ramp_and_hold(total, 1_000_000, 1_000_000));
        let mut order: Vec<(u64, usize)> = (0..counts.len())
            .flat_map(|g| (0..counts[g]).map(move |i| (g, i)))
            .map(|(g, i)| (plan.start_rank(g, i), g))
            .collect();
        order.sort_unstable();
        let ranks: Vec<u64> = order.iter().map(|(rank, _)| *rank).collect();
        prop_assert_eq!(ranks, (0..total).collect::<Vec<_>>());
        for cut in 0..order.len() {
            for (g, count) in counts.iter().enumerate() {
                let so_far = order[..cut].iter().filter(|(_, group)| *group == g).count() as f64;
                let share = cut as f64 * *count as f64 / total as f64;
                prop_assert!((so_far - share).abs() <= counts.len() as f64, "{} {}", so_far, share);
            }
        }
    }

    #[test]
    fn due_before_counts_exactly_the_intended_times(
        index in 0u64..5_000, period_us in 1u64..3_000_000, end_us in 0u64..20_000_000,
    ) {
        let plan = plan(&[5_000], period_us, ramp_and_hold(5_000, 5_000_000, 20_000_000));
        let slots = plan.slots(0, index, &plan.groups[0].sends()[0]).unwrap();
        let due = slots.due_before(end_us);
        prop_assert!(slots.intended_us(due) >= end_us);
        if due > 0 {
            prop_assert!(slots.intended_us(due - 1) < end_us);
        }
        let mut parts = [0, 0];
        plan.count_slots(&slots, 0, end_us / 2, &mut parts);
        plan.count_slots(&slots, end_us / 2, end_us, &mut parts);
        prop_assert_eq!(parts.iter().sum::<u64>(), due);
    }

    #[test]
    fn any_block_of_devices_spreads_evenly_over_the_period(first in 0u64..100_000) {
        let mut phases: Vec<u64> = (first..first + 100).map(|i| super::phase_ns(i, 1_000_000)).collect();
        phases.sort_unstable();
        let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        prop_assert!(widest < 30_000, "a gap of {} in a period of 1,000,000", widest);
    }
}
