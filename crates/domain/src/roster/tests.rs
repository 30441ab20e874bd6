use super::handover::open_blocks;
use super::*;

fn agent(name: &str) -> AgentSeen {
    AgentSeen {
        id: name.parse().unwrap(),
        weight: 1.0,
        free: 100_000,
        is_connected: true,
        is_alive: true,
        is_lost: false,
        is_quarantined: false,
        is_leaving: false,
        heard_us: 0,
        barred: BTreeSet::new(),
    }
}

fn policy() -> Policy {
    Policy {
        on_loss: OnAgentLoss::Reassign,
        rebalance: false,
        spawn_rate: 100.0,
        load_end_us: 600_000_000,
        is_running: true,
        is_reading: true,
    }
}

/// `a` holds 0..300, `b` 300..600 and `c` 600..900.
fn three() -> Roster {
    let shard = |n: u64| Shard { blocks: vec![Block::new(0, n * 300..(n + 1) * 300)] };
    let names = ["a", "b", "c"].map(|name| name.parse().unwrap());
    Roster::dealt(names.into_iter().zip([0, 1, 2].map(shard)))
}

fn prepared(_: &GrantId) -> GrantSeen {
    GrantSeen { is_prepared: true, ..GrantSeen::default() }
}

/// Every device is held once at most; returns how many are held.
fn held_at(roster: &Roster, us: u64) -> u64 {
    let mut seen = BTreeSet::new();
    for grant in &roster.grants {
        let ends_us = grant.ended.as_ref().map_or(u64::MAX, |ended| ended.at_us);
        for block in grant.tenures(u32::MAX).into_iter().flat_map(|shard| shard.blocks) {
            if (block.from_us..block.until_us.min(ends_us)).contains(&us) {
                for index in block.devices.clone() {
                    assert!(seen.insert((block.group, index)), "{index} twice at {us}");
                }
            }
        }
    }
    seen.len() as u64
}

#[test]
fn devices_of_a_lost_agent_go_to_the_others_by_capacity_in_batches_and_nobody_else_notices() {
    let mut roster = three();
    let before = roster.grants.clone();
    let lost = AgentSeen {
        is_lost: true,
        is_connected: false,
        is_alive: false,
        heard_us: 60_000_000,
        ..agent("c")
    };
    let agents = [agent("a"), AgentSeen { weight: 2.0, ..agent("b") }, lost];
    let now = 100_000_000;
    let changes = roster.step(&policy(), &agents, |_| GrantSeen::default(), now);
    assert_eq!((changes.ended.len(), changes.granted.len()), (1, 2));
    assert_eq!(roster.grants[..2], before[..2], "those that stay");
    assert_eq!(roster.without_agent(now), 300);
    let taken: Vec<(&str, u64)> =
        roster.grants[3..].iter().map(|grant| (grant.id.agent.as_str(), grant.devices())).collect();
    assert_eq!(taken, [("a", 100), ("b", 200)]);

    let changes = roster.step(&policy(), &agents, prepared, now + 500_000);
    assert_eq!(changes.began.len(), 2);
    let begin = now + 500_000 + TAKE_LEAD_US;
    assert_eq!(held_at(&roster, begin - 1), 600);
    for second in 0..3 {
        assert_eq!(held_at(&roster, begin + second * BATCH_US), 600 + 100 * (second + 1));
    }
    assert_eq!(roster.without_agent(begin + 2 * BATCH_US), 0);
    assert_eq!(
        roster.moves[0].sentence(),
        "agent c was lost: 300 devices without agent, moved in 44 s"
    );
    assert!(roster.step(&policy(), &agents, prepared, begin + 60_000_000).is_empty(), "once");
}

#[test]
fn while_most_are_silent_the_few_are_not_given_the_load_of_all() {
    let mut roster = three();
    let lost =
        |name| AgentSeen { is_lost: true, is_connected: false, is_alive: false, ..agent(name) };
    let now = 100_000_000;
    // One is lost, the other only silent so far: no less an outage.
    let silent = AgentSeen { is_lost: false, ..lost("c") };
    let changes =
        roster.step(&policy(), &[agent("a"), lost("b"), silent], |_| GrantSeen::default(), now);
    assert_eq!((changes.ended.len(), changes.granted.len()), (1, 0));
    let changes =
        roster.step(&policy(), &[agent("a"), lost("b"), lost("c")], |_| GrantSeen::default(), now);
    assert_eq!((changes.ended.len(), changes.granted.len()), (1, 0));
    assert_eq!(roster.without_agent(now), 600);
    let begun = roster.outage.clone().expect("one incident");
    assert_eq!(
        begun.sentence(),
        "2 of 3 agents are silent at once, so nothing moves until most are back"
    );
    // One is back: it and the one that stayed take on what is left.
    let agents = [agent("a"), agent("b"), lost("c")];
    let changes = roster.step(&policy(), &agents, |_| GrantSeen::default(), now + 9_000_000);
    let taken: u64 = changes.granted.iter().map(|at| roster.grants[*at].devices()).sum();
    assert_eq!(taken, 600);
    let over = roster.outage.clone().expect("it is remembered");
    assert_eq!((over.from_us, over.until_us), (begun.from_us, Some(now + 9_000_000)));
}

