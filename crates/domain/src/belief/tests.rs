//! Honest agents are believed whatever the network does; impossible reports never are.

use proptest::prelude::*;

use super::*;
use crate::delta::{DeviceGauge, Progress};
use crate::ids::StageId;
use crate::schedule::tests::{plan, ramp_and_hold, timetable};

const END_US: u64 = 12_000_000;

fn bench(devices: u64, every_us: u64) -> (Timetable, Shard) {
    let plan = plan(&[devices], every_us, ramp_and_hold(devices, 2_000_000, 10_000_000));
    (timetable(&plan), Shard { blocks: vec![Block::new(0, 0..devices)] })
}

/// What an honest agent reports of each second: the slots that were due in it.
fn honest(timetable: &Timetable, shard: &Shard) -> Vec<Delta> {
    let plan = timetable.plan();
    let send = &plan.groups[0].sends()[0];
    (0..END_US / WINDOW_US)
        .map(|window| {
            let mut due = vec![0; plan.stages.len()];
            for block in &shard.blocks {
                for index in block.devices.clone() {
                    if let Some(slots) = timetable.slots(0, index, send) {
                        let (from_us, until_us) = (window * WINDOW_US, (window + 1) * WINDOW_US);
                        timetable.count_slots(0, &slots, from_us, until_us, &mut due);
                    }
                }
            }
            let mut delta = Delta { first_window: window, last_window: window, ..Delta::default() };
            for (stage, due) in due.into_iter().enumerate() {
                let tally = Tally { sent: due, ..Tally::default() };
                delta.cells.insert((send.series, StageId(stage as u32)), tally);
            }
            delta
        })
        .collect()
}

fn sum(deltas: &[Delta]) -> Delta {
    let mut all = Delta::default();
    deltas.iter().for_each(|delta| all.absorb(delta.clone()));
    all
}

proptest! {
    #[test]
    fn an_honest_agent_is_always_believed(
        devices in 1u64..60, every_us in 100_000u64..3_000_000,
        held in 0usize..12, repeats in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        restart in any::<Option<prop::sample::Index>>(),
    ) {
        let (timetable, shard) = bench(devices, every_us);
        let given = Given { timetable: &timetable, shard: &shard };
        let mut deltas = honest(&timetable, &shard);
        // The target stands still for a while, and then takes everything at once; memory runs short.
        let late = sum(&deltas[..=held.min(deltas.len() - 1)]);
        deltas.splice(..=held.min(deltas.len() - 1), [Delta { first_window: late.last_window, ..late }]);
        let restart = restart.map(|at| at.index(deltas.len()));
        let mut credit = Credit::default();
        for (seq, delta) in deltas.iter().enumerate() {
            if restart == Some(seq) {
                credit = Credit::stored_through(seq as i64 - 1);
            }
            prop_assert_eq!(credit.take(given, seq as u64, delta), Ok(()));
            for repeat in &repeats {
                let again = repeat.index(seq + 1);
                prop_assert_eq!(credit.take(given, again as u64, &deltas[again]), Ok(()));
            }
        }
        prop_assert_eq!(credit.total(given, &sum(&deltas)), Ok(()));
    }

    #[test]
    fn more_slots_than_the_devices_had_are_never_believed(
        devices in 1u64..60, every_us in 100_000u64..3_000_000, at in 0usize..12,
        class in 0usize..5, more in 1u64..u64::MAX / 2,
    ) {
        let (timetable, shard) = bench(devices, every_us);
        let given = Given { timetable: &timetable, shard: &shard };
        let mut deltas = honest(&timetable, &shard);
        let tally = deltas[at].cells.values_mut().next().unwrap();
        // Beyond what would be due if the bound's horizon had passed as well.
        let more = more.saturating_add((END_US + 40_000_000) / every_us * devices + devices);
        let counts = [&mut tally.sent, &mut tally.missed, &mut tally.not_connected, &mut tally.away, &mut tally.unsent];
        *counts.into_iter().nth(class).unwrap() = more;
        let mut credit = Credit::default();
        let first_refused = deltas
            .iter()
            .enumerate()
            .find(|(seq, delta)| credit.take(given, *seq as u64, delta).is_err())
            .map(|(seq, _)| seq);
        prop_assert_eq!(first_refused, Some(at));
        let is_refused = credit.total(given, &Delta { cells: deltas[at].cells.clone(), ..Delta::default() }).is_err();
        prop_assert!(is_refused);
    }

    #[test]
    fn what_is_not_believed_leaves_no_trace(seq in 0u64..200, sent in any::<u64>(), series in 0u32..9) {
        let (timetable, shard) = bench(5, 500_000);
        let given = Given { timetable: &timetable, shard: &shard };
        let mut delta = Delta::default();
        delta.cells.insert((SeriesId(series), StageId(0)), Tally { sent, ..Tally::default() });
        let mut credit = Credit::default();
        if credit.take(given, seq, &delta).is_err() {
            prop_assert_eq!((&credit.numbers, credit.classed.len()), (&Numbers::default(), 0));
        }
    }
}

