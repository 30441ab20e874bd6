//! Deltas on the wire and in the store. What comes in is checked against the plan's size, the
//! histogram layout and itself before it can be added to anything.

use std::collections::BTreeMap;

use prost::Message;
use shoal_domain::delay::{ClockInterval, Delays};
use shoal_domain::delta::{
    Cells, Delta, DeviceGauge, Failure, MAX_FAILURE_DEVICES, MAX_FAILURES, Progress, Samples, Tally,
};
use shoal_domain::ids::{ObserverId, SeriesId, StageId};
use shoal_domain::observed::{
    ArrivalCells, Arrivals, MAX_READER_GAPS, Positions, ReaderGap, SourceClocks,
};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::receipts::{Mark, Receipt, Runs};
use shoal_domain::requests::RequestLog;
use shoal_domain::schedule::MAX_REVISIONS;
use shoal_domain::tracker::Totals;

use crate::{BadField, v1};

mod health;

/// Longest failure text that is kept, in bytes.
const MAX_TEXT: usize = 300;

pub fn encode(delta: &Delta) -> Vec<u8> {
    to_wire(delta).encode_to_vec()
}

pub fn decode(bytes: &[u8]) -> Result<Delta, BadField> {
    let wire = v1::Delta::decode(bytes).map_err(|error| BadField::new("delta", error))?;
    from_wire(wire)
}

fn to_wire(delta: &Delta) -> v1::Delta {
    v1::Delta {
        first_window: delta.first_window,
        last_window: delta.last_window,
        cells: delta
            .cells
            .iter()
            .map(|((series, stage), tally)| cell(*series, *stage, tally))
            .collect(),
        progress: delta.progress.iter().map(progress).collect(),
        devices: delta.devices.iter().map(gauge).collect(),
        health: Some(health::to_wire(&delta.health)),
        failures: delta.failures.iter().map(failure).collect(),
        arrivals: delta
            .arrivals
            .iter()
            .map(|((observer, stage), seen)| arrivals(*observer, *stage, seen))
            .collect(),
        gaps: delta.gaps.iter().map(gap).collect(),
        receipts: delta.receipts.iter().map(receipt).collect(),
        clock_error_us: delta.clock_error_us,
        revised_us: delta.revised_us.clone(),
        positions: positions_to_wire(&delta.positions),
        clocks: delta.clocks.iter().map(clock).collect(),
        handover: delta.handover,
        spells: delta.spells.iter().map(health::spell).collect(),
        settled: delta.settled.iter().map(settled_to_wire).collect(),
        wall_offset_us: delta.wall_offset_us,
    }
}

fn settled_to_wire((observer, totals): (&ObserverId, &Totals)) -> v1::Settled {
    v1::Settled {
        observer: observer.0,
        sent: totals.sent,
        acked: totals.acked,
        unique: totals.unique,
        received: totals.received,
        out_of_order: totals.out_of_order,
        late_events: totals.late_events,
    }
}

pub fn settled_from(wire: &v1::Settled) -> (ObserverId, Totals) {
    let totals = Totals {
        sent: wire.sent,
        acked: wire.acked,
        unique: wire.unique,
        received: wire.received,
        out_of_order: wire.out_of_order,
        late_events: wire.late_events,
        ..Totals::default()
    };
    (ObserverId(wire.observer), totals)
}

pub fn positions_to_wire(positions: &Positions) -> Vec<v1::Position> {
    let position = |(observer, partition, next): (ObserverId, u32, u64)| v1::Position {
        observer: observer.0,
        partition,
        next,
    };
    positions.iter().map(position).collect()
}

/// Numbers that no source can have are not taken.
pub fn positions_from_wire(wire: &[v1::Position]) -> Positions {
    let mut positions = Positions::default();
    for position in wire.iter().filter(|position| i64::try_from(position.next).is_ok()) {
        positions.raise(ObserverId(position.observer), position.partition, position.next);
    }
    positions
}

fn clock(
    ((observer, partition), interval): (&(ObserverId, u32), &ClockInterval),
) -> v1::SourceClock {
    v1::SourceClock {
        observer: observer.0,
        partition: *partition,
        low_us: interval.low_us,
        high_us: interval.high_us,
        has_moved: interval.has_moved,
    }
}

fn clocks_from(wire: &[v1::SourceClock]) -> SourceClocks {
    let interval = |clock: &v1::SourceClock| {
        let v1::SourceClock { low_us, high_us, has_moved, .. } = *clock;
        let key = (ObserverId(clock.observer), clock.partition);
        (key, ClockInterval { low_us, high_us, has_moved })
    };
    wire.iter().map(interval).collect()
}

