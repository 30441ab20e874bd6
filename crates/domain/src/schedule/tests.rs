use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Interval, Presence, Revision, Slots, Timetable};
use crate::ids::SeriesId;
use crate::outcome::Operation;
use crate::plan::*;
use crate::template::Template;

pub(crate) fn even(period_us: u64) -> Pace {
    let arrivals = Arrivals::Even { jitter_ppm: 0 };
    Pace { period_ns: period_us * 1_000, children: 1, arrivals, phase: Phase::Spread }
}

pub(crate) fn timetable(plan: &Plan) -> Timetable {
    Timetable::new(Arc::new(plan.clone()), 1, &[])
}

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
        place: BTreeMap::new(),
        churn: None,
        will: None,
        sparkplug: None,
        connect: SeriesId(2 * i as u32),
        listeners: vec![],
        disconnect: None,
        subscribe: None,
        captures: vec![],
        on_start: vec![],
        on_stop: vec![],
        behaviour: Behaviour::Open(vec![Send {
            series: SeriesId(2 * i as u32 + 1),
            pace: even(period_us),
            while_away: WhileAway::Skip,
            action: Action::Publish(Publish {
                topic: Template::literal("t"),
                qos: Qos::AtLeastOnce,
                retain: false,
                payload: Template::literal("p"),
                properties: Properties::default(),
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
                connect_timeout_us: 10_000_000,
                tls: None,
                web_socket: None,
                protocol: Protocol::V3,
                clean_start: true,
                session_expiry_s: 0,
            }),
        }],
        groups: devices.iter().enumerate().map(group).collect(),
        series: devices.iter().enumerate().flat_map(series).collect(),
        loads: vec![Load { groups: (0..devices.len()).collect(), stages: 0..stages.len() }],
        stages,
        observers: vec![],
        thresholds: vec![],
        fleet: Fleet {
            min_agents: 1,
            accept_degraded: false,
            lease_us: 30_000_000,
            on_agent_loss: OnAgentLoss::Continue,
            rebalance: false,
            spread_over: None,
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

fn stages(kinds: &[(StageKind, u64)]) -> Vec<Stage> {
    let mut start_us = 0;
    let stage = |(n, (kind, lasts_us)): (usize, &(StageKind, u64))| {
        let stage =
            Stage { name: format!("s{n}"), kind: *kind, start_us, end_us: start_us + lasts_us };
        start_us = stage.end_us;
        stage
    };
    kinds.iter().enumerate().map(stage).collect()
}

const S: u64 = 1_000_000;

fn ramp(from: u64, to: u64, lasts_us: u64) -> (StageKind, u64) {
    (StageKind::Ramp { from, to }, lasts_us)
}

/// Devices of all groups that are present at `us`.
fn present(timetable: &Timetable, us: u64) -> u64 {
    let groups = timetable.plan().groups.iter().enumerate();
    let is_in = |(group, index)| {
        let calendar = timetable.calendar(group, index);
        calendar.is_some_and(|calendar| calendar.at(us).0 == Presence::In)
    };
    groups
        .flat_map(|(g, group)| (0..group.devices).map(move |i| (g, i)))
        .filter(|d| is_in(*d))
        .count() as u64
}

#[test]
fn device_k_starts_at_k_over_the_rate() {
    let plan = plan(&[100], S, ramp_and_hold(100, 20 * S, 40 * S));
    let timetable = timetable(&plan);
    for k in 0..100 {
        assert_eq!(timetable.start_us(0, k, 0), Some(k * 200_000));
    }
    assert_eq!((timetable.level_at(0, 1), timetable.level_at(0, 19_999_999)), (1, 100));
}

#[test]
fn the_stall_fixture_has_300_slots() {
    let mut stages = ramp_and_hold(1, S, 29 * S);
    stages[1].end_us = 30 * S;
    let plan = plan(&[1], 100_000, stages);
    let slots = timetable(&plan).slots(0, 0, &plan.groups[0].sends()[0]).unwrap();
    assert_eq!(slots.due_before(30 * S), 300);
    assert_eq!((slots.intended_us(0), slots.intended_us(299)), (0, 29_900_000));
    assert_eq!((slots.after(298), slots.after(299)), (Some((299, 29_900_000)), None));
    let mut per_stage = [0, 0];
    timetable(&plan).count_slots(0, &slots, 0, u64::MAX, &mut per_stage);
    assert_eq!(per_stage, [10, 290]);
}

#[test]
fn steps_spikes_and_waves_have_their_levels() {
    let shape = [
        ramp(0, 20, 5 * S),
        (StageKind::Hold, 5 * S),
        ramp(20, 100, S),
        (StageKind::Hold, 4 * S),
        ramp(100, 20, 2 * S),
        (StageKind::Hold, 3 * S),
        ramp(20, 0, 4 * S),
    ];
    let plan = plan(&[60, 40], S, stages(&shape));
    let timetable = timetable(&plan);
    for (at_us, level) in [
        (1, 1),
        (4_999_999, 20),
        (9 * S, 20),
        (10_500_000, 60),
        (12 * S, 100),
        (16 * S, 60),
        (17 * S, 20),
        (19_999_999, 20),
        (22 * S, 10),
        (23_999_999, 0),
    ] {
        assert!(present(&timetable, at_us).abs_diff(level) <= 1, "at {at_us}: {level}");
        let by_group: u64 = (0..2).map(|group| timetable.level_at(group, at_us)).sum();
        assert!(by_group.abs_diff(level) <= 1, "at {at_us}: {by_group}");
    }
    // The last started leave first, and the schedule of those that come back goes on.
    assert_eq!(timetable.calendar(0, 0).unwrap().active.len(), 1);
    let send = &plan.groups[0].sends()[0];
    let last = timetable.slots(0, 59, send).unwrap();
    assert!(last.first_from(0).unwrap().1 >= 10 * S);
    assert_eq!(last.first_from(17 * S), None);
}

#[test]
fn three_stages_give_five_five_and_thirty_devices() {
    let shape = [
        ramp(0, 5, 5 * S),
        (StageKind::Hold, 5 * S),
        ramp(5, 30, 5 * S),
        (StageKind::Hold, 10 * S),
    ];
    let timetable = timetable(&plan(&[30], S, stages(&shape)));
    let at = |us| present(&timetable, us);
    assert_eq!((at(4_900_000), at(9_900_000), at(24 * S)), (5, 5, 30));
}

#[test]
fn a_revision_changes_one_group_from_its_time_on_and_restarts_nobody() {
    let plan = Arc::new(plan(&[50, 50], S, ramp_and_hold(40, 4 * S, 56 * S)));
    let before = Timetable::new(Arc::clone(&plan), 1, &[]);
    let edits = [
        Revision { at_us: 10 * S, group: 0, devices: 50, over_us: 3 * S },
        Revision { at_us: 20 * S, group: 0, devices: 10, over_us: 4 * S },
    ];
    let after = Timetable::new(plan, 1, &edits);
    let levels = |us| (after.level_at(0, us), after.level_at(1, us));
    assert_eq!(levels(9 * S), (20, 20));
    assert_eq!((levels(11_500_000), levels(13 * S)), ((35, 20), (50, 20)));
    assert_eq!((levels(22 * S), levels(24 * S), levels(59 * S)), ((30, 20), (10, 20), (10, 20)));
    for index in 0..10 {
        let one = |timetable: &Timetable| timetable.calendar(0, index).unwrap().active.to_vec();
        assert_eq!(one(&before), one(&after), "device {index} runs on");
    }
    assert_eq!(
        after.calendar(0, 49).unwrap().active[..],
        [Interval { from_us: 10 * S + 29 * 100_000, until_us: 20 * S }]
    );
    assert_eq!(before.start_us(1, 7, 0), after.start_us(1, 7, 0));
}

#[test]
fn half_of_a_group_leaves_in_a_storm_and_returns_evenly() {
    let storm = Storm {
        group: 0,
        devices: 500,
        of: 1_000,
        stride: 617,
        leave: Leave::Cut,
        away_us: 10 * S,
        back_within_us: 30 * S,
    };
    let shape = [
        ramp(0, 1_000, S),
        (StageKind::Hold, S),
        (StageKind::Storm(storm), 40 * S),
        (StageKind::Hold, S),
    ];
    let timetable =
        timetable(&plan(&[1_000, 7], S, stages(&[&[ramp(0, 1_007, S)], &shape[1..]].concat())));
    let at = |us| present(&timetable, us);
    assert_eq!((at(2 * S - 1), at(2 * S), at(12 * S - 1)), (1_007, 507, 507));
    assert_eq!((at(12 * S), at(27 * S), at(42 * S)), (508, 758, 1_007));
    let away = |index: u64| timetable.calendar(0, index).unwrap().at(2 * S).0 != Presence::In;
    for block in 0..10 {
        let n = (block * 100..block * 100 + 100).filter(|index| away(*index)).count();
        assert!((47..=53).contains(&n), "{n} of block {block}");
    }
}

#[test]
fn devices_that_arrive_stay_and_leave() {
    let arrive = StageKind::Arrive { arrivals: 100, stay_us: 3 * S };
    let plan =
        plan(&[60], 500_000, stages(&[ramp(0, 10, S), (arrive, 10 * S), (StageKind::Hold, 5 * S)]));
    let timetable = timetable(&plan);
    let at = |us| present(&timetable, us);
    assert_eq!((at(S), at(3 * S), at(8 * S), at(13_950_000), at(15 * S)), (11, 31, 40, 10, 10));
    assert_eq!(timetable.calendar(0, 10).unwrap().active.len(), 2);
}

#[test]
fn visits_of_a_group_with_churn_spread_and_send_the_same_each_time() {
    let mut plan = plan(&[600], 4 * S, ramp_and_hold(600, S, 299 * S));
    plan.groups[0].churn = Some(Churn { stay_us: 10 * S, away_us: 50 * S });
    let timetable = timetable(&plan);
    for us in [70 * S, 130 * S, 200 * S] {
        assert!(present(&timetable, us).abs_diff(100) <= 3, "{}", present(&timetable, us));
    }
    let send = &plan.groups[0].sends()[0];
    for index in 0..20 {
        let slots = timetable.slots(0, index, send).unwrap();
        let start_us = timetable.start_us(0, index, 0).unwrap();
        let n = slots.due_before(start_us + 10 * S);
        assert!((2..=3).contains(&n));
        assert_eq!(slots.due_before(start_us + 70 * S), 2 * n);
    }
    assert!((plan.spawn_rate() - 610.0).abs() < 0.01);
}

#[test]
fn together_means_the_same_moment_whenever_a_device_started() {
    let mut plan = plan(&[10], 2 * S, ramp_and_hold(10, 5 * S, 20 * S));
    let Behaviour::Open(sends) = &mut plan.groups[0].behaviour else { panic!() };
    sends[0].pace.phase = Phase::Together;
    let timetable = timetable(&plan);
    for index in 0..10 {
        let slots = timetable.slots(0, index, &plan.groups[0].sends()[0]).unwrap();
        assert_eq!(slots.first_from(0).unwrap().1 % (2 * S), 0);
    }
}

#[test]
fn poisson_arrivals_have_the_mean_and_the_variance_of_a_poisson_process() {
    let mut plan = plan(&[400], 100_000, ramp_and_hold(400, 1, 300 * S));
    let Behaviour::Open(sends) = &mut plan.groups[0].behaviour else { panic!() };
    sends[0].pace.arrivals = Arrivals::Poisson;
    let timetable = timetable(&plan);
    let mut counts = Vec::new();
    for index in 0..400 {
        let slots = timetable.slots(0, index, &plan.groups[0].sends()[0]).unwrap();
        counts.extend(
            (0..30).map(|n| slots.due_before((n + 1) * 5 * S) - slots.due_before(n * 5 * S)),
        );
    }
    let n = counts.len() as f64;
    let mean = counts.iter().sum::<u64>() as f64 / n;
    let variance = counts.iter().map(|c| (*c as f64 - mean).powi(2)).sum::<f64>() / n;
    // 12,000 counts of 50: the mean within 0.26, the variance within 2.6 (four deviations).
    assert!((mean - 50.0).abs() < 0.26 && (variance - 50.0).abs() < 2.6, "{mean} {variance}");
}

/// Every slot, one after the other.
fn all(slots: &Slots) -> Vec<(u64, u64)> {
    std::iter::successors(slots.first_from(0), |(slot, _)| slots.after(*slot)).collect()
}

fn stage_kind() -> impl Strategy<Value = (u8, u64, u64)> {
    (0u8..5, 0u64..=60, 1u64..8_000_000)
}

/// Stages that follow each other, from kinds that do not know their start.
fn shape(drawn: &[(u8, u64, u64)], devices: u64) -> Vec<Stage> {
    let mut level = 0;
    let mut kinds = Vec::new();
    for (kind, n, lasts_us) in drawn {
        let kind = match kind {
            0 | 1 => StageKind::Ramp { from: level, to: n % (devices + 1) },
            2 => StageKind::Hold,
            3 => StageKind::Arrive { arrivals: n + 1, stay_us: lasts_us / 3 + 1 },
            _ => StageKind::Storm(Storm {
                group: 0,
                devices: 1,
                of: 1,
                stride: 1,
                leave: Leave::Disconnect,
                away_us: lasts_us / 2,
                back_within_us: lasts_us / 2,
            }),
        };
        level = kind.level_after(level);
        kinds.push((kind, *lasts_us));
    }
    stages(&kinds)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn counting_is_what_one_after_the_other_gives(
        drawn in proptest::collection::vec(stage_kind(), 1..7),
        counts in proptest::collection::vec(1u64..30, 1..3),
        period_us in 20_000u64..3_000_000, way in 0u8..5, churn: bool,
        edits in proptest::collection::vec((1u64..20_000_000, 0u64..30, 1u64..3_000_000), 0..3),
        cut_us in 0u64..30_000_000, pick: u64,
    ) {
        let mut plan = plan(&counts, period_us, shape(&drawn, counts.iter().sum()));
        let group = (pick % counts.len() as u64) as usize;
        plan.groups[group].churn =
            (churn && way != 4).then_some(Churn { stay_us: 700_000, away_us: 1_900_000 });
        let Behaviour::Open(sends) = &mut plan.groups[group].behaviour else { panic!() };
        let pace = &mut sends[0].pace;
        match way {
            0 => {}
            1 => pace.arrivals = Arrivals::Even { jitter_ppm: 200_000 },
            2 => pace.arrivals = Arrivals::Even { jitter_ppm: 1_000_000 },
            3 => (pace.phase, pace.arrivals) =
                (Phase::Random, Arrivals::Even { jitter_ppm: 500_000 }),
            _ => pace.arrivals = Arrivals::Poisson,
        }
        let mut at_us = 0;
        let revisions: Vec<Revision> = edits.iter().map(|(after_us, n, over_us)| {
            at_us += after_us;
            Revision { at_us, group, devices: *n % (counts[group] + 1), over_us: *over_us }
        }).collect();
        let timetable = Timetable::new(Arc::new(plan.clone()), pick, &revisions);
        let send = &plan.groups[group].sends()[0];
        for index in 0..counts[group] {
            let Some(calendar) = timetable.calendar(group, index) else { continue };
            let slots = timetable.slots_on(&calendar, group, index, send);
            let all = all(&slots);
            prop_assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
            let mut brute = vec![0; plan.stages.len()];
            for (slot, at_us) in &all {
                prop_assert_eq!(slots.intended_us(*slot), *at_us);
                prop_assert!(calendar.at(*at_us).0 != Presence::Out, "slot at {} of {:?}", at_us, calendar);
                brute[plan.stage_of(group, *at_us).index()] += 1;
            }
            let mut counted = vec![0; plan.stages.len()];
            timetable.count_slots(group, &slots, 0, u64::MAX, &mut counted);
            prop_assert_eq!(&counted, &brute);
            let mut parts = vec![0; plan.stages.len()];
            timetable.count_slots(group, &slots, 0, cut_us, &mut parts);
            let before = all.iter().filter(|(_, at_us)| *at_us < cut_us).count() as u64;
            prop_assert_eq!(parts.iter().sum::<u64>(), before);
            prop_assert_eq!(slots.due_before(cut_us), before);
            prop_assert_eq!(slots.first_from(cut_us), all.get(before as usize).copied());
            timetable.count_slots(group, &slots, cut_us, u64::MAX, &mut parts);
            prop_assert_eq!(&parts, &brute);
        }
    }

    #[test]
    fn until_a_revision_takes_effect_nothing_changes(
        drawn in proptest::collection::vec(stage_kind(), 1..7), devices in 1u64..40,
        at_us in 1u64..30_000_000, to in 0u64..40, over_us in 1u64..5_000_000,
    ) {
        let plan = Arc::new(plan(&[devices], 300_000, shape(&drawn, devices)));
        let revision = Revision { at_us, group: 0, devices: to % (devices + 1), over_us };
        let before = Timetable::new(Arc::clone(&plan), 1, &[]);
        let after = Timetable::new(Arc::clone(&plan), 1, &[revision]);
        let send = &plan.groups[0].sends()[0];
        for index in 0..devices {
            let early = |timetable: &Timetable| {
                let slots = timetable.slots(0, index, send);
                let all = slots.map_or_else(Vec::new, |slots| all(&slots));
                all.into_iter().filter(|(_, us)| *us < at_us).collect::<Vec<_>>()
            };
            prop_assert_eq!(early(&before), early(&after));
        }
        prop_assert_eq!(before.level_at(0, at_us), after.level_at(0, at_us));
        let reached_us = at_us + over_us;
        if reached_us < plan.end_us() {
            prop_assert_eq!(after.level_at(0, reached_us), revision.devices);
        }
    }

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
    fn any_block_of_devices_spreads_evenly_over_the_period(first in 0u64..100_000) {
        let mut phases: Vec<u64> = (first..first + 100).map(|i| super::part(super::spread(i), 1_000_000)).collect();
        phases.sort_unstable();
        let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        prop_assert!(widest < 30_000, "a gap of {} in a period of 1,000,000", widest);
    }
}
