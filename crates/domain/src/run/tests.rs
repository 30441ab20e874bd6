use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    duration_us: 10_000_000,
    stop_timeout_us: 5_000_000,
    lost_after_us: 40_000_000,
    drain_us: 0,
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
    ) {
        let mut now = 0;
        let mut state = RunState::Pending { deadline_us: 30_000_000 };
        let mut armed = 0;
        let mut judged = 0;
        for (wait, event) in script {
            now += wait;
            let before = state.clone();
            match apply(state, event, now, &LIMITS) {
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
                    state = after;
                }
                Err(_) => state = before,
            }
        }
        // Nothing but time: every run ends.
        for _ in 0..400 {
            now += 1_000_000;
            let (after, commands) = apply(state, RunEvent::Tick, now, &LIMITS).unwrap();
            judged += commands.iter().filter(|c| matches!(c, RunCommand::Judge)).count();
            state = after;
        }
        prop_assert!(state.phase().is_over(), "{:?}", state);
        prop_assert!(armed <= 1);
        prop_assert_eq!(judged, 1);
    }
}