fn arrivals(observer: ObserverId, stage: StageId, seen: &Arrivals) -> v1::Arrivals {
    v1::Arrivals {
        observer: observer.0,
        stage: stage.0,
        received: seen.received,
        unparsed: seen.unparsed,
        foreign: seen.foreign,
        unstamped: seen.unstamped,
        backlog: seen.backlog,
        ingest: delays(&seen.ingest),
        delivery: delays(&seen.delivery),
        end_to_end: delays(&seen.end_to_end),
    }
}

fn delays(delays: &Delays) -> Option<v1::Delays> {
    (delays.count() > 0)
        .then(|| v1::Delays { ahead: samples(&delays.ahead), behind: samples(&delays.behind) })
}

fn gap(gap: &ReaderGap) -> v1::ReaderGap {
    v1::ReaderGap {
        observer: gap.observer.0,
        from_us: gap.from_us,
        to_us: gap.to_us,
        why: gap.why.clone(),
    }
}

fn receipt(receipt: &Receipt) -> v1::Receipt {
    let (mark, of) = match receipt.mark {
        Mark::Sent(series) => (v1::Mark::Sent, series.0),
        Mark::Acked(series) => (v1::Mark::Acked, series.0),
        Mark::Resent(series) => (v1::Mark::Resent, series.0),
        Mark::Received(observer) => (v1::Mark::Received, observer.0),
        Mark::Blind(observer) => (v1::Mark::Blind, observer.0),
    };
    v1::Receipt { mark: mark.into(), of, runs: receipt.runs.as_bytes().to_vec() }
}

fn cell(series: SeriesId, stage: StageId, tally: &Tally) -> v1::Cell {
    v1::Cell {
        series: series.0,
        stage: stage.0,
        sent: tally.sent,
        held: tally.held,
        missed: tally.missed,
        not_connected: tally.not_connected,
        away: tally.away,
        unsent: tally.unsent,
        unassigned: tally.unassigned,
        acked: tally.acked,
        censored: tally.censored,
        resent: tally.resent,
        received: tally.received,
        bytes: tally.bytes,
        errors: tally.errors.iter().map(|(class, n)| (class.word().to_owned(), *n)).collect(),
        response_time: samples(&tally.response_time),
        service_time: samples(&tally.service_time),
        send_lag: samples(&tally.send_lag),
    }
}

fn samples(samples: &Samples) -> Option<v1::Samples> {
    (samples.count() > 0).then(|| v1::Samples {
        histogram: samples.encoded(),
        count: samples.count(),
        sum_us: samples.sum_us(),
        min_us: samples.min_us().unwrap_or(0),
        max_us: samples.max_us().unwrap_or(0),
    })
}

fn progress(progress: &Progress) -> v1::Progress {
    v1::Progress {
        series: progress.series.0,
        through_us: progress.through_us,
        open: progress.open.iter().map(|(stage, n)| (stage.0, *n)).collect(),
    }
}

fn gauge(gauge: &DeviceGauge) -> v1::DeviceGauge {
    v1::DeviceGauge {
        group: gauge.group,
        started: gauge.started,
        connected: gauge.connected,
        known: gauge.known,
        failed: gauge.failed,
    }
}

fn failure(failure: &Failure) -> v1::Failure {
    v1::Failure {
        series: failure.series.0,
        class: failure.class.word().to_owned(),
        text: failure.text.clone(),
        count: failure.count,
        first_us: failure.first_us,
        last_us: failure.last_us,
        devices: failure.devices.clone(),
    }
}

