//! The engine against a scripted broker: whatever happens, every planned slot has one class, and
//! what the broker counted is what we say we sent.

mod hostile;
mod load;
mod secured;
mod talking;
mod trial;

use std::sync::Arc;
use std::time::Duration;

use shoal_domain::delta::Tally;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::Qos;
use shoal_domain::schedule::Timetable;

use self::trial::{Trial, ms};

#[test]
fn a_normal_run_sends_every_planned_slot_and_every_ack_is_counted() {
    let outcome = Trial::new(20).every(ms(50)).lasting(ms(1_500)).run(|_| {});
    let total = outcome.publish();
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.closed_at_us, 1_500_000);
    assert_eq!(total.sent + total.missed, outcome.planned());
    outcome.assert_the_broker_saw_all();
    assert_eq!(total.acked, total.sent);
    assert_eq!(total.response_time.count(), total.sent);
    assert_eq!(total.send_lag.count(), total.sent - total.held);
    assert_eq!(total.n_errors(), 0);
    let connect = outcome.connect();
    assert_eq!((connect.sent, connect.acked, connect.n_errors()), (20, 20, 0));
    assert_eq!(outcome.gauges(), (20, 20, 0));
}

#[test]
fn messages_without_acks_have_send_lag_only() {
    let outcome = Trial::new(10).every(ms(50)).qos(Qos::AtMostOnce).lasting(ms(1_000)).run(|_| {});
    let total = outcome.publish();
    outcome.assert_every_slot_has_one_class();
    outcome.assert_the_broker_saw_all();
    assert_eq!((total.acked, total.response_time.count()), (0, 0));
    assert!(total.send_lag.count() > 0);
}

#[test]
fn a_broker_that_stalls_for_two_seconds_shows_in_response_time_not_in_service_time() {
    let outcome = Trial::new(1).every(ms(100)).max_in_flight(1).lasting(ms(3_500)).run(|broker| {
        broker.at(ms(1_000)).stall(true);
        broker.at(ms(3_000)).stall(false);
    });
    let total = outcome.publish();
    outcome.assert_every_slot_has_one_class();
    assert_eq!(total.sent + total.missed, outcome.planned());
    outcome.assert_the_broker_saw_all();
    assert!((17..=21).contains(&total.held), "{} held", total.held);
    let p95 = total.response_time.quantile_us(0.95).unwrap();
    assert!(p95 > 1_500_000, "response time p95 {p95} us");
    let p50 = total.service_time.quantile_us(0.5).unwrap();
    assert!(p50 < 100_000, "service time p50 {p50} us");
    let lag = total.send_lag.max_us().unwrap();
    assert!(lag < 1_000_000, "held slots do not convict the generator: {lag} us");
}

#[test]
fn slots_without_a_connection_are_not_connected_until_it_is_back() {
    let outcome = Trial::new(10)
        .every(ms(20))
        .reconnect(ms(400), ms(400))
        .lasting(ms(2_000))
        .run(|broker| broker.at(ms(1_000)).drop_all_connections());
    let total = outcome.publish();
    outcome.assert_every_slot_has_one_class();
    assert!(total.not_connected > 0, "{total:?}");
    assert!(outcome.connect().sent >= 20, "all came back");
    assert!(outcome.broker.publishes_seen() <= total.sent);
    assert_eq!(total.acked + total.n_errors(), total.sent);
    let lost = total.errors.get(&ErrorClass::ConnectionLost).copied().unwrap_or(0);
    assert_eq!(lost, total.n_errors());
}

#[test]
fn devices_refused_for_good_fail_and_their_slots_are_not_connected() {
    let outcome = Trial::new(10)
        .every(ms(50))
        .lasting(ms(1_000))
        .run_with(|broker| broker.refuse_where(5, |id| id.ends_with(['0', '1', '2', '3'])), |_| {});
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.gauges(), (10, 6, 4));
    let connect = outcome.connect();
    assert_eq!((connect.sent, connect.acked), (10, 6));
    assert_eq!(connect.errors.get(&ErrorClass::NotAuthorized), Some(&4));
    assert!(outcome.publish().not_connected >= 4 * 15);
    assert_eq!(outcome.failures.len(), 4);
    assert!(outcome.failures[0].text.contains("not authorized"));
}

