//! When the generator strained: windows whose numbers it made, and not the target.
//!
//! An agent judges each of its windows as that closes and keeps the judgement as *spells*, runs of
//! windows of one kind. They travel and are folded beside the counts, so that whatever coalesces
//! deltas later, when it happened is not lost. What strains shows in its effects: slots that were
//! missed, sends that were late, descriptors and ports that ran out. What a machine says of its
//! processors (run queue, pressure, steal, throttling) explains an effect and is noted only beside
//! one; how busy the agent's own process was is no sign at all. Invariant: however spells are
//! merged, their windows and amounts are conserved.

use crate::delta::{Delta, Tally};

/// Above this send lag a send is late.
pub const LATE_US: u64 = 50_000;
/// A window is late if more than this share of its sends was: its p99 is above the limit.
const LATE_SHARE: f64 = 0.01;
/// A percentile of fewer sends is their maximum: then more of them must have been late.
const ENOUGH_SENDS: u64 = 100;
const LATE_SHARE_OF_FEW: f64 = 0.1;
/// What explains a strained window, as shares of its time.
const WAITED_SHARE: f64 = 0.1;
const PRESSURE_SHARE: f64 = 0.6;
const STOLEN_SHARE: f64 = 0.1;
const THROTTLED_SHARE: f64 = 0.05;
/// Machines are not judged by less time than this.
const ENOUGH_US: u64 = 500_000;

/// Strained windows with no more than this many others between them are one spell.
const JOINED: u64 = 2;
/// Spells of one kind that are kept; beyond it the nearest two become one.
pub const MAX_SPELLS: usize = 32;

/// What was wrong in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strain {
    /// Slots fell into a stall.
    Missed,
    /// p99 of send lag above [`LATE_US`].
    Late,
    /// Descriptors or ports ran out.
    Exhausted,
    /// Its threads were ready and waited for a processor.
    Waited,
    /// Somebody on its machine waited for a processor.
    Pressure,
    /// The hypervisor gave its processors to others.
    Stolen,
    /// Its container had used up its share.
    Throttled,
}

impl Strain {
    pub const ALL: [Self; 7] = [
        Self::Missed,
        Self::Late,
        Self::Exhausted,
        Self::Waited,
        Self::Pressure,
        Self::Stolen,
        Self::Throttled,
    ];

    /// Whether amounts are added up; otherwise the largest counts.
    const fn is_sum(self) -> bool {
        matches!(self, Self::Missed | Self::Exhausted)
    }

    /// Whether it only says why.
    pub const fn is_cause(self) -> bool {
        matches!(self, Self::Waited | Self::Pressure | Self::Stolen | Self::Throttled)
    }
}

/// A run of windows in which one thing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spell {
    pub strain: Strain,
    pub first_window: u64,
    pub last_window: u64,
    /// How many of these it was wrong in.
    pub windows: u64,
    /// Slots that were missed, errors; of [`Strain::Late`] the longest lag in µs; of causes the
    /// largest share of a window, in thousandths.
    pub amount: u64,
}

impl Spell {
    fn join(&mut self, other: &Self) {
        self.first_window = self.first_window.min(other.first_window);
        self.last_window = self.last_window.max(other.last_window);
        self.windows = self.windows.saturating_add(other.windows);
        self.amount = if self.strain.is_sum() {
            self.amount.saturating_add(other.amount)
        } else {
            self.amount.max(other.amount)
        };
    }
}

/// Adds a spell to those that are known, in order of kind and time.
pub fn add_spell(spells: &mut Vec<Spell>, spell: Spell) {
    let at = spells.partition_point(|known| {
        (known.strain, known.first_window) <= (spell.strain, spell.first_window)
    });
    spells.insert(at, spell);
    let mut next = at.saturating_sub(1);
    while next + 1 < spells.len() {
        let (known, follows) = (spells[next], spells[next + 1]);
        if known.strain > spell.strain {
            break;
        }
        if known.strain == follows.strain && gap(&known, &follows) <= JOINED {
            spells[next].join(&follows);
            spells.remove(next + 1);
        } else {
            next += 1;
        }
    }
    let of_kind = |known: &Spell| known.strain == spell.strain;
    if spells.iter().filter(|known| of_kind(known)).count() > MAX_SPELLS {
        let pairs = 0..spells.len() - 1;
        let nearest = pairs
            .filter(|at| of_kind(&spells[*at]) && of_kind(&spells[at + 1]))
            .min_by_key(|at| gap(&spells[*at], &spells[at + 1]));
        if let Some(at) = nearest {
            let follows = spells.remove(at + 1);
            spells[at].join(&follows);
        }
    }
}

