//! Joining, holding and being heard, without sockets.

use super::*;

fn hello(incarnation: &str, predecessor: &str) -> v1::Hello {
    v1::Hello {
        incarnation: incarnation.into(),
        predecessor: predecessor.into(),
        ..v1::Hello::default()
    }
}

fn id() -> AgentId {
    "a".parse().unwrap()
}

#[test]
fn a_second_agent_with_the_same_id_is_refused_while_the_first_lives() {
    let fleet = Fleet::default();
    let _first = fleet.join(&id(), hello("one", ""), 0).unwrap();
    assert_eq!(fleet.join(&id(), hello("two", ""), 1_000).unwrap_err().code, "SH0406");
    assert!(fleet.join(&id(), hello("two", "one"), 1_000).is_ok(), "its proven successor");
}

#[test]
fn an_agent_that_reconnects_replaces_its_own_session() {
    let fleet = Fleet::default();
    let (first, _queue) = fleet.join(&id(), hello("one", ""), 0).unwrap();
    let (second, _queue) = fleet.join(&id(), hello("one", ""), 10).unwrap();
    assert_eq!(fleet.beat(&id(), first, false, 20), None);
    assert_eq!(fleet.beat(&id(), second, false, 20), Some(vec![]));
}

#[test]
fn a_restarted_agent_does_not_inherit_what_its_predecessor_held() {
    let fleet = Fleet::default();
    let _first = fleet.join(&id(), hello("one", ""), 0).unwrap();
    let assignment =
        v1::Assignment { assignment_id: "x".into(), epoch: 1, ..v1::Assignment::default() };
    fleet.assign(&id(), assignment, 0);
    assert_eq!(fleet.holds(&id(), &("x".into(), 1)), Some(true));
    let _second = fleet.join(&id(), hello("two", "one"), 1_000).unwrap();
    assert_eq!(fleet.holds(&id(), &("x".into(), 1)), Some(false));
}

#[test]
fn after_our_own_restart_an_agent_keeps_what_its_inventory_names() {
    let fleet = Fleet::default();
    for held in ["x", "y"] {
        let assignment =
            v1::Assignment { assignment_id: held.into(), epoch: 1, ..Default::default() };
        fleet.assign(&id(), assignment, 0);
    }
    let observed = v1::Observed { assignment_id: "x".into(), epoch: 1, ..v1::Observed::default() };
    let hello = v1::Hello { inventory: vec![observed], ..hello("one", "") };
    let _session = fleet.join(&id(), hello, 1_000).unwrap();
    assert_eq!(
        (fleet.holds(&id(), &("x".into(), 1)), fleet.holds(&id(), &("y".into(), 1))),
        (Some(true), Some(false))
    );
}

#[test]
fn what_died_with_a_process_is_not_begun_by_the_next() {
    let fleet = Fleet::default();
    let _first = fleet.join(&id(), hello("one", ""), 0).unwrap();
    let assignment =
        v1::Assignment { assignment_id: "x".into(), epoch: 1, ..v1::Assignment::default() };
    fleet.assign(&id(), assignment.clone(), 0);
    let _second = fleet.join(&id(), hello("two", "one"), 1).unwrap();
    // Somebody who has not looked since says again what should be held.
    fleet.assign(&id(), assignment.clone(), 2);
    assert_eq!(fleet.holds(&id(), &("x".into(), 1)), Some(false));
    fleet.assign(&id(), v1::Assignment { epoch: 2, ..assignment }, 3);
    assert_eq!(fleet.holds(&id(), &("x".into(), 2)), Some(true));
}

#[test]
fn an_absence_of_our_own_is_no_silence_of_the_agents() {
    let fleet = Fleet::default();
    let _session = fleet.join(&id(), hello("one", ""), 0).unwrap();
    assert_eq!(fleet.look(0), None);
    assert_eq!(fleet.look(500_000), None);
    assert_eq!(fleet.look(60_000_000), Some(59_500_000));
    let presence = fleet.member(&id()).unwrap().liveness.presence(60_000_001, 30_000_000);
    assert_eq!(presence, Presence::Alive);
}