#[test]
fn a_restarted_agent_takes_up_its_own_devices() {
    let mut roster = three();
    let agents = ["a", "b", "c"].map(agent);
    let replaced = |id: &GrantId| GrantSeen {
        is_held: Some(id.agent.as_str() != "c" || id.epoch > 1),
        is_prepared: true,
        ..GrantSeen::default()
    };
    roster.step(&policy(), &agents, replaced, 10_000_000);
    roster.step(&policy(), &agents, replaced, 10_100_000);
    let last = roster.grants.last().unwrap();
    assert_eq!((last.id.to_string().as_str(), last.devices()), ("c@2", 300));
    assert_eq!(last.blocks[0].incarnation, 1);
    // Back at max(5 s, its devices / spawn rate).
    assert_eq!(held_at(&roster, 15_000_000), 900);
}

#[test]
fn an_agent_that_leaves_hands_over_with_at_most_one_batch_missing() {
    let mut roster = three();
    let agents = [agent("a"), agent("b"), AgentSeen { is_leaving: true, ..agent("c") }];
    let promised = |id: &GrantId| GrantSeen {
        handover: u32::from(id.epoch == 1 && id.agent.as_str() == "c"),
        ..prepared(id)
    };
    let now = 20_000_000;
    roster.step(&policy(), &agents, |_| GrantSeen::default(), now);
    roster.step(&policy(), &agents, prepared, now + 100_000);
    assert_eq!(roster.grants[2].handover, 1);
    assert_eq!(roster.grants[3].from_us, None, "not before the giver has promised");
    roster.step(&policy(), &agents, promised, now + 200_000);
    let least = (0..100).map(|n| held_at(&roster, now + n * 100_000)).min().unwrap();
    assert_eq!(least, 800, "one batch of 100");
    assert_eq!(held_at(&roster, now + 10_000_000), 900);
    assert_eq!(roster.without_agent(now + 10_000_000), 0);
    let closed = |id: &GrantId| GrantSeen {
        closed_at_us: (id.agent.as_str() == "c").then_some(now + 6_000_000),
        ..promised(id)
    };
    roster.step(&policy(), &agents, closed, now + 11_000_000);
    assert_eq!(roster.grants[2].ended.as_ref().unwrap().why, Why::HandedOver);
    assert_eq!(roster.moves.len(), 1, "{:?}", roster.moves);
}

#[test]
fn devices_whose_taker_is_lost_before_it_begins_are_not_handed_over_a_second_time() {
    let mut roster = three();
    let gone =
        |name| AgentSeen { is_lost: true, is_connected: false, is_alive: false, ..agent(name) };
    let leaving = || AgentSeen { is_leaving: true, ..agent("c") };
    let nothing = |_: &GrantId| GrantSeen::default();
    let silent = || AgentSeen { is_lost: false, ..gone("a") };
    let changes = roster.step(&policy(), &[silent(), agent("b"), leaving()], nothing, 20_000_000);
    assert_eq!(changes.granted.len(), 1, "b is to take what c has");
    // Most are silent: what b was to take waits, and nobody else is given it in another way.
    let agents = [silent(), gone("b"), leaving(), agent("d")];
    let changes = roster.step(&policy(), &agents, nothing, 50_000_000);
    assert_eq!((changes.ended.len(), changes.granted.len()), (2, 0), "{changes:?}");
    let agents = [agent("a"), gone("b"), leaving(), agent("d")];
    let changes = roster.step(&policy(), &agents, nothing, 60_000_000);
    let granted: Vec<Block> =
        changes.granted.iter().flat_map(|at| roster.grants[*at].blocks.clone()).collect();
    assert_eq!(granted.iter().map(Block::len).sum::<u64>(), 600, "of b, and of c");
    let is_twice = |(n, block): (usize, &Block)| granted[n + 1..].iter().any(|b| b.overlaps(block));
    assert!(!granted.iter().enumerate().any(is_twice), "{granted:?}");
}

