use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    duration_us: 10_000_000,
    stop_timeout_us: 5_000_000,
    lost_after_us: 40_000_000,
    drain_us: 0,
    probes: Vec::new(),
};

fn agent(n: u8) -> GrantId {
    GrantId { agent: format!("agent-{n}").parse().unwrap(), epoch: 1 }
}

fn agents(n: u8) -> BTreeSet<GrantId> {
    (0..n).map(agent).collect()
}

fn drive(events: impl IntoIterator<Item = (u64, RunEvent)>) -> RunState {
    let mut state = RunState::Pending { deadline_us: 30_000_000 };
    for (now_us, event) in events {
        state = apply(state, event, now_us, &LIMITS).unwrap().0;
    }
    state
}

fn until_running() -> Vec<(u64, RunEvent)> {
    vec![
        (0, RunEvent::Assigned { agents: agents(2) }),
        (10, RunEvent::Prepared { grant: agent(0) }),
        (20, RunEvent::Prepared { grant: agent(1) }),
        (20 + ARM_LEAD_US, RunEvent::Tick),
    ]
}

#[test]
fn a_run_that_nobody_disturbs_finishes() {
    let mut events = until_running();
    let end = 20 + ARM_LEAD_US + LIMITS.duration_us;
    events.push((end, RunEvent::Tick));
    events.extend([0, 1].map(|n| (end + 10, RunEvent::Closed { grant: agent(n) })));
    events.extend([0, 1].map(|n| (end + 20, RunEvent::Delivered { grant: agent(n) })));
    let t0_us = Some(20 + ARM_LEAD_US);
    let over = RunState::Over { phase: Phase::Finished, t0_us, cause: Cause::Completed };
    assert_eq!(drive(events), over);
}

#[test]
fn a_refusal_before_the_start_means_that_nobody_sends() {
    let refused = RunEvent::Refused { grant: agent(1), code: "SH0301".into(), why: "no".into() };
    let (state, commands) =
        apply(drive([(0, RunEvent::Assigned { agents: agents(2) })]), refused, 5, &LIMITS).unwrap();
    assert_eq!(state.phase(), Phase::FailedToStart);
    assert_eq!(commands, [RunCommand::Disarm, RunCommand::Judge]);
}

#[test]
fn the_first_stop_is_judged_the_second_aborts() {
    let mut events = until_running();
    events.push((5_000_000, RunEvent::Stop { abort: false }));
    let stopping = drive(events.clone());
    assert_eq!(stopping.cause(), Some(&Cause::StoppedEarly));
    events.push((5_100_000, RunEvent::Stop { abort: true }));
    assert_eq!(drive(events).cause(), Some(&Cause::Aborted));
}

#[test]
fn losing_one_of_two_agents_goes_on_and_losing_both_interrupts() {
    let mut events = until_running();
    events.push((5_000_000, RunEvent::Lost { grant: agent(0), abort: false }));
    assert_eq!(drive(events.clone()).phase(), Phase::Running);
    events.push((6_000_000, RunEvent::Lost { grant: agent(1), abort: false }));
    events.push((6_000_001, RunEvent::Tick));
    assert_eq!(drive(events).phase(), Phase::Interrupted);
}

/// With a readiness probe for each of so many observers.
fn probing(observers: u32) -> Limits {
    let probe =
        |n: u32| Probe { observer: ObserverId(n), name: format!("hub-{n}"), within_us: 2_000_000 };
    Limits { probes: (0..observers).map(probe).collect(), ..LIMITS }
}

fn sent(observer: u32) -> RunEvent {
    RunEvent::ProbeSent {
        observer: ObserverId(observer),
        what: format!("device {observer} sent it"),
    }
}

fn seen(observer: u32) -> RunEvent {
    RunEvent::ProbeSeen { observer: ObserverId(observer) }
}

/// All agents are prepared at 20.
fn until_probing() -> Vec<(u64, RunEvent)> {
    until_running().into_iter().take(3).collect()
}

fn drive_probing(events: impl IntoIterator<Item = (u64, RunEvent)>) -> RunState {
    let mut state = RunState::Pending { deadline_us: 30_000_000 };
    for (now_us, event) in until_probing().into_iter().chain(events) {
        state = apply(state, event, now_us, &probing(2)).unwrap().0;
    }
    state
}

#[test]
fn the_start_waits_until_every_observer_has_seen_its_probe() {
    let state = drive_probing([(100, sent(0)), (110, seen(0)), (120, sent(1))]);
    assert_eq!(state.phase(), Phase::Preparing);
    // What was seen before it was told that it was sent counts too.
    let state = drive_probing([(100, seen(1)), (110, seen(0))]);
    let t0_us = 110 + ARM_LEAD_US;
    let end_us = t0_us + LIMITS.duration_us;
    assert_eq!(state, RunState::Armed { agents: agents(2), t0_us, end_us });
}

