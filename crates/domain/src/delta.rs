//! What an agent reports: counts and samples per series and stage, for some windows.
//!
//! A [`Tally`] is a commutative monoid: however deltas are split, repeated over agents or
//! coalesced, the sum is the same. Percentiles are read from merged histograms only, never from
//! parts. Gauges are last values and travel beside the tallies.

use std::collections::BTreeMap;

use crate::ids::{ObserverId, SeriesId, StageId};
use crate::observed::{
    ArrivalCells, Positions, ReaderGap, SourceClocks, add_gap, merge_arrivals, merge_clocks,
};
use crate::outcome::ErrorClass;
use crate::receipts::Receipt;
use crate::requests::RequestLog;
use crate::strain::{Spell, add_spell};
use crate::tracker::Totals;

mod samples;

pub use samples::{Samples, SamplesError};

/// Width of a window in microseconds of run time.
pub const WINDOW_US: u64 = 1_000_000;

/// Everything counted for one series in one stage (the stage of the *intended* time).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Attempts begun: handed to the socket (open model) or connection attempts.
    pub sent: u64,
    /// Of `sent`: those that had to wait for the target.
    pub held: u64,
    pub missed: u64,
    pub not_connected: u64,
    pub away: u64,
    pub unsent: u64,
    /// Of devices that changed hands: due here before their first connection here.
    pub unassigned: u64,
    /// Acknowledged by the target (QoS 1: PUBACK; connect: CONNACK 0), in time or late.
    pub acked: u64,
    /// Of the response times: lower bounds of sends still open at the end.
    pub censored: u64,
    /// Packets sent once more on a later connection of the same session; not part of `sent`.
    pub resent: u64,
    /// Messages that came in on a subscription.
    pub received: u64,
    /// Of payloads that were published, of bodies of replies.
    pub bytes: u64,
    pub errors: BTreeMap<ErrorClass, u64>,
    /// Done − intended.
    pub response_time: Samples,
    /// Done − real send.
    pub service_time: Samples,
    /// Real send − intended.
    pub send_lag: Samples,
}

impl Tally {
    /// See [`Samples::pack`].
    pub fn pack(&mut self) {
        self.response_time.pack();
        self.service_time.pack();
        self.send_lag.pack();
    }

    pub fn error(&mut self, class: ErrorClass) {
        *self.errors.entry(class).or_default() += 1;
    }

    pub fn n_errors(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Slots that ended in a class of those who held their devices.
    pub fn n_classed(&self) -> u64 {
        self.sent + self.missed + self.not_connected + self.away + self.unsent
    }

    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.held += other.held;
        self.missed += other.missed;
        self.not_connected += other.not_connected;
        self.away += other.away;
        self.unsent += other.unsent;
        self.unassigned += other.unassigned;
        self.acked += other.acked;
        self.censored += other.censored;
        self.resent += other.resent;
        self.received += other.received;
        self.bytes += other.bytes;
        for (class, n) in &other.errors {
            *self.errors.entry(*class).or_default() += n;
        }
        self.response_time.merge(&other.response_time);
        self.service_time.merge(&other.service_time);
        self.send_lag.merge(&other.send_lag);
    }
}

/// Tallies by series and stage.
pub type Cells = BTreeMap<(SeriesId, StageId), Tally>;

/// Adds every cell of `other`.
pub fn merge_cells(into: &mut Cells, other: &Cells) {
    for (key, tally) in other {
        into.entry(*key).or_default().merge(tally);
    }
}

/// How far a series is classed on one agent; absolute, the later one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub series: SeriesId,
    /// Run time up to which every due slot is classed or open.
    pub through_us: u64,
    /// Due before `through_us` and still waiting, per stage.
    pub open: BTreeMap<StageId, u64>,
}

/// Devices of one group on one agent; absolute, the later one counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceGauge {
    pub group: u32,
    pub started: u64,
    /// Now.
    pub connected: u64,
    /// At least once so far.
    pub known: u64,
    /// Failed for good (see `docs/scenario.md`, `connect_within`).
    pub failed: u64,
}

/// The generator's own state in these windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Longest gap of a core's 10 ms probe, beyond the 10 ms.
    pub stall_max_us: u64,
    /// Sum of the gaps longer than 100 ms (their slots are *missed*).
    pub stalled_us: u64,
    pub descriptor_errors: u64,
    pub port_errors: u64,
    /// Processor time of its process, all threads.
    pub cpu_us: u64,
    /// The most that its process held.
    pub memory_bytes: u64,
    pub descriptors: u64,
    /// Through the interfaces of its machine or container, whoever caused them.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// The time that the rest of this is of.
    pub wall_us: u64,
    /// In which its cores' threads were ready and waited for a processor, on average.
    pub waited_us: u64,
    /// In which somebody on its machine waited for one (Linux' pressure).
    pub pressure_us: u64,
    /// In which the hypervisor gave its processors to others, on average over them.
    pub stolen_us: u64,
    /// In which its container had used up its share.
    pub throttled_us: u64,
    /// By how much it began behind the instant that all were to begin at.
    pub start_lag_us: u64,
}

