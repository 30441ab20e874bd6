//! Load that goes down, storms, comes and goes, and is changed while it runs: every slot keeps its
//! one class, and the broker sees what was declared.

use shoal_domain::outcome::{ErrorClass, Operation};
use shoal_domain::schedule::Revision;

use super::trial::{Outcome, Trial, ms};

/// One group of 40 devices, with more keys of the group and of its series, and the stages.
fn file(group: &str, series: &str, load: &str) -> String {
    format!(
        "version: 1
name: load
targets: {{ t: {{ mqtt: {{ url: builtin }} }} }}
groups:
  g:
    target: t
    devices: 40
    id: g-${{index}}
    reconnect: {{ first: 100ms, max: 1s }}
{group}    send: {{ s: {{ every: 100ms, {series}publish: {{ topic: a, qos: 1, text: x }} }} }}
load:
{load}"
    )
}

const RAMP: &str = "  - ramp: { to: 100%, over: 200ms }\n";

fn storm(leave: &str, while_away: &str) -> Outcome {
    let load = format!(
        "{RAMP}  - hold: {{ for: 500ms }}
  - storm: {{ group: g, share: 50%, leave: {leave}, away: 400ms, back_within: 600ms }}
  - {{ name: after, hold: {{ for: 800ms }} }}\n"
    );
    let outcome = Trial::of(&file("", &format!("while_away: {while_away}, "), &load)).run(|_| {});
    outcome.assert_every_slot_has_one_class();
    outcome.assert_the_broker_saw_all();
    assert_eq!(outcome.gauges(), (40, 40, 0));
    let back = outcome.stage(Operation::Connect, "storm");
    assert_eq!((back.sent, back.acked), (20, 20), "half came back, in the storm's own stage");
    assert_eq!(outcome.connect().sent, 60);
    assert_eq!(outcome.broker.connects_seen(), 60);
    let after = outcome.stage(Operation::Publish, "after");
    assert!(after.sent >= 40 * 7 && after.away == 0, "{after:?}");
    outcome
}

#[test]
fn a_storm_that_cuts_takes_half_and_their_slots_are_away() {
    let outcome = storm("cut", "skip");
    let total = outcome.publish();
    // 20 devices, away for 400 ms to 1 s.
    assert!((20 * 5..=20 * 9).contains(&total.away), "{total:?}");
    assert_eq!(total.n_errors() + total.acked, total.sent);
    assert_eq!(outcome.broker.counters().goodbyes, 40, "at the end, and none in the storm");
}

#[test]
fn a_storm_that_disconnects_loses_nothing() {
    let outcome = storm("disconnect", "skip");
    let total = outcome.publish();
    assert_eq!((total.n_errors(), total.acked), (0, total.sent));
    assert_eq!(outcome.broker.counters().goodbyes, 60);
}

#[test]
fn buffered_slots_are_held_and_sent_on_return() {
    let total = storm("disconnect", "buffer").publish();
    assert_eq!(total.away, 0);
    assert!(total.held >= 20 * 5, "{total:?}");
    assert!(total.not_connected <= 20 * 2, "only while a device connects again: {total:?}");
}

#[test]
fn slots_that_fail_while_away_are_errors_of_devices_that_are_not_connected() {
    let total = storm("disconnect", "fail").publish();
    assert_eq!(total.away, 0);
    assert!(total.not_connected >= 20 * 5, "{total:?}");
    let errors = total.errors[&ErrorClass::ConnectionLost];
    assert!(errors >= 20 * 5 && errors <= total.not_connected, "{total:?}");
}

#[test]
fn a_ramp_down_ends_devices_in_order_and_a_later_one_starts_them_again() {
    let load = format!(
        "{RAMP}  - hold: {{ for: 500ms }}
  - ramp: {{ to: 10, over: 300ms }}
  - {{ name: low, hold: {{ for: 500ms }} }}
  - ramp: {{ to: 100%, over: 300ms }}
  - hold: {{ for: 500ms }}\n"
    );
    let outcome = Trial::of(&file("", "", &load)).cores(2).run(|broker| {
        let low = broker.at(ms(1_300)).counters();
        assert_eq!(low.connected, 10);
        assert_eq!(low.goodbyes, 30, "those that left said so");
    });
    outcome.assert_every_slot_has_one_class();
    outcome.assert_the_broker_saw_all();
    let total = outcome.publish();
    assert_eq!((total.acked, total.n_errors()), (total.sent, 0));
    assert!(total.unsent <= 30, "{total:?}");
    assert_eq!((outcome.broker.connects_seen(), outcome.gauges()), (70, (40, 40, 0)));
    let low = outcome.stage(Operation::Publish, "low");
    assert!((10 * 4..=10 * 6).contains(&low.sent), "ten devices, ten a second: {low:?}");
}