#[test]
fn a_platform_that_does_not_answer_fails_the_start_and_says_where() {
    let events = [(100, sent(0)), (110, sent(1)), (120, seen(0)), (500_000, sent(1))];
    let just_before = events.clone().into_iter().chain([(2_000_109, RunEvent::Tick)]);
    assert_eq!(drive_probing(just_before).phase(), Phase::Preparing);
    let state = drive_probing(events.into_iter().chain([(2_000_110, RunEvent::Tick)]));
    let Some(Cause::FailedToStart { code, why }) = state.cause() else { panic!("{state:?}") };
    assert_eq!(code, "SH0311");
    for part in ["device 1 sent it", "observer hub-1", "within 2 s", "shoal scenario try"] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn a_probe_that_nobody_sends_fails_the_start() {
    let late = 20 + PROBE_LIMIT_US;
    let state = drive_probing([(100, sent(1)), (110, seen(1)), (late, RunEvent::Tick)]);
    let Some(Cause::FailedToStart { why, .. }) = state.cause() else { panic!("{state:?}") };
    assert!(why.contains("hub-0 was not sent"), "{why}");
}

#[test]
fn what_waits_for_probes_is_read_back_from_the_store() {
    let state = drive_probing([(100, sent(0)), (110, seen(1))]);
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<RunState>(&text).unwrap(), state);
}

fn any_event() -> impl Strategy<Value = RunEvent> {
    let one = (0u8..3).prop_map(agent);
    prop_oneof![
        Just(RunEvent::Assigned { agents: agents(2) }),
        one.clone().prop_map(|grant| RunEvent::Prepared { grant }),
        one.clone().prop_map(|grant| RunEvent::Taken { grant }),
        one.clone().prop_map(|grant| RunEvent::Refused {
            grant,
            code: "SH0301".into(),
            why: "no".into()
        }),
        one.clone().prop_map(|grant| RunEvent::Closed { grant }),
        one.clone().prop_map(|grant| RunEvent::Delivered { grant }),
        (one, any::<bool>()).prop_map(|(grant, abort)| RunEvent::Lost { grant, abort }),
        any::<bool>().prop_map(|abort| RunEvent::Stop { abort }),
        (0u32..3).prop_map(seen),
        (0u32..3).prop_map(sent),
        Just(RunEvent::Threshold),
        Just(RunEvent::OwnerSilent),
        Just(RunEvent::StoreAway),
        Just(RunEvent::Tick),
    ]
}

proptest! {
    #[test]
    fn a_run_only_moves_forward_and_ends_by_its_deadlines(
        script in proptest::collection::vec((0u64..3_000_000, any_event()), 0..60),
        observers in 0u32..3,
    ) {
        let limits = probing(observers);
        let mut seen = BTreeSet::new();
        let mut now = 0;
        let mut state = RunState::Pending { deadline_us: 30_000_000 };
        let mut armed = 0;
        let mut judged = 0;
        for (wait, event) in script {
            now += wait;
            let before = state.clone();
            if let (RunState::Probing { .. }, RunEvent::ProbeSeen { observer }) = (&before, &event) {
                seen.insert(*observer);
            }
            match apply(state, event, now, &limits) {
                Ok((after, commands)) => {
                    prop_assert!(after.phase() >= before.phase());
                    if before.phase().is_over() {
                        prop_assert_eq!(&after, &before);
                        prop_assert!(commands.is_empty());
                    }
                    armed += commands.iter().filter(|c| matches!(c, RunCommand::Arm { .. })).count();
                    judged += commands.iter().filter(|c| matches!(c, RunCommand::Judge)).count();
                    if after.phase() == Phase::FailedToStart {
                        prop_assert!(before.phase() < Phase::Running || before.phase().is_over());
                    }
                    if commands.iter().any(|c| matches!(c, RunCommand::Arm { .. })) {
                        let mut all = (0..observers).map(ObserverId);
                        prop_assert!(all.all(|observer| seen.contains(&observer)));
                    }
                    state = after;
                }
                Err(_) => state = before,
            }
        }
        // Nothing but time: every run ends.
        for _ in 0..400 {
            now += 1_000_000;
            let (after, commands) = apply(state, RunEvent::Tick, now, &limits).unwrap();
            judged += commands.iter().filter(|c| matches!(c, RunCommand::Judge)).count();
            state = after;
        }
        prop_assert!(state.phase().is_over(), "{:?}", state);
        prop_assert!(armed <= 1);
        prop_assert_eq!(judged, 1);
    }
}
