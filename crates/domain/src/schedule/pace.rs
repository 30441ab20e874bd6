//! The absolute pace of one series of one device: which slot is due when.
//!
//! Even paces are `first + n · period`. In a group with `churn` the slots of each visit are the
//! same number, counted from its beginning: slot n is number n mod S of visit n / S. Jitter moves
//! each slot to a later moment of its own period, by its own draw, so their order stays.

use super::poisson::Poisson;
use super::recorded::Replayed;
use super::{Calendar, part};
use crate::plan::{Arrivals, Pace, Phase};
use crate::values::Stream;

const NS: u64 = 1_000;
/// Draws of a schedule that belong to no slot.
const PHASE_DRAW: u64 = 1;
const JITTER_DRAW: u64 = 2;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ticks {
    Even(Even),
    Poisson(Poisson),
    Replayed(Replayed),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Even {
    first_ns: u64,
    period_ns: u64,
    /// Slots of one cycle; a cycle of a device that stays is one period.
    per_cycle: u64,
    cycle_ns: u64,
    /// From `first_ns` to the end of the visit: jitter stays before it.
    room_ns: u64,
    jitter_ns: u64,
    stream: Stream,
}

impl Ticks {
    pub(super) fn of(pace: &Pace, calendar: &Calendar, stream: Stream, spread: u64) -> Self {
        let anchor_ns = calendar.anchor_us() * NS;
        let Pace { period_ns, arrivals, phase, .. } = pace;
        let (period_ns, phase) = (*period_ns, *phase);
        let jitter_ppm = match arrivals {
            Arrivals::Poisson => return Self::Poisson(Poisson::new(anchor_ns, period_ns, stream)),
            Arrivals::Even { jitter_ppm } => *jitter_ppm,
            Arrivals::Recorded(_) => 0,
        };
        let fraction = match phase {
            Phase::Spread => spread,
            Phase::Random => stream.draw(0, PHASE_DRAW),
            Phase::Together => 0,
        };
        if let Arrivals::Recorded(recorded) = arrivals {
            let first_ns = anchor_ns + part(fraction, period_ns);
            return Self::Replayed(Replayed { first_ns, recorded: recorded.clone() });
        }
        let jitter_ns = u128::from(period_ns) * u128::from(jitter_ppm) / 1_000_000;
        let even = Even {
            first_ns: 0,
            period_ns,
            per_cycle: 1,
            cycle_ns: period_ns,
            room_ns: u64::MAX,
            jitter_ns: jitter_ns as u64,
            stream,
        };
        Self::Even(match calendar.visits {
            Some(visits) => {
                let (stay_ns, cycle_ns) = (visits.stay_us * NS, visits.cycle_us * NS);
                let phase_ns = part(fraction, period_ns.min(stay_ns));
                let room_ns = stay_ns - phase_ns;
                let first_ns = visits.first_us * NS + phase_ns;
                let per_cycle = room_ns.div_ceil(period_ns);
                Even { first_ns, per_cycle, cycle_ns, room_ns, ..even }
            }
            // All devices at the same moments of run time, whenever they started.
            None if phase == Phase::Together => {
                Even { first_ns: anchor_ns.div_ceil(period_ns) * period_ns, ..even }
            }
            None => Even { first_ns: anchor_ns + part(fraction, period_ns), ..even },
        })
    }

    pub(super) fn intended_ns(&self, slot: u64) -> u64 {
        match self {
            Self::Even(even) => even.intended_ns(slot),
            Self::Poisson(poisson) => poisson.intended_ns(slot),
            Self::Replayed(replayed) => replayed.intended_ns(slot),
        }
    }

    /// How many slots are due before `ns`.
    pub(super) fn count_before(&self, ns: u64) -> u64 {
        match self {
            Self::Even(even) => even.count_before(ns),
            Self::Poisson(poisson) => poisson.count_before(ns),
            Self::Replayed(replayed) => replayed.count_before(ns),
        }
    }

    /// Number of the first slot that is due at `ns` or later.
    pub(super) fn number_at(&self, ns: u64) -> u64 {
        match self {
            // Numbers have no gaps.
            Self::Even(even) => even.count_before(ns),
            Self::Replayed(replayed) => replayed.count_before(ns),
            Self::Poisson(poisson) => poisson.number_at(ns),
        }
    }

    pub(super) fn successor(&self, slot: u64) -> u64 {
        match self {
            Self::Even(_) | Self::Replayed(_) => slot + 1,
            Self::Poisson(poisson) => poisson.successor(slot),
        }
    }
}

impl Even {
    fn intended_ns(&self, slot: u64) -> u64 {
        let (cycle, within) = (slot / self.per_cycle, slot % self.per_cycle);
        let base_ns = self.first_ns + cycle * self.cycle_ns + within * self.period_ns;
        if self.jitter_ns == 0 {
            return base_ns;
        }
        let most_ns = self.jitter_ns.min(self.room_ns - within * self.period_ns);
        base_ns + part(self.stream.draw(slot, JITTER_DRAW), most_ns)
    }

    fn count_before(&self, ns: u64) -> u64 {
        let Some(since_ns) = ns.checked_sub(self.first_ns) else { return 0 };
        let (cycles, rest_ns) = (since_ns / self.cycle_ns, since_ns % self.cycle_ns);
        let within = rest_ns.div_ceil(self.period_ns).min(self.per_cycle);
        let count = cycles * self.per_cycle + within;
        // Only the last of them can have been moved to `ns` or later: each stays in its period.
        match count.checked_sub(1) {
            Some(last) if self.jitter_ns > 0 && self.intended_ns(last) >= ns => last,
            _ => count,
        }
    }
}