impl Health {
    pub fn merge(&mut self, other: &Self) {
        self.stall_max_us = self.stall_max_us.max(other.stall_max_us);
        self.stalled_us += other.stalled_us;
        self.descriptor_errors += other.descriptor_errors;
        self.port_errors += other.port_errors;
        self.cpu_us += other.cpu_us;
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.descriptors = self.descriptors.max(other.descriptors);
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.wall_us += other.wall_us;
        self.waited_us += other.waited_us;
        self.pressure_us += other.pressure_us;
        self.stolen_us += other.stolen_us;
        self.throttled_us += other.throttled_us;
        self.start_lag_us = self.start_lag_us.max(other.start_lag_us);
    }
}

/// One distinct failure: its key is (series, class, text). The number of keys is capped where
/// they arise; the rest is counted under [`OVERFLOW_TEXT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub series: SeriesId,
    pub class: ErrorClass,
    pub text: String,
    pub count: u64,
    pub first_us: u64,
    pub last_us: u64,
    /// Ids of at most [`MAX_FAILURE_DEVICES`] devices that met it.
    pub devices: Vec<String>,
}

pub const MAX_FAILURES: usize = 100;
pub const MAX_FAILURE_DEVICES: usize = 5;
pub const OVERFLOW_TEXT: &str = "(more distinct failures than are kept)";

/// Adds `failure` to a capped list, merging equal keys.
pub fn add_failure(list: &mut Vec<Failure>, failure: Failure) {
    let same = |known: &&mut Failure| {
        known.series == failure.series && known.class == failure.class && known.text == failure.text
    };
    if let Some(known) = list.iter_mut().find(same) {
        known.count += failure.count;
        known.first_us = known.first_us.min(failure.first_us);
        known.last_us = known.last_us.max(failure.last_us);
        for device in failure.devices {
            if known.devices.len() < MAX_FAILURE_DEVICES && !known.devices.contains(&device) {
                known.devices.push(device);
            }
        }
    } else if list.len() < MAX_FAILURES || failure.text == OVERFLOW_TEXT {
        list.push(failure);
    } else {
        add_failure(list, Failure { text: OVERFLOW_TEXT.to_owned(), ..failure });
    }
}

/// What one agent reports for the windows `first_window..=last_window`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    pub first_window: u64,
    pub last_window: u64,
    pub cells: Cells,
    pub progress: Vec<Progress>,
    pub devices: Vec<DeviceGauge>,
    pub health: Health,
    /// In which of these windows the generator strained.
    pub spells: Vec<Spell>,
    pub failures: Vec<Failure>,
    pub arrivals: ArrivalCells,
    pub gaps: Vec<ReaderGap>,
    /// Which numbers were sent, acknowledged, received: for the trackers, in order. Not part of
    /// any total.
    pub receipts: Vec<Receipt>,
    /// Travels beside the rest; not part of any total.
    pub requests: RequestLog,
    /// How far the sources were read that `receipts` and `arrivals` are of.
    pub positions: Positions,
    pub clocks: SourceClocks,
    /// What the trackers have settled of this window; of stored windows, never of an agent's delta.
    pub settled: BTreeMap<ObserverId, Totals>,
    /// By how much this agent's idea of the control plane's time may have been wrong.
    pub clock_error_us: u64,
    /// This agent's own wall clock minus the control plane's; absolute, and for people only: nothing
    /// is stamped by it.
    pub wall_offset_us: Option<i64>,
    /// Run times from which the load's revisions apply on this agent, in their order; absolute,
    /// and only ever longer.
    pub revised_us: Vec<u64>,
    /// The newest schedule by which this agent lets devices go; absolute.
    pub handover: u32,
}

impl Delta {
    /// How many windows it spans.
    pub fn seconds(&self) -> u64 {
        self.last_window.saturating_sub(self.first_window) + 1
    }