/// Windows between two spells.
fn gap(one: &Spell, next: &Spell) -> u64 {
    next.first_window.saturating_sub(one.last_window.saturating_add(1))
}

/// What strained in the windows of one agent's delta, whose health is complete.
pub fn judge(delta: &Delta) -> Vec<Spell> {
    let (mut missed, mut sent, mut late, mut longest_us) = (0, 0, 0, 0);
    for tally in delta.cells.values() {
        missed += tally.missed;
        sent += tally.send_lag.count();
        late += n_late(tally);
        longest_us = longest_us.max(tally.send_lag.max_us().unwrap_or(0));
    }
    let health = &delta.health;
    let exhausted = health.descriptor_errors.saturating_add(health.port_errors);
    let share = if sent < ENOUGH_SENDS { LATE_SHARE_OF_FEW } else { LATE_SHARE };
    let is_late = late as f64 > sent as f64 * share;
    let mut found = Vec::new();
    let mut find = |strain, amount: u64| {
        let (first_window, last_window) = (delta.first_window, delta.last_window);
        let windows = delta.seconds();
        found.push(Spell { strain, first_window, last_window, windows, amount });
    };
    if missed > 0 {
        find(Strain::Missed, missed);
    }
    if is_late {
        find(Strain::Late, longest_us);
    }
    if exhausted > 0 {
        find(Strain::Exhausted, exhausted);
    }
    if (missed > 0 || is_late) && health.wall_us >= ENOUGH_US {
        let causes = [
            (Strain::Waited, health.waited_us, WAITED_SHARE),
            (Strain::Pressure, health.pressure_us, PRESSURE_SHARE),
            (Strain::Stolen, health.stolen_us, STOLEN_SHARE),
            (Strain::Throttled, health.throttled_us, THROTTLED_SHARE),
        ];
        for (strain, us, limit) in causes {
            let share = (us as f64 / health.wall_us as f64).min(1.0);
            if share > limit {
                find(strain, (share * 1_000.0) as u64);
            }
        }
    }
    found
}