#[test]
fn an_unavailable_broker_is_tried_again_until_connect_within() {
    let outcome = Trial::new(3)
        .every(ms(50))
        .connect_within(ms(600))
        .reconnect(ms(20), ms(50))
        .lasting(ms(1_000))
        .run_with(|broker| broker.refuse_connects(Some(3)), |_| {});
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.gauges(), (3, 0, 3));
    assert!(outcome.connect().errors[&ErrorClass::ServerUnavailable] > 9);
    assert_eq!(outcome.publish().sent, 0);
    assert_eq!(outcome.publish().not_connected + outcome.publish().missed, outcome.planned());
}

#[test]
fn before_the_first_connack_slots_wait_and_are_held() {
    let outcome = Trial::new(2)
        .every(ms(50))
        .lasting(ms(1_500))
        .run_with(|broker| broker.stall(true), |broker| broker.at(ms(600)).stall(false));
    let total = outcome.publish();
    outcome.assert_every_slot_has_one_class();
    assert_eq!(total.sent + total.missed, outcome.planned());
    assert!(total.held >= 20, "{} held", total.held);
    outcome.assert_the_broker_saw_all();
}

#[test]
fn a_stop_closes_the_gate_for_all_cores_at_one_time() {
    let outcome = Trial::new(10).cores(2).every(ms(20)).lasting(ms(60_000)).run(|broker| {
        broker.at(ms(500));
        broker.control.end_at(700_000);
    });
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.closed_at_us, 700_000);
    assert_eq!(outcome.control.gate_closed_at_us(), Some(700_000));
    outcome.assert_the_broker_saw_all();
}

#[test]
fn a_stop_in_the_past_closes_the_gate_just_ahead_of_now() {
    let outcome = Trial::new(10).cores(2).every(ms(20)).lasting(ms(60_000)).run(|broker| {
        broker.at(ms(500));
        broker.control.end_at(100_000);
    });
    outcome.assert_every_slot_has_one_class();
    assert!((500_000..2_000_000).contains(&outcome.closed_at_us));
}

#[test]
fn a_lapsed_lease_stops_all_sends_and_the_load_ended_with_it() {
    let outcome = Trial::new(10).every(ms(20)).lasting(ms(60_000)).lease(ms(800)).run(|_| {});
    let total = outcome.publish();
    outcome.assert_every_slot_has_one_class();
    assert!(outcome.control.fenced());
    // What is due behind the lease is another agent's: it is not even unsent.
    assert!((600_000..=800_000).contains(&outcome.closed_at_us), "{}", outcome.closed_at_us);
    assert!(outcome.broker.publishes_seen() <= 10 * 41);
    assert!(outcome.broker.publishes_seen() <= total.sent);
}

#[test]
fn an_abort_closes_at_once() {
    let outcome = Trial::new(5).every(ms(20)).lasting(ms(60_000)).run(|broker| {
        broker.at(ms(500));
        broker.control.abort();
    });
    outcome.assert_every_slot_has_one_class();
    assert!(outcome.closed_at_us < 2_000_000);
}

#[test]
fn lost_acks_time_out_and_what_is_open_at_the_end_is_censored() {
    let outcome = Trial::new(2)
        .every(ms(100))
        .ack_timeout(ms(300))
        .max_in_flight(2)
        .stop_timeout(ms(100))
        .lasting(ms(1_500))
        .run_with(|broker| broker.lose_acks(true), |_| {});
    let total: Tally = outcome.publish();
    outcome.assert_every_slot_has_one_class();
    let timed_out = total.errors[&ErrorClass::AckTimeout];
    let open = total.errors[&ErrorClass::OpenAtEnd];
    assert_eq!(timed_out + open, total.sent);
    assert_eq!(total.censored, open);
    assert_eq!(total.response_time.count(), total.sent);
    assert!(total.unsent > 0, "the in-flight limit kept some back: {total:?}");
    assert_eq!(total.acked, 0);
}