#[test]
fn a_schedule_that_came_too_late_is_made_again_and_not_before_that_is_known() {
    let mut roster = three();
    let agents = [agent("a"), AgentSeen { is_leaving: true, ..agent("b") }];
    let now = 20_000_000;
    for n in 0..20 {
        roster.step(&policy(), &agents, prepared, now + n * 1_000_000);
    }
    assert_eq!(roster.grants[1].handover, 1, "silence says nothing");
    let late = |id: &GrantId| GrantSeen { handover_late: 1, ..prepared(id) };
    roster.step(&policy(), &agents, late, now + 21_000_000);
    assert_eq!(roster.grants[1].handover, 2);
}

#[test]
fn an_agent_that_joins_gets_its_share_only_where_that_is_asked_for() {
    let mut roster = three();
    let agents = ["a", "b", "c", "d"].map(agent);
    assert!(roster.step(&policy(), &agents, prepared, 5_000_000).is_empty());
    let rebalancing = Policy { rebalance: true, ..policy() };
    for n in 0..300u64 {
        let made: BTreeMap<GrantId, u32> =
            roster.grants.iter().map(|grant| (grant.id.clone(), grant.handover)).collect();
        let seen = |id: &GrantId| GrantSeen {
            handover: made.get(id).copied().unwrap_or(0),
            ..prepared(id)
        };
        roster.step(&rebalancing, &agents, seen, 5_000_000 + n * 500_000);
    }
    let share = |name: &str| -> u64 {
        let of = roster.grants.iter().filter(|g| g.id.agent.as_str() == name && g.is_live());
        of.flat_map(open_blocks).map(|block| block.len()).sum()
    };
    assert!((205..=225).contains(&share("d")), "{}", share("d"));
    assert_eq!(held_at(&roster, 400_000_000), 900);
}

#[test]
fn who_refuses_is_asked_no_more_and_what_nobody_takes_stays_without_agent() {
    let mut roster = three();
    let gone = AgentSeen { is_lost: true, is_alive: false, ..agent("c") };
    let agents = [agent("a"), AgentSeen { free: 0, ..agent("b") }, gone];
    roster.step(&policy(), &agents, |_| GrantSeen::default(), 50_000_000);
    let refuses = |id: &GrantId| GrantSeen { is_refused: id.epoch > 1, ..GrantSeen::default() };
    for n in 1..10 {
        roster.step(&policy(), &agents, refuses, 50_000_000 + n);
    }
    assert_eq!(roster.grants.iter().filter(|grant| grant.id.epoch > 1).count(), 1);
    assert_eq!(roster.without_agent(60_000_000), 300);
    assert_eq!(roster.moves[0].until_us, None);
    // Capacity that comes later takes them.
    let more = [agent("a"), agent("b"), agents[2].clone()];
    roster.step(&policy(), &more, refuses, 61_000_000);
    assert_eq!(roster.grants.last().unwrap().id.agent.as_str(), "b");
}

fn share(n: u32) -> ReadShare {
    ReadShare { observer: crate::ids::ObserverId(0), share: n, n_shares: 2 }
}

#[test]
fn a_share_whose_reader_is_lost_is_read_on_from_where_its_word_ended_by_who_reads_least() {
    let [a, b] = ["a", "b"].map(|name| name.parse().unwrap());
    let mut roster = three().reading([(a, share(0)), (b, share(1))]);
    let epochs: Vec<u64> = roster.ids().map(|id| id.epoch).collect();
    assert_eq!(epochs, [1, 1, 1, 2, 3], "a grant id names one thing");

    let lost = AgentSeen { is_lost: true, is_connected: false, is_alive: false, ..agent("a") };
    let agents = [lost, agent("b"), agent("c")];
    let read_to_7 = |_: &GrantId| GrantSeen { read_through_us: 7_000_000, ..GrantSeen::default() };
    let changes = roster.step(&policy(), &agents, read_to_7, 50_000_000);
    assert_eq!((changes.unread.len(), changes.read.len()), (1, 1));
    let taker = &roster.readers[2];
    assert_eq!((taker.id.agent.as_str(), taker.of, taker.from_us), ("c", share(0), 7_000_000));
    assert_eq!(roster.predecessor(taker).map(|reader| &reader.id), Some(&roster.readers[0].id));

    let taker = taker.id.clone();
    // Repeating the step gives it to nobody else, and one that cannot take it is not asked again.
    assert!(roster.step(&policy(), &agents, read_to_7, 50_100_000).read.is_empty());
    let refused = |id: &GrantId| GrantSeen { is_refused: *id == taker, ..GrantSeen::default() };
    roster.step(&policy(), &agents, refused, 51_000_000);
    let last = &roster.readers[3];
    assert_eq!((last.id.agent.as_str(), last.from_us), ("b", 7_000_000));
}