#[track_caller]
fn refused(delta: &Delta) -> Impossible {
    let (timetable, shard) = bench(5, 500_000);
    let given = Given { timetable: &timetable, shard: &shard };
    Credit::default().take(given, 0, delta).expect_err("it cannot be true")
}

#[test]
fn a_report_names_only_what_the_plan_has() {
    let mut cells = Delta::default();
    cells.cells.insert((SeriesId(99), StageId(0)), Tally::default());
    assert!(matches!(refused(&cells), Impossible::Unknown { what: "series", number: 99, .. }));
    let mut stage = Delta::default();
    stage.cells.insert((SeriesId(0), StageId(7)), Tally::default());
    assert!(matches!(refused(&stage), Impossible::Unknown { what: "stage", number: 7, .. }));
    let progress = Progress { series: SeriesId(50), through_us: 0, open: BTreeMap::new() };
    let progress = Delta { progress: vec![progress], ..Delta::default() };
    assert!(matches!(refused(&progress), Impossible::Unknown { what: "series", .. }));
    let window = Delta { last_window: u64::MAX / WINDOW_US - 60, ..Delta::default() };
    assert!(matches!(refused(&window), Impossible::Window { .. }));
}

#[test]
fn no_sum_over_what_is_believed_overflows() {
    let series = SeriesId(0);
    for tally in [
        Tally { bytes: u64::MAX, ..Tally::default() },
        Tally { acked: 1 << 62, ..Tally::default() },
        Tally {
            errors: [(crate::outcome::ErrorClass::ALL[0], u64::MAX)].into(),
            ..Tally::default()
        },
    ] {
        let mut delta = Delta::default();
        delta.cells.insert((series, StageId(0)), tally);
        assert!(matches!(refused(&delta), Impossible::Count { .. }));
    }
}

#[test]
fn an_agent_has_no_more_devices_than_it_was_given() {
    let gauge = DeviceGauge { group: 0, connected: 6, ..DeviceGauge::default() };
    let delta = Delta { devices: vec![gauge], ..Delta::default() };
    assert!(matches!(refused(&delta), Impossible::Devices { found: 6, most: 5, .. }));
}

#[test]
fn numbers_come_without_holes_but_for_what_is_on_its_way() {
    let (timetable, shard) = bench(5, 500_000);
    let given = Given { timetable: &timetable, shard: &shard };
    let mut credit = Credit::stored_through(41);
    let mut take = |seq| credit.take(given, seq, &Delta::default());
    assert_eq!(take(43), Ok(()));
    assert_eq!(take(7), Ok(()), "it was sent again");
    assert_eq!(take(42 + MOST_AHEAD + 1), Err(Impossible::Number { found: 107, next: 42 }));
    assert_eq!(take(42), Ok(()));
    assert_eq!(take(44 + MOST_AHEAD), Ok(()));
    assert_eq!(take(u64::MAX), Err(Impossible::Number { found: u64::MAX, next: 44 }));
}