#[test]
fn a_late_ack_counts_as_acknowledged_and_stays_an_error() {
    let outcome = Trial::new(1)
        .every(ms(200))
        .ack_timeout(ms(100))
        .stop_timeout(ms(1_000))
        .lasting(ms(1_200))
        .run_with(|broker| broker.delay_acks(Duration::from_millis(250)), |_| {});
    let total = outcome.publish();
    outcome.assert_every_slot_has_one_class();
    assert!(total.errors[&ErrorClass::AckTimeout] >= 4);
    assert!(total.acked >= 4, "{total:?}");
    assert_eq!(total.response_time.count(), total.sent);
}

#[test]
fn an_idle_connection_is_kept_alive_by_pings() {
    let outcome =
        Trial::new(1).every(ms(60_000)).keep_alive(ms(1_000)).lasting(ms(3_000)).run(|_| {});
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.connect().sent, 1, "the broker never closed it");
    assert_eq!(outcome.gauges(), (1, 1, 0));
}

#[test]
fn what_is_wrong_before_the_start_is_said_in_one_sentence() {
    let refused = Trial::new(1).prepare_error(|job| {
        job.guard = shoal_service_kit::TargetGuard::allowing(vec!["10.0.0.0/8".parse().unwrap()]);
    });
    assert!(refused.contains("--allow-target"), "{refused}");
    let builtin = Trial::new(1).prepare_error(|job| job.builtin = None);
    assert!(builtin.contains("inside the CLI"), "{builtin}");
    let gone = Trial::new(1).prepare_error(|job| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        job.builtin = Some(listener.local_addr().unwrap());
    });
    assert!(gone.contains("cannot be reached"), "{gone}");
}

#[test]
fn devices_are_dealt_evenly_to_cores_in_total_and_per_group() {
    let job = Trial::new(7).cores(3).job();
    let timetable = Timetable::new(Arc::clone(&job.plan), job.seed, &[]);
    let seats = super::start::deal(&job, &timetable, 0, 3);
    let counts: Vec<usize> = seats.iter().map(Vec::len).collect();
    assert_eq!(counts.iter().sum::<usize>(), 7);
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    let is_sorted =
        |seats: &Vec<super::start::Seat>| seats.is_sorted_by_key(|s| std::cmp::Reverse(s.start_us));
    assert!(seats.iter().all(is_sorted));
}

#[test]
fn a_signature_is_renewed_by_a_new_connection_and_no_slot_is_lost() {
    const HUB: &str = "hub.azure-devices.net";
    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let text = format!(
        "version: 1\nname: hub\ntargets: {{ hub: {{ mqtt: {{ url: builtin }} }} }}\n\
         groups:\n  d:\n    target: hub\n    devices: 5\n\
         \x20   credentials: {{ sas: {{ hub: {HUB}, key: {KEY}, key_of: group, ttl: 1h }} }}\n\
         \x20   send: {{ t: {{ every: 50ms, publish: {{ topic: t, qos: 1, text: x }} }} }}\n\
         load: [ {{ ramp: {{ to: 100%, over: 100ms }} }}, {{ hold: {{ until: 3s }} }} ]\n"
    );
    let trial = Trial::of(&text).signatures_last(ms(1_000));
    // The broker makes each token again, from the time that stands in it.
    let outcome = trial.run_with(
        |broker| {
            broker.judge_logins(|client, user, password| {
                let expires = password.rsplit("&se=").next().and_then(|se| se.parse().ok());
                let key = shoal_domain::sas::device_key(KEY, client).unwrap();
                let again = |se| shoal_domain::sas::token(HUB, client, &key, se).unwrap();
                user == shoal_domain::sas::user_name(HUB, client)
                    && expires.is_some_and(|se| again(se) == password)
            });
        },
        |_| {},
    );
    outcome.assert_every_slot_has_one_class();
    outcome.assert_the_broker_saw_all();
    let total = outcome.publish();
    assert_eq!(total.sent + total.missed, outcome.planned(), "{total:?}");
    assert_eq!((total.not_connected, total.n_errors()), (0, 0), "{total:?}");
    // First at 0.9 s, then at 1.8 s and 2.7 s.
    let connects = outcome.connect();
    assert!((10..=20).contains(&connects.sent), "{} connects", connects.sent);
    assert_eq!(connects.acked, connects.sent);
    assert_eq!(outcome.gauges(), (5, 5, 0));
}