fn from_wire(wire: v1::Delta) -> Result<Delta, BadField> {
    if wire.first_window > wire.last_window {
        return Err(BadField::new("first_window", "it is after last_window"));
    }
    let mut cells = Cells::new();
    for cell in wire.cells {
        let key = (SeriesId(cell.series), StageId(cell.stage));
        if cells.insert(key, tally_from(cell)?).is_some() {
            return Err(BadField::new("cells", "one series and stage stands there twice"));
        }
    }
    if wire.failures.len() > MAX_FAILURES + ErrorClass::ALL.len() * 64 {
        return Err(BadField::new("failures", "more than an agent may keep"));
    }
    let mut seen = ArrivalCells::new();
    for cell in wire.arrivals {
        let key = (ObserverId(cell.observer), StageId(cell.stage));
        if seen.insert(key, arrivals_from(cell)?).is_some() {
            return Err(BadField::new("arrivals", "one observer and stage stands there twice"));
        }
    }
    // Of all observers of an agent.
    if wire.gaps.len() > 64 * MAX_READER_GAPS {
        return Err(BadField::new("gaps", "more than an agent may keep"));
    }
    if wire.revised_us.len() > MAX_REVISIONS {
        return Err(BadField::new("revised_us", "more than a run may have"));
    }
    let spells = health::spells_from(&wire.spells)?;
    Ok(Delta {
        first_window: wire.first_window,
        last_window: wire.last_window,
        cells,
        progress: wire.progress.into_iter().map(progress_from).collect(),
        devices: wire.devices.into_iter().map(gauge_from).collect(),
        health: health::from_wire(&wire.health.unwrap_or_default()),
        spells,
        failures: wire.failures.into_iter().map(failure_from).collect::<Result<_, _>>()?,
        arrivals: seen,
        gaps: wire.gaps.into_iter().map(gap_from).collect(),
        receipts: wire.receipts.into_iter().map(receipt_from).collect::<Result<_, _>>()?,
        // It travels beside the delta's bytes.
        requests: RequestLog::default(),
        clock_error_us: wire.clock_error_us,
        positions: positions_from_wire(&wire.positions),
        clocks: clocks_from(&wire.clocks),
        settled: wire.settled.iter().map(settled_from).collect(),
        wall_offset_us: wire.wall_offset_us,
        revised_us: wire.revised_us,
        handover: wire.handover,
    })
}

/// One observer's arrivals in one stage.
pub fn arrivals_from(wire: v1::Arrivals) -> Result<Arrivals, BadField> {
    Ok(Arrivals {
        received: wire.received,
        unparsed: wire.unparsed,
        foreign: wire.foreign,
        unstamped: wire.unstamped,
        backlog: wire.backlog,
        ingest: delays_from("ingest", wire.ingest)?,
        delivery: delays_from("delivery", wire.delivery)?,
        end_to_end: delays_from("end_to_end", wire.end_to_end)?,
    })
}

fn delays_from(field: &'static str, wire: Option<v1::Delays>) -> Result<Delays, BadField> {
    let wire = wire.unwrap_or_default();
    let (ahead, behind) = (samples_from(field, wire.ahead)?, samples_from(field, wire.behind)?);
    Delays::from_samples(ahead, behind).map_err(|error| BadField::new(field, error))
}

fn gap_from(wire: v1::ReaderGap) -> ReaderGap {
    let mut why = wire.why;
    why.truncate(why.floor_char_boundary(MAX_TEXT));
    ReaderGap {
        observer: ObserverId(wire.observer),
        from_us: wire.from_us,
        to_us: wire.to_us.max(wire.from_us),
        why,
    }
}

fn receipt_from(wire: v1::Receipt) -> Result<Receipt, BadField> {
    let mark = match wire.mark() {
        v1::Mark::Sent => Mark::Sent(SeriesId(wire.of)),
        v1::Mark::Acked => Mark::Acked(SeriesId(wire.of)),
        v1::Mark::Resent => Mark::Resent(SeriesId(wire.of)),
        v1::Mark::Received => Mark::Received(ObserverId(wire.of)),
        v1::Mark::Blind => Mark::Blind(ObserverId(wire.of)),
        v1::Mark::Unspecified => return Err(BadField::new("mark", "unknown")),
    };
    let runs = Runs::from_bytes(wire.runs).map_err(|error| BadField::new("runs", error))?;
    Ok(Receipt { mark, runs })
}

fn tally_from(cell: v1::Cell) -> Result<Tally, BadField> {
    let mut errors = BTreeMap::new();
    for (word, n) in cell.errors {
        errors.insert(class_from(&word)?, n);
    }
    Ok(Tally {
        sent: cell.sent,
        held: cell.held,
        missed: cell.missed,
        not_connected: cell.not_connected,
        away: cell.away,
        unsent: cell.unsent,
        unassigned: cell.unassigned,
        acked: cell.acked,
        censored: cell.censored,
        resent: cell.resent,
        received: cell.received,
        bytes: cell.bytes,
        errors,
        response_time: samples_from("response_time", cell.response_time)?,
        service_time: samples_from("service_time", cell.service_time)?,
        send_lag: samples_from("send_lag", cell.send_lag)?,
    })
}

fn samples_from(field: &'static str, wire: Option<v1::Samples>) -> Result<Samples, BadField> {
    let wire = wire.unwrap_or_default();
    Samples::from_parts(&wire.histogram, wire.count, wire.sum_us, wire.min_us, wire.max_us)
        .map_err(|error| BadField::new(field, error))
}

fn class_from(word: &str) -> Result<ErrorClass, BadField> {
    ErrorClass::from_word(word)
        .ok_or_else(|| BadField::new("class", format!("`{word}` is no error class")))
}

