//! When the devices of a core want to be looked at: one queue for all of them.
//!
//! A timer of the runtime for each device is entered, moved and fired at places in memory that are
//! far apart, and wakes a task only to find that nothing came from the broker. Here the times stand
//! side by side, the core sleeps until the first of them, and looks at the device itself.
//! Invariant: a device has one alarm, and from its time on it is due once.

mod queue;

use std::cell::{Cell, RefCell};
use std::task::Waker;

use self::queue::Queue;

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
        self.queue.borrow_mut().set(id.0, at_us);
        if at_us < self.asleep_until_us.get()
            && let Some(sleeper) = &*self.sleeper.borrow()
        {
            sleeper.wake_by_ref();
        }
    }

    pub(super) fn is_set(&self, id: AlarmId) -> bool {
        self.queue.borrow().is_set(id.0)
    }

    /// No alarm is earlier; `u64::MAX`: nobody wants to be looked at.
    pub(super) fn next_us(&self) -> u64 {
        self.queue.borrow().next_us()
    }

    /// Somebody whose time has come; the alarm is then no longer set.
    pub(super) fn due(&self, now_us: u64) -> Option<T> {
        let id = self.queue.borrow_mut().take(now_us)?;
        Some(self.owners.borrow()[id as usize].clone())
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
        fn an_alarm_is_due_once_from_its_time_on(
            steps in proptest::collection::vec(
                (0..8usize, proptest::option::of(prop_oneof![0..100u64, 0..100_000u64, 0..5_000_000u64])),
                0..200,
            ),
            passing_us in prop_oneof![Just(20), Just(20_000), Just(3_000_000)],
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
                        now += passing_us;
                        while let Some(due) = alarms.due(now) {
                            prop_assert!(model[due] <= now);
                            model[due] = u64::MAX;
                        }
                        prop_assert!(model.iter().all(|at_us| *at_us > now));
                    }
                }
                for (id, at_us) in ids.iter().zip(&model) {
                    prop_assert_eq!(alarms.is_set(*id), *at_us != u64::MAX);
                }
                let next_us = alarms.next_us();
                prop_assert!(model.iter().all(|at_us| next_us <= *at_us));
            }
        }

        /// What was put off is looked for in vain at most once.
        #[test]
        fn whoever_sleeps_until_the_next_alarm_soon_meets_one(
            in_us in proptest::collection::vec((1..3_000_000u64, 1..3_000_000u64), 8),
        ) {
            let alarms = Alarms::default();
            let ids = entered::<8>(&alarms);
            for (id, (first, then)) in ids.into_iter().zip(&in_us) {
                alarms.set(id, *first);
                alarms.set(id, *then);
            }
            let (mut n_due, mut n_sleeps) = (0, 0);
            while n_due < ids.len() {
                n_sleeps += 1;
                let now = alarms.next_us();
                while let Some(due) = alarms.due(now) {
                    prop_assert_eq!(in_us[due].1, now);
                    n_due += 1;
                }
            }
            prop_assert!(n_sleeps <= 2 * ids.len());
            prop_assert_eq!((alarms.due(u64::MAX), alarms.next_us()), (None, u64::MAX));
        }
    }
}