#[test]
fn devices_with_churn_come_publish_and_leave() {
    let load = format!("{RAMP}  - hold: {{ for: 2800ms }}\n");
    let group = "    churn: { stay: 200ms, away: 800ms }\n";
    let outcome = Trial::of(&file(group, "", &load)).run(|_| {});
    outcome.assert_every_slot_has_one_class();
    outcome.assert_the_broker_saw_all();
    let total = outcome.publish();
    // Two or three visits of two slots each.
    assert!((40 * 4..=40 * 6).contains(&outcome.planned()), "{}", outcome.planned());
    assert_eq!((total.acked, total.n_errors()), (total.sent, 0));
    assert!((80..=120).contains(&outcome.broker.connects_seen()));
    assert_eq!(outcome.connect().sent, outcome.broker.connects_seen());
}

#[test]
fn devices_that_arrive_stay_a_while() {
    let load = "  - arrive: { rate: 40/s, for: 1s, stay: 500ms }\n  - hold: { for: 700ms }\n";
    let outcome = Trial::of(&file("", "", load)).run(|_| {});
    outcome.assert_every_slot_has_one_class();
    outcome.assert_the_broker_saw_all();
    assert_eq!(outcome.broker.connects_seen(), 40);
    assert_eq!(outcome.broker.counters().goodbyes, 40);
    let goodbyes = outcome.series("g.disconnect");
    assert_eq!((goodbyes.sent, goodbyes.acked, goodbyes.n_errors()), (40, 40, 0));
    assert_eq!((goodbyes.service_time.count(), goodbyes.response_time.count()), (40, 40));
    assert_eq!(outcome.gauges(), (40, 0, 0));
    assert!((40 * 4..=40 * 5).contains(&outcome.planned()), "{}", outcome.planned());
}

#[test]
fn poisson_and_jittered_slots_are_all_sent() {
    for series in ["arrivals: poisson, ", "jitter: 80%, ", "phase: together, ", "phase: random, "] {
        let load = format!("{RAMP}  - hold: {{ for: 1s }}\n");
        let outcome = Trial::of(&file("", series, &load)).run(|_| {});
        outcome.assert_every_slot_has_one_class();
        outcome.assert_the_broker_saw_all();
        let total = outcome.publish();
        assert_eq!(total.sent + total.missed, outcome.planned(), "{series}");
        assert!((40 * 8..=40 * 14).contains(&outcome.planned()), "{series}");
    }
}

#[test]
fn a_revision_moves_the_load_at_its_time_on_all_cores_and_restarts_nobody() {
    let load = "  - ramp: { to: 20, over: 200ms }\n  - hold: { for: 2800ms }\n";
    let revision = |at_us, devices, over_us| Revision { at_us, group: 0, devices, over_us };
    let outcome = Trial::of(&file("", "", load)).cores(2).run(|broker| {
        broker.at(ms(600));
        let up = revision(ms(800), 40, ms(400));
        broker.control.revise(&[up], 100.0);
        assert_eq!(broker.at(ms(1_500)).counters().connected, 40);
        // Its time has passed: it applies just ahead of now.
        broker.control.revise(&[up, revision(ms(1), 5, ms(300))], 100.0);
        let low = broker.at(ms(2_500)).counters();
        assert_eq!((low.connected, low.connects_seen), (5, 40));
    });
    outcome.assert_every_slot_has_one_class();
    outcome.assert_the_broker_saw_all();
    assert_eq!(outcome.revised_us[0], ms(800));
    assert!((ms(1_600)..ms(1_900)).contains(&outcome.revised_us[1]), "{:?}", outcome.revised_us);
    let total = outcome.publish();
    assert_eq!((total.acked, total.n_errors()), (total.sent, 0));
    assert_eq!(outcome.gauges(), (40, 5, 0));
}
