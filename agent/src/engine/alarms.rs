//! When the devices of a core want to be looked at: one queue for all of them.
//!
//! A timer of the runtime for each device is entered, moved and fired at places in memory that are
//! far apart, and wakes a task only to find that nothing came from the broker. Here the times stand
//! side by side, the core sleeps until the first of them, and looks at the device itself.
//! Invariant: a device has one alarm, and it is due from its time on until it is set anew.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::task::Waker;

/// Of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AlarmId(u32);

/// `T` is whom an alarm is for.
#[derive(Debug)]
pub(super) struct Alarms<T> {
    queue: RefCell<Queue>,
    /// By id.
    owners: RefCell<Vec<T>>,
    /// What the core sleeps for: an earlier alarm has to wake it.
    asleep_until_us: Cell<u64>,
    sleeper: RefCell<Option<Waker>>,
}

impl<T> Default for Alarms<T> {
    fn default() -> Self {
        Self {
            queue: RefCell::default(),
            owners: RefCell::default(),
            asleep_until_us: Cell::new(0),
            sleeper: RefCell::default(),
        }
    }
}

impl<T: Clone> Alarms<T> {
    /// An alarm, not set, for whom `make` makes; `None` if it makes nobody.
    pub(super) fn enter(&self, make: impl FnOnce(AlarmId) -> Option<T>) -> Option<T> {
        let id = AlarmId(self.owners.borrow().len() as u32);
        let owner = make(id)?;
        self.owners.borrow_mut().push(owner.clone());
        self.queue.borrow_mut().enter();
        Some(owner)
    }

    /// In place of what was set before; `u64::MAX` is never.
    pub(super) fn set(&self, id: AlarmId, at_us: u64) {
        self.queue.borrow_mut().set(id, at_us);
        if at_us < self.asleep_until_us.get()
            && let Some(sleeper) = &*self.sleeper.borrow()
        {
            sleeper.wake_by_ref();
        }
    }

    /// `u64::MAX`: nobody wants to be looked at.
    pub(super) fn next_us(&self) -> u64 {
        self.queue.borrow_mut().first().map_or(u64::MAX, |(at_us, _)| at_us)
    }

    /// Whose time has come first; stays due until its alarm is set anew.
    pub(super) fn due(&self, now_us: u64) -> Option<T> {
        let (at_us, id) = self.queue.borrow_mut().first()?;
        (at_us <= now_us).then(|| self.owners.borrow()[id.0 as usize].clone())
    }

    /// The core goes to sleep.
    pub(super) fn core_sleeps(&self, until_us: u64, waker: &Waker) {
        self.asleep_until_us.set(until_us);
        let mut sleeper = self.sleeper.borrow_mut();
        if !sleeper.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *sleeper = Some(waker.clone());
        }
    }

    /// No alarm needs to wake it now.
    pub(super) fn core_is_awake(&self) {
        self.asleep_until_us.set(0);
    }
}

/// A heap of times, each of which stays where it is until it comes up: an alarm that is put off is
/// only then moved, so that in a device's usual life each of its looks costs one move.
#[derive(Debug, Default)]
struct Queue {
    /// Times with the device's number; the earliest first.
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    /// By id.
    alarms: Vec<Alarm>,
}

#[derive(Debug, Clone, Copy)]
struct Alarm {
    wanted_us: u64,
    /// The earliest of its times in the heap; what else is there is left over from before.
    queued_us: u64,
}

impl Queue {
    fn enter(&mut self) {
        self.alarms.push(Alarm { wanted_us: u64::MAX, queued_us: u64::MAX });
    }

    fn set(&mut self, id: AlarmId, at_us: u64) {
        let alarm = &mut self.alarms[id.0 as usize];
        alarm.wanted_us = at_us;
        if at_us < alarm.queued_us {
            alarm.queued_us = at_us;
            self.heap.push(Reverse((at_us, id.0)));
        }
    }

    /// The earliest alarm.
    fn first(&mut self) -> Option<(u64, AlarmId)> {
        loop {
            let mut top = self.heap.peek_mut()?;
            let Reverse((at_us, id)) = *top;
            let alarm = &mut self.alarms[id as usize];
            if alarm.queued_us != at_us {
                PeekMut::pop(top);
            } else if alarm.wanted_us == at_us {
                return Some((at_us, AlarmId(id)));
            } else {
                alarm.queued_us = alarm.wanted_us;
                match alarm.wanted_us {
                    u64::MAX => drop(PeekMut::pop(top)),
                    wanted_us => *top = Reverse((wanted_us, id)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn entered<const N: usize>(alarms: &Alarms<usize>) -> [AlarmId; N] {
        std::array::from_fn(|i| {
            let mut entered = None;
            alarms.enter(|id| {
                entered = Some(id);
                Some(i)
            });
            entered.expect("an alarm has an id")
        })
    }

    #[test]
    fn only_an_alarm_earlier_than_what_the_core_sleeps_for_wakes_it() {
        let alarms = Alarms::default();
        let [id] = entered(&alarms);
        let count = Arc::new(Count::default());
        alarms.core_sleeps(10, &Waker::from(Arc::clone(&count)));
        alarms.set(id, 10);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        alarms.set(id, 9);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        alarms.core_is_awake();
        alarms.set(id, 0);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn whoever_is_not_made_has_no_alarm() {
        let alarms = Alarms::<usize>::default();
        assert_eq!(alarms.enter(|_| None), None);
        let [id] = entered(&alarms);
        alarms.set(id, 5);
        assert_eq!((alarms.due(4), alarms.due(5)), (None, Some(0)));
    }

    proptest! {
        /// A list of times is the model: `Some` sets an alarm, `None` lets time pass.
        #[test]
        fn the_earliest_alarm_is_due_until_it_is_set_anew(
            steps in proptest::collection::vec((0..8usize, proptest::option::of(0..100u64)), 0..200),
        ) {
            let alarms = Alarms::default();
            let ids = entered::<8>(&alarms);
            let (mut model, mut now) = ([u64::MAX; 8], 0);
            for (which, step) in steps {
                match step {
                    Some(in_us) => {
                        model[which] = now + in_us;
                        alarms.set(ids[which], now + in_us);
                    }
                    None => {
                        now += 20;
                        while let Some(due) = alarms.due(now) {
                            prop_assert!(model[due] <= now);
                            prop_assert_eq!(Some(&model[due]), model.iter().min());
                            model[due] = u64::MAX;
                            alarms.set(ids[due], u64::MAX);
                        }
                        prop_assert!(model.iter().all(|at_us| *at_us > now));
                    }
                }
                prop_assert_eq!(Some(alarms.next_us()), model.iter().min().copied());
            }
        }
    }
}