fn progress_from(wire: v1::Progress) -> Progress {
    Progress {
        series: SeriesId(wire.series),
        through_us: wire.through_us,
        open: wire.open.into_iter().map(|(stage, n)| (StageId(stage), n)).collect(),
    }
}

fn gauge_from(wire: v1::DeviceGauge) -> DeviceGauge {
    DeviceGauge {
        group: wire.group,
        started: wire.started,
        connected: wire.connected,
        known: wire.known,
        failed: wire.failed,
    }
}

fn failure_from(wire: v1::Failure) -> Result<Failure, BadField> {
    let mut text = wire.text;
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    Ok(Failure {
        series: SeriesId(wire.series),
        class: class_from(&wire.class)?,
        text,
        count: wire.count,
        first_us: wire.first_us,
        last_us: wire.last_us,
        devices: wire.devices.into_iter().take(MAX_FAILURE_DEVICES).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shoal_domain::delta::Health;
    use shoal_domain::receipts::{Collected, Run};
    use shoal_domain::strain::{Spell, Strain};

    fn any_delta() -> impl Strategy<Value = Delta> {
        let tally = (proptest::collection::vec(0u64..10_000_000, 0..20), 0u64..100, 0u64..100);
        proptest::collection::btree_map((0u32..5, 0u32..4), tally, 0..6).prop_map(|cells| {
            let mut delta = Delta { first_window: 3, last_window: 7, ..Delta::default() };
            for ((series, stage), (values, missed, acked)) in cells {
                let mut tally = Tally { missed, acked, resent: acked, ..Tally::default() };
                (tally.received, tally.bytes, tally.unassigned) = (missed, acked, missed);
                for value in values {
                    tally.sent += 1;
                    tally.response_time.record(value);
                    tally.error(ErrorClass::ALL[value as usize % ErrorClass::ALL.len()]);
                }
                delta.cells.insert((SeriesId(series), StageId(stage)), tally);
                let open = BTreeMap::from([(StageId(stage), missed)]);
                delta.progress.push(Progress { series: SeriesId(series), through_us: acked, open });
            }
            for (n, (series, stage)) in delta.cells.keys().enumerate() {
                let mut seen = Arrivals { received: n as u64, foreign: 3, ..Arrivals::default() };
                (seen.unstamped, seen.backlog) = (1, 2);
                delta.positions.raise(ObserverId(series.0), n as u32, 77);
                let clock = ClockInterval { low_us: -5, high_us: n as i64, has_moved: n > 2 };
                delta.clocks.insert((ObserverId(series.0), n as u32), clock);
                let settled =
                    Totals { sent: 9, acked: 8, unique: 7, received: 6, ..Totals::default() };
                let settled = Totals { out_of_order: 5, late_events: n as u64, ..settled };
                delta.settled.insert(ObserverId(series.0), settled);
                delta.wall_offset_us = Some(-2_000_000 + n as i64);
                seen.end_to_end.record(17 - 30 * n as i64);
                delta.arrivals.insert((ObserverId(series.0), *stage), seen);
                let gap = ReaderGap {
                    observer: ObserverId(series.0),
                    from_us: 5,
                    to_us: 9,
                    why: "cut".to_owned(),
                };
                delta.gaps.push(gap);
                let mut collected = Collected::default();
                collected.push(Run::one(7, 1, n as u32));
                for mark in [Mark::Sent(*series), Mark::Received(ObserverId(0))] {
                    collected.push(Run::one(9, 0, 4));
                    collected.take(mark, &mut delta.receipts);
                }
                let mark = Mark::Blind(ObserverId(0));
                delta.receipts.push(Receipt { mark, runs: Runs::default() });
            }
            delta.clock_error_us = 12;
            delta.health =
                Health { wall_us: 1_000_000, waited_us: 3, throttled_us: 9, ..Health::default() };
            for (n, strain) in Strain::ALL.into_iter().enumerate() {
                let n = n as u64;
                let spell =
                    Spell { strain, first_window: n, last_window: n + 4, windows: 9, amount: 7 };
                delta.spells.push(spell);
            }
            delta.devices.push(DeviceGauge {
                group: 0,
                started: 9,
                connected: 7,
                known: 8,
                failed: 1,
            });
            delta
        })
    }

    proptest! {
        #[test]
        fn a_delta_survives_the_wire(delta in any_delta()) {
            prop_assert_eq!(decode(&encode(&delta)), Ok(delta));
        }

        #[test]
        fn garbage_is_refused_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_flipped_byte_never_panics(delta in any_delta(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = encode(&delta);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes);
        }
    }
}