fn n_late(tally: &Tally) -> u64 {
    match tally.send_lag.max_us() {
        Some(longest) if longest > LATE_US => {
            tally.send_lag.count() - tally.send_lag.count_at_most(LATE_US)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Health;
    use crate::ids::{SeriesId, StageId};
    use proptest::prelude::*;

    fn window(missed: u64, lags_us: &[u64], health: Health) -> Delta {
        let mut tally = Tally { missed, ..Tally::default() };
        lags_us.iter().for_each(|us| tally.send_lag.record(*us));
        let mut delta = Delta { first_window: 7, last_window: 7, health, ..Delta::default() };
        delta.cells.insert((SeriesId(0), StageId(0)), tally);
        delta
    }

    fn kinds(delta: &Delta) -> Vec<(Strain, u64)> {
        judge(delta).iter().map(|spell| (spell.strain, spell.amount)).collect()
    }

    const BUSY: Health = Health {
        wall_us: 1_000_000,
        waited_us: 410_000,
        pressure_us: 700_000,
        stolen_us: 120_000,
        throttled_us: 2_000_000,
        start_lag_us: 0,
        cpu_us: 990_000,
        stall_max_us: 0,
        stalled_us: 0,
        descriptor_errors: 0,
        port_errors: 0,
        memory_bytes: 0,
        descriptors: 0,
        received_bytes: 0,
        sent_bytes: 0,
    };

    #[test]
    fn a_busy_machine_alone_is_no_strain_and_explains_one_that_shows() {
        assert_eq!(kinds(&window(0, &[900; 500], BUSY)), []);
        let causes = [
            (Strain::Waited, 410),
            (Strain::Pressure, 700),
            (Strain::Stolen, 120),
            (Strain::Throttled, 1_000),
        ];
        let found = kinds(&window(3, &[900; 500], BUSY));
        assert_eq!((found[0], &found[1..]), ((Strain::Missed, 3), &causes[..]));
        let mut lags = [900; 500];
        lags[..6].fill(80_000);
        assert_eq!(kinds(&window(0, &lags, BUSY))[0], (Strain::Late, 80_000));
        // By a window that is over at once nobody is judged.
        let blink = Health { wall_us: 900, ..BUSY };
        assert_eq!(kinds(&window(3, &[], blink)), [(Strain::Missed, 3)]);
    }

    #[test]
    fn one_late_send_of_a_few_is_chance_and_one_percent_of_many_is_not() {
        assert_eq!(kinds(&window(0, &[900, 900, 80_000], Health::default())).len(), 1);
        let mut few = [900; 20];
        few[0] = 80_000;
        assert_eq!(kinds(&window(0, &few, Health::default())), []);
        let mut many = [900; 200];
        many[..2].fill(80_000);
        assert_eq!(kinds(&window(0, &many, Health::default())), [], "exactly the hundredth");
        many[2] = 80_000;
        assert_eq!(kinds(&window(0, &many, Health::default())), [(Strain::Late, 80_000)]);
    }

    #[test]
    fn what_ran_out_is_told_whatever_else_was_well() {
        let health = Health { descriptor_errors: 2, port_errors: 3, ..Health::default() };
        assert_eq!(kinds(&window(0, &[900], health)), [(Strain::Exhausted, 5)]);
    }

    fn spell(strain: Strain, window: u64, amount: u64) -> Spell {
        Spell { strain, first_window: window, last_window: window, windows: 1, amount }
    }

    #[test]
    fn neighbours_of_one_kind_become_one_spell() {
        let mut spells = Vec::new();
        for (strain, window, amount) in [
            (Strain::Missed, 3, 2),
            (Strain::Late, 3, 80_000),
            (Strain::Missed, 9, 1),
            (Strain::Missed, 6, 5),
            (Strain::Late, 4, 70_000),
        ] {
            add_spell(&mut spells, spell(strain, window, amount));
        }
        let seen: Vec<_> = spells
            .iter()
            .map(|s| (s.strain, s.first_window, s.last_window, s.windows, s.amount))
            .collect();
        assert_eq!(seen, [(Strain::Missed, 3, 9, 3, 8), (Strain::Late, 3, 4, 2, 80_000)]);
    }

    proptest! {
        #[test]
        fn however_spells_come_in_windows_and_amounts_are_conserved_and_their_number_is_bounded(
            windows in proptest::collection::vec((0usize..7, 0u64..2_000, 1u64..1_000), 0..300),
        ) {
            let mut spells = Vec::new();
            for (strain, window, amount) in &windows {
                add_spell(&mut spells, spell(Strain::ALL[*strain], *window, *amount));
            }
            for (at, strain) in Strain::ALL.into_iter().enumerate() {
                let told = || windows.iter().filter(|(kind, ..)| *kind == at);
                let kept: Vec<&Spell> = spells.iter().filter(|s| s.strain == strain).collect();
                prop_assert!(kept.len() <= MAX_SPELLS);
                prop_assert!(kept.is_sorted_by_key(|s| s.first_window));
                prop_assert!(kept.windows(2).all(|pair| pair[0].last_window < pair[1].first_window));
                prop_assert_eq!(kept.iter().map(|s| s.windows).sum::<u64>(), told().count() as u64);
                let (sum, most) = (told().map(|t| t.2).sum::<u64>(), told().map(|t| t.2).max());
                let found = kept.iter().map(|s| s.amount);
                if strain.is_sum() {
                    prop_assert_eq!(found.sum::<u64>(), sum);
                } else {
                    prop_assert_eq!(found.max(), most);
                }
                let covers = |window: &u64| kept.iter().any(|s| (s.first_window..=s.last_window).contains(window));
                prop_assert!(told().all(|(_, window, _)| covers(window)));
            }
        }
    }
}