#[test]
fn without_authority_no_lease_is_renewed() {
    let fleet = Fleet::default();
    let (session, _queue) = fleet.join(&id(), hello("one", ""), 0).unwrap();
    fleet.assign(&id(), v1::Assignment::default(), 0);
    fleet.renew_leases(false);
    assert_eq!(fleet.beat(&id(), session, false, 1), Some(vec![]));
    fleet.renew_leases(true);
    assert_eq!(fleet.beat(&id(), session, false, 2).unwrap().len(), 1);
}

#[test]
fn a_beat_renews_exactly_what_is_desired() {
    let fleet = Fleet::default();
    let (session, mut queue) = fleet.join(&id(), hello("one", ""), 0).unwrap();
    let assignment =
        v1::Assignment { assignment_id: "x".into(), epoch: 3, ..v1::Assignment::default() };
    fleet.assign(&id(), assignment, 0);
    assert_eq!(fleet.beat(&id(), session, false, 1).unwrap().len(), 1);
    fleet.withdraw(&id(), &("x".into(), 3));
    assert_eq!(fleet.beat(&id(), session, false, 2), Some(vec![]));
    let mut last = None;
    while let Ok(Ok(message)) = queue.try_recv() {
        last = message.message;
    }
    let empty = v1::DesiredState { assignments: vec![] };
    assert_eq!(last, Some(v1::control_message::Message::Desired(empty)));
}

#[test]
fn a_quarantined_agent_has_no_session_no_lease_and_no_way_back_until_it_is_lifted() {
    let fleet = Fleet::default();
    let (session, mut queue) = fleet.join(&id(), hello("one", ""), 0).unwrap();
    fleet.assign(&id(), v1::Assignment::default(), 0);
    assert_eq!(fleet.who("one"), Some(id()));
    assert!(fleet.quarantine(&id(), "7 slots where 5 were due", 10));
    assert!(!fleet.quarantine(&id(), "more of it", 11), "once");
    while queue.try_recv().is_ok() {}
    assert!(queue.is_closed(), "its session ends");
    assert_eq!(fleet.beat(&id(), session, false, 20), None);
    let refusal = fleet.join(&id(), hello("two", "one"), 30).unwrap_err();
    assert_eq!(refusal.code, "SH0412");
    assert!(refusal.message.contains("7 slots where 5 were due"), "{refusal}");
    let member = fleet.member(&id()).unwrap();
    assert_eq!((member.is_connected, member.quarantine.unwrap().n_refused), (false, 2));
    fleet.lift_quarantine(&id());
    assert!(fleet.join(&id(), hello("two", "one"), 40).is_ok());

    // Another process takes it up, and waits as long as its last lease may run.
    let after = Fleet::default();
    after.resume_quarantine(id(), "7 slots where 5 were due", 10, 50);
    assert_eq!(after.join(&id(), hello("two", "one"), 60).unwrap_err().code, "SH0412");
    let member = after.member(&id()).unwrap();
    assert_eq!((member.liveness.last_heard_us(), member.quarantine.unwrap().since_us), (50, 10));
}

#[test]
fn an_agent_cannot_make_itself_larger_than_any_machine_or_fill_our_memory() {
    let fleet = Fleet::default();
    let capacity = v1::Capacity {
        weight: f64::INFINITY,
        cores: f64::NAN,
        max_devices: u64::MAX,
        ..v1::Capacity::default()
    };
    let host = v1::Host { kernel: "x".repeat(1 << 20), ..v1::Host::default() };
    let boasting = v1::Hello { capacity: Some(capacity), host: Some(host), ..hello("one", "") };
    assert!(quarantine::sane(boasting.clone()).host.unwrap().kernel.len() < 1_000);
    let _session = fleet.join(&id(), boasting, 0).unwrap();
    let capacity = fleet.member(&id()).unwrap().capacity;
    assert_eq!((capacity.weight, capacity.cores), (0.0, 0.0));
    assert!(capacity.max_devices < u64::MAX);
    for epoch in 0..10_000 {
        let observed = v1::Observed { assignment_id: "x".into(), epoch, ..Default::default() };
        fleet.observe(&id(), observed, 1);
    }
    assert!(fleet.lock().agents[&id()].observed.len() <= MOST_OBSERVED);
}
