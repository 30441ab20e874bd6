//! Times of many alarms, each of which stays where it is until it comes up: an alarm that is put
//! off is only then moved, so that in a device's usual life each of its looks costs one move.
//!
//! What comes within the second, as most alarms of a loaded core do, stands in a wheel of ticks of
//! about a millisecond, entered and left at the same price however many there are. What comes later
//! stands in a heap, so that whoever sleeps for hours wakes nobody.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const TICK_BITS: u32 = 10;
const TICKS: u64 = 1_024;

#[derive(Debug)]
pub(super) struct Queue {
    /// By tick, modulo their number; no entry is of a tick before `tick`, or of a whole turn later.
    wheel: Box<[Vec<Entry>]>,
    /// Which of them have entries.
    occupied: [u64; TICKS as usize / 64],
    tick: u64,
    /// The earliest first.
    far: BinaryHeap<Reverse<Entry>>,
    /// By id.
    alarms: Vec<Alarm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at_us: u64,
    id: u32,
}

#[derive(Debug, Clone, Copy)]
struct Alarm {
    wanted_us: u64,
    /// The earliest of its entries; all others are left over from before.
    queued_us: u64,
}

const UNSET: Alarm = Alarm { wanted_us: u64::MAX, queued_us: u64::MAX };

impl Default for Queue {
    fn default() -> Self {
        Self {
            wheel: (0..TICKS).map(|_| Vec::new()).collect(),
            occupied: [0; TICKS as usize / 64],
            tick: 0,
            far: BinaryHeap::new(),
            alarms: Vec::new(),
        }
    }
}

impl Queue {
    /// One more alarm; its id is the number of those before it.
    pub(super) fn enter(&mut self) {
        self.alarms.push(UNSET);
    }

    pub(super) fn set(&mut self, id: u32, at_us: u64) {
        let alarm = &mut self.alarms[id as usize];
        alarm.wanted_us = at_us;
        if at_us < alarm.queued_us {
            alarm.queued_us = at_us;
            self.queue(Entry { at_us, id });
        }
    }

    pub(super) fn is_set(&self, id: u32) -> bool {
        self.alarms[id as usize].wanted_us != u64::MAX
    }

    fn queue(&mut self, entry: Entry) {
        let tick = (entry.at_us >> TICK_BITS).max(self.tick);
        if tick >= self.tick + TICKS {
            self.far.push(Reverse(entry));
            return;
        }
        let place = (tick % TICKS) as usize;
        self.wheel[place].push(entry);
        self.occupied[place / 64] |= 1 << (place % 64);
    }

    /// No alarm is earlier; one that was put off may be later.
    pub(super) fn next_us(&self) -> u64 {
        let near = self.next_tick().and_then(|tick| {
            let entries = &self.wheel[(tick % TICKS) as usize];
            entries.iter().map(|entry| entry.at_us).min()
        });
        let far = self.far.peek().map(|Reverse(entry)| entry.at_us);
        near.unwrap_or(u64::MAX).min(far.unwrap_or(u64::MAX))
    }

    /// One whose time has come, which is then no longer set.
    pub(super) fn take(&mut self, now_us: u64) -> Option<u32> {
        while let Some(entry) = self.leave(now_us) {
            let alarm = &mut self.alarms[entry.id as usize];
            if alarm.queued_us != entry.at_us {
                continue;
            }
            let wanted_us = alarm.wanted_us;
            *alarm = UNSET;
            if wanted_us <= now_us {
                return Some(entry.id);
            }
            self.set(entry.id, wanted_us);
        }
        None
    }

    /// An entry whose time has come.
    fn leave(&mut self, now_us: u64) -> Option<Entry> {
        let now_tick = now_us >> TICK_BITS;
        while let Some(tick) = self.next_tick()
            && tick <= now_tick
        {
            self.tick = tick;
            let place = (tick % TICKS) as usize;
            let entries = &mut self.wheel[place];
            let due = entries.iter().rposition(|entry| entry.at_us <= now_us);
            let left = due.map(|due| entries.swap_remove(due));
            if entries.is_empty() {
                self.occupied[place / 64] &= !(1 << (place % 64));
            }
            if left.is_some() {
                return left;
            }
            if tick == now_tick {
                break;
            }
        }
        self.tick = self.tick.max(now_tick);
        let is_due = self.far.peek().is_some_and(|Reverse(entry)| entry.at_us <= now_us);
        if is_due { self.far.pop().map(|Reverse(entry)| entry) } else { None }
    }

    /// The first from `tick` on that has entries.
    fn next_tick(&self) -> Option<u64> {
        let from = self.tick % TICKS;
        let (word, bit) = ((from / 64) as usize, from % 64);
        let n_words = self.occupied.len();
        // The first word is looked at twice: from the bit on, and at the end of the turn before it.
        (0..=n_words).find_map(|i| {
            let mut bits = self.occupied[(word + i) % n_words];
            if i == 0 {
                bits &= u64::MAX << bit;
            } else if i == n_words {
                bits &= !(u64::MAX << bit);
            }
            let place = ((word + i) % n_words) as u64 * 64 + u64::from(bits.trailing_zeros());
            (bits != 0).then(|| self.tick + (place + TICKS - from) % TICKS)
        })
    }
}
