//! The slot account under arbitrary events: each slot leaves exactly once, in order, whatever
//! happens between the looks at it.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use shoal_domain::check::parse_plan;
use shoal_domain::plan::Plan;
use shoal_domain::schedule::Timetable;

use super::super::stalls::Stalls;
use super::*;

/// What can happen to a device between two looks at its slots.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// More than 100 ms of it is a stall.
    TimePasses(u64),
    /// Of a batch of this size the socket takes a part.
    Sends {
        batch: usize,
        taken: usize,
    },
    ConnectionLost,
    Connected,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0u64..250_000).prop_map(Happening::TimePasses),
        4 => (1usize..6, 0usize..6).prop_map(|(batch, taken)| Happening::Sends { batch, taken }),
        1 => Just(Happening::ConnectionLost),
        1 => Just(Happening::Connected),
    ]
}

/// One device with two series of different pace.
fn plan() -> Plan {
    let text = "\
version: 1
name: book
targets: { broker: { mqtt: { url: 'mqtt://localhost:1883' } } }
groups:
  g:
    target: broker
    devices: 1
    send:
      often: { every: 30ms, publish: { topic: a, qos: 1, text: x } }
      seldom: { every: 70ms, publish: { topic: b, qos: 1, text: x } }
load: [ { ramp: { to: 100%, over: 1s } }, { hold: { for: 60s } } ]
";
    parse_plan(text, &[], &shoal_domain::files::Files::none())
        .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

#[derive(Default)]
struct Account {
    missed: Vec<(usize, u64)>,
    not_connected: Vec<(usize, u64)>,
    sent: Vec<(usize, u64)>,
    unsent: Vec<(usize, u64)>,
}

proptest! {
    #[test]
    fn every_slot_due_before_the_end_is_classed_once_and_only_stalls_are_missed(
        happenings in proptest::collection::vec(happening(), 1..120),
    ) {
        let plan = plan();
        let sends = plan.groups[0].sends();
        let timetable = Timetable::new(Arc::new(plan.clone()), 1, &[]);
        let slots: Vec<_> = sends.iter().map(|send| timetable.slots(0, 0, send).unwrap()).collect();
        let mut book = SlotBook::new(slots.iter().cloned(), 0);
        let stalls = Stalls::default();
        let mut account = Account::default();
        let (mut now, mut connected) = (0, true);
        for happening in happenings {
            match happening {
                Happening::TimePasses(us) => {
                    now += us;
                    stalls.probe(now);
                    book.settle();
                    book.fall_due(now, |send, intended_us| {
                        let class = match (stalls.contains(intended_us), connected) {
                            (true, _) => &mut account.missed,
                            (false, true) => return Fate::Waits,
                            (false, false) => &mut account.not_connected,
                        };
                        class.push((send, intended_us));
                        Fate::Classed
                    });
                    prop_assert!(us <= 100_000 || account.not_connected.iter().chain(&account.sent)
                        .all(|(_, at)| !(now - us..now).contains(at)));
                }
                Happening::Sends { batch, taken } if connected => {
                    let mut due: Vec<Due> = std::iter::from_fn(|| book.take(|_| true)).take(batch).collect();
                    prop_assert!(due.is_sorted_by_key(|due| due.intended_us), "earliest first");
                    let back = due.split_off(taken.min(due.len()));
                    back.iter().rev().for_each(|due| book.put_back(due));
                    account.sent.extend(due.iter().map(|due| (due.send, due.intended_us)));
                }
                Happening::Sends { .. } => {}
                Happening::ConnectionLost => {
                    connected = false;
                    book.drain(|_| true, |send, at| account.not_connected.push((send, at)));
                }
                Happening::Connected => connected = true,
            }
        }
        book.drain(|_| true, |send, at| account.unsent.push((send, at)));
        let Account { missed, not_connected, sent, unsent } = account;
        let classed = [missed, not_connected, sent, unsent].concat();
        let distinct: BTreeSet<_> = classed.iter().collect();
        prop_assert_eq!(distinct.len(), classed.len(), "no slot has two classes");
        let planned: u64 = slots.iter().map(|slots| slots.due_before(now)).sum();
        prop_assert_eq!(classed.len() as u64, planned);
    }
}

#[test]
fn a_slot_that_waited_through_one_look_is_held_and_a_fresh_one_is_not() {
    let plan = plan();
    let timetable = Timetable::new(Arc::new(plan.clone()), 1, &[]);
    let slots = timetable.slots(0, 0, &plan.groups[0].sends()[0]).unwrap();
    let mut book = SlotBook::new(std::iter::once(slots), 0);
    book.fall_due(1, |_, _| Fate::Waits);
    book.settle();
    book.fall_due(30_001, |_, _| Fate::Waits);
    let held: Vec<bool> = std::iter::from_fn(|| book.take(|_| true)).map(|due| due.held).collect();
    assert_eq!(held, [true, false]);
    assert_eq!(book.next_us(), 60_000);
}