    /// Coalesces a later delta of the same assignment into this one: counts are conserved, only
    /// the resolution in time is lost, and what of a request log finds no room.
    pub fn absorb(&mut self, later: Self) {
        self.first_window = self.first_window.min(later.first_window);
        self.last_window = self.last_window.max(later.last_window);
        merge_cells(&mut self.cells, &later.cells);
        if !later.progress.is_empty() {
            self.progress = later.progress;
        }
        if !later.devices.is_empty() {
            self.devices = later.devices;
        }
        self.health.merge(&later.health);
        for spell in later.spells {
            add_spell(&mut self.spells, spell);
        }
        if later.revised_us.len() > self.revised_us.len() {
            self.revised_us = later.revised_us;
        }
        for failure in later.failures {
            add_failure(&mut self.failures, failure);
        }
        merge_arrivals(&mut self.arrivals, &later.arrivals);
        for gap in later.gaps {
            add_gap(&mut self.gaps, gap);
        }
        self.receipts.extend(later.receipts);
        self.requests.absorb(later.requests);
        self.positions.merge(&later.positions);
        merge_clocks(&mut self.clocks, &later.clocks);
        for (observer, totals) in &later.settled {
            self.settled.entry(*observer).or_default().merge(totals);
        }
        self.clock_error_us = self.clock_error_us.max(later.clock_error_us);
        self.wall_offset_us = later.wall_offset_us.or(self.wall_offset_us);
        self.handover = self.handover.max(later.handover);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(values: &[u64]) -> Tally {
        let mut tally = Tally::default();
        for &value in values {
            tally.sent += 1;
            if value % 7 == 0 {
                tally.error(ErrorClass::AckTimeout);
            }
            tally.response_time.record(value);
        }
        tally
    }

    proptest! {
        #[test]
        fn however_samples_are_split_the_merged_percentiles_are_those_of_all(
            values in proptest::collection::vec(1u64..100_000_000, 1..300),
            cut in 0usize..300,
        ) {
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut merged = tally(right);
            merged.merge(&tally(left));
            prop_assert_eq!(&merged, &tally(&values));

            // Packed or not, on either side.
            let (mut packed, mut other) = (tally(right), tally(left));
            packed.pack();
            prop_assert_eq!(&packed, &tally(right));
            packed.merge(&other);
            prop_assert_eq!(&packed, &merged);
            other.pack();
            let mut unpacked = tally(right);
            unpacked.merge(&other);
            prop_assert_eq!(&unpacked, &merged);
            packed.pack();
            let (a, b) = (&packed.response_time, &merged.response_time);
            prop_assert_eq!(a.encoded(), b.encoded());
            prop_assert_eq!(a.quantile_us(0.95), b.quantile_us(0.95));
            prop_assert_eq!(a.count_at_most(1_000), b.count_at_most(1_000));

            let mut sorted = values.clone();
            sorted.sort_unstable();
            for quantile in [0.0, 0.5, 0.9, 0.95, 0.99, 1.0] {
                let rank = ((quantile * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
                let exact = sorted[rank - 1] as f64;
                let found = merged.response_time.quantile_us(quantile).unwrap() as f64;
                prop_assert!((found - exact).abs() <= exact * 0.001 + 1.0, "{} {} {}", quantile, found, exact);
            }
            prop_assert_eq!(merged.response_time.min_us(), sorted.first().copied());
            prop_assert_eq!(merged.response_time.max_us(), sorted.last().copied());
        }

        #[test]
        fn samples_survive_their_encoding(values in proptest::collection::vec(0u64..4_000_000_000, 0..50)) {
            let samples = tally(&values).response_time;
            let again = Samples::from_parts(
                &samples.encoded(), samples.count(), samples.sum_us(),
                samples.min_us().unwrap_or(0), samples.max_us().unwrap_or(0),
            );
            prop_assert_eq!(again, Ok(samples));
        }
    }

    #[test]
    fn samples_that_do_not_add_up_are_refused() {
        let samples = tally(&[10, 20, 30]).response_time;
        let bytes = samples.encoded();
        assert!(Samples::from_parts(&bytes, 4, 60, 10, 30).is_err());
        assert!(Samples::from_parts(&bytes, 3, 600, 10, 30).is_err());
        assert!(Samples::from_parts(&bytes, 3, 60, 31, 30).is_err());
        assert!(Samples::from_parts(&[], 3, 60, 10, 30).is_err());
    }

    #[test]
    fn distinct_failures_are_capped_with_an_overflow_row() {
        let mut list = Vec::new();
        for n in 0..MAX_FAILURES + 50 {
            add_failure(
                &mut list,
                Failure {
                    series: SeriesId(0),
                    class: ErrorClass::Protocol,
                    text: format!("text {n}"),
                    count: 1,
                    first_us: n as u64,
                    last_us: n as u64,
                    devices: vec![format!("device-{n}")],
                },
            );
        }
        assert_eq!(list.len(), MAX_FAILURES + 1);
        assert_eq!(list.iter().map(|failure| failure.count).sum::<u64>(), MAX_FAILURES as u64 + 50);
        assert_eq!(list.last().unwrap().devices.len(), MAX_FAILURE_DEVICES);
    }
}