#[test]
fn a_share_is_read_on_as_long_as_something_may_come() {
    let lost = AgentSeen { is_lost: true, is_connected: false, is_alive: false, ..agent("a") };
    for (is_reading, n_takers) in [(true, 1), (false, 0)] {
        let mut roster = three().reading([("a".parse().unwrap(), share(0))]);
        let after_the_load = Policy { is_running: false, is_reading, ..policy() };
        let agents = [lost.clone(), agent("b")];
        let changes = roster.step(&after_the_load, &agents, |_| GrantSeen::default(), 1);
        assert_eq!((changes.unread.len(), changes.read.len()), (1, n_takers));
        assert!(changes.granted.is_empty(), "devices stay where they are");
    }
}

#[test]
fn a_reader_that_the_end_overtook_is_not_waited_for() {
    let mut roster = three().reading([("a".parse().unwrap(), share(0))]);
    let lost = AgentSeen { is_lost: true, is_connected: false, is_alive: false, ..agent("a") };
    let agents = [lost, agent("b")];
    roster.step(&policy(), &agents, |_| GrantSeen::default(), 50_000_000);
    let taker = roster.readers[1].id.clone();
    let closed = |at_us: u64| {
        let taker = taker.clone();
        move |id: &GrantId| GrantSeen {
            closed_at_us: (*id == taker).then_some(at_us),
            ..GrantSeen::default()
        }
    };
    let ending = Policy { is_running: false, is_reading: false, ..policy() };
    roster.step(&ending, &agents, closed(51_000_000), 51_000_000);
    assert!(roster.readers[1].is_live(), "what it read is still to come");
    roster.step(&ending, &agents, closed(0), 51_000_000);
    assert_eq!(roster.readers[1].ended.as_ref().map(|ended| ended.why), Some(Why::Dropped));
}

/// `c` dies at 5 s, and `b`, which takes its devices, `after_us` later than it began.
fn killed_again(after_us: u64) -> (Roster, Changes) {
    let mut roster = three();
    let dead = |name: &str, heard_us: u64| AgentSeen {
        is_lost: true,
        is_connected: false,
        is_alive: false,
        heard_us,
        ..agent(name)
    };
    let agents = [agent("b"), dead("c", 5_000_000)];
    roster.step(&policy(), &agents, prepared, 45_000_000);
    roster.step(&policy(), &agents, prepared, 46_000_000);
    let begun_us = roster.grants.last().unwrap().from_us.expect("b has begun");
    let agents = [agent("a"), dead("b", begun_us + after_us), dead("c", 5_000_000)];
    let changes = roster.step(&policy(), &agents, prepared, begun_us + after_us + 40_000_000);
    (roster, changes)
}

#[test]
fn devices_that_kill_their_second_agent_too_are_given_to_nobody() {
    let (roster, changes) = killed_again(3_000_000);
    let (first, second) = roster.poisoned().expect("c died soon, and so did b");
    assert_eq!((first.as_str(), second.as_str()), ("c", "b"));
    assert!(changes.granted.is_empty(), "{:?}", roster.grants);
}

#[test]
fn an_agent_that_dies_long_after_it_took_over_is_not_killed_by_it() {
    let (roster, changes) = killed_again(SOON_US + 1);
    assert_eq!(roster.poisoned(), None);
    assert!(!changes.granted.is_empty());
}

#[test]
fn one_that_is_not_believed_any_more_was_not_killed() {
    let mut roster = three();
    let liar = AgentSeen {
        is_lost: true,
        is_quarantined: true,
        is_connected: false,
        is_alive: false,
        heard_us: 5_000_000,
        ..agent("c")
    };
    let changes = roster.step(&policy(), &[agent("a"), liar], prepared, 45_000_000);
    assert_eq!(roster.grants[2].ended.as_ref().unwrap().why, Why::Quarantined);
    assert_eq!((changes.granted.len(), roster.poisoned()), (1, None));
    let text = roster.moves[0].sentence();
    assert!(text.starts_with("agent c was quarantined: 300 devices without agent"), "{text}");
}
