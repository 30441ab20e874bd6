//! Processes with bad luck, by seed: agents are killed and frozen, the control plane is killed and
//! frozen, the database, the network and the broker go away for a while, and in the end the counts are
//! those of the broker's other subscriber.
//!
//! A few seeds run with the other tests. `SHOAL_CHAOS=50 cargo test --workspace --test e2e chaos` plays
//! more of them; a failure names its seed, and `SHOAL_CHAOS_SEED=N` plays that one alone. The faults are
//! real time, so a seed says what happens, not at which microsecond.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_testkit::mosquitto::Mosquitto;
use shoal_testkit::subscriber::{Message, Subscriber};
use tokio::time::sleep;

use crate::deployment::{Deployment, series, shipped};
use crate::runs::marks;
use crate::times::{Span, Times, unix_us};

const AGENTS: [&str; 3] = ["anna", "bert", "cleo"];
const DEVICES: u64 = 60;
const HOLD: &str = "hold=20s";

/// Small, seeded and the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll(to - from))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// kill -9, and the next process of the same agent at once.
    AgentKilled(&'static str),
    AgentFrozen(&'static str, Duration),
    ControlPlaneKilled,
    ControlPlaneFrozen(Duration),
    DatabaseRefuses(Duration),
    DatabaseSilent(Duration),
    /// Of all agents, for less than a lease.
    NetworkSilent(Duration),
    /// The same in one direction: what agents say, or what they are told.
    NetworkMute(Duration),
    NetworkDeaf(Duration),
    BrokerFrozen(Duration),
}

impl Fault {
    /// Nobody dies twice: what kills an agent twice is poison, which is another test's.
    fn draw(dice: &mut Dice, killed: &mut Vec<&'static str>) -> Self {
        let agent = AGENTS[dice.roll(3) as usize];
        match dice.roll(9) {
            0 | 1 if !killed.contains(&agent) => {
                killed.push(agent);
                Self::AgentKilled(agent)
            }
            0..=2 => Self::AgentFrozen(agent, dice.millis(300, 3_000)),
            3 | 4 => Self::ControlPlaneKilled,
            5 => Self::ControlPlaneFrozen(dice.millis(500, 8_000)),
            6 if dice.roll(2) == 0 => Self::DatabaseRefuses(dice.millis(500, 10_000)),
            6 => Self::DatabaseSilent(dice.millis(500, 10_000)),
            7 => match dice.roll(3) {
                0 => Self::NetworkSilent(dice.millis(500, 10_000)),
                1 => Self::NetworkMute(dice.millis(500, 10_000)),
                _ => Self::NetworkDeaf(dice.millis(500, 10_000)),
            },
            _ => Self::BrokerFrozen(dice.millis(300, 3_000)),
        }
    }

    async fn happen(self, deployment: &mut Deployment, broker: &Mosquitto, times: &mut Times) {
        match self {
            Self::AgentKilled(agent) => {
                deployment.kill_agent(agent);
                deployment.agent(agent, "1").await;
            }
            Self::AgentFrozen(agent, lasts) => {
                deployment.freeze_agent(agent);
                sleep(lasts).await;
                deployment.thaw_agent(agent);
            }
            Self::ControlPlaneKilled => {
                let killed = Instant::now();
                deployment.restart_control_plane().await;
                deployment.all_connected(AGENTS.len()).await;
                times.took(Span::Reattached, killed.elapsed().as_secs_f64());
            }
            Self::ControlPlaneFrozen(lasts) => {
                deployment.freeze_leader();
                sleep(lasts).await;
                deployment.thaw_leader();
            }
            Self::DatabaseRefuses(lasts) => {
                let database = deployment.database_proxy();
                database.refuse(true);
                database.cut();
                sleep(lasts).await;
                database.heal();
            }
            Self::DatabaseSilent(lasts) => {
                deployment.database_proxy().black_hole(true);
                sleep(lasts).await;
                deployment.database_proxy().heal();
            }
            Self::NetworkSilent(lasts) => {
                deployment.agents_proxy().black_hole(true);
                sleep(lasts).await;
                deployment.agents_proxy().heal();
            }
            Self::NetworkMute(lasts) => {
                deployment.agents_proxy().mute(true);
                sleep(lasts).await;
                deployment.agents_proxy().heal();
            }
            Self::NetworkDeaf(lasts) => {
                deployment.agents_proxy().deafen(true);
                sleep(lasts).await;
                deployment.agents_proxy().heal();
            }
            Self::BrokerFrozen(lasts) => {
                broker.freeze();
                sleep(lasts).await;
                broker.thaw();
            }
        }
    }
}

/// A kill that can be told from what arrived.
struct Kill {
    at_us: u64,
    /// Everything was there when it happened, and had been.
    is_first: bool,
}

/// What came of one seed.
struct Outcome {
    validity: String,
    arrived: u64,
    /// Sent, and not reported by an agent that was killed.
    unreported: u64,
}

async fn play(seed: u64, times: &mut Times) -> Outcome {
    let (mut dice, mut killed) = (Dice(seed), Vec::new());
    let n_faults = 2 + dice.roll(3);
    let faults: Vec<(Duration, Fault)> = (0..n_faults)
        .map(|_| (dice.millis(200, 4_000), Fault::draw(&mut dice, &mut killed)))
        .collect();
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), "devices/+/telemetry");
    let mut deployment = Deployment::behind_a_proxy().await;
    for agent in AGENTS {
        deployment.agent(agent, "1").await;
    }
    let (file, target) = (shipped("telemetry.yaml"), format!("broker=mqtt://{}", broker.addr()));
    let devices = format!("devices={DEVICES}");
    let start =
        ["start", &file, "--agents", "3", "--set", &devices, "--set", HOLD, "--set", &target];
    let started = deployment.shoal(&start).await;
    assert_eq!(started.code, Some(0), "seed {seed}: {started:?}");
    witness.hears(20);
    let mut kills: Vec<Kill> = Vec::new();
    for (n, (after, fault)) in faults.iter().enumerate() {
        sleep(*after).await;
        if matches!(fault, Fault::AgentKilled(_)) {
            kills.push(Kill { at_us: unix_us(), is_first: n == 0 });
        }
        fault.happen(&mut deployment, &broker, times).await;
    }
    // Half of them are stopped, if they still go on.
    let mut stopped_us = None;
    if seed.is_multiple_of(2) {
        sleep(dice.millis(0, 2_000)).await;
        stopped_us = Some(unix_us());
        deployment.shoal(&["stop", "last"]).await;
    }
    let watched = deployment.shoal(&["watch", "last"]).await;
    let document = deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    let story = format!("SHOAL_CHAOS_SEED={seed} {faults:?}: {watched:?} {document:#}");
    let arrived = witness.all();
    let outcome = judge(&document, &arrived, &killed, &story);
    if let Some(stopped_us) = stopped_us.filter(|_| document["cause"] == "stopped_early") {
        let last_us = arrived.iter().map(sent_us).max().unwrap_or(0);
        times.took(Span::Stop, seconds(stopped_us, last_us));
    }
    for agent in document["agents"].as_array().unwrap() {
        if let Some(lag_us) = agent["start_lag_us"].as_f64() {
            times.took(Span::StartSpread, lag_us / 1e6);
        }
    }
    for kill in &kills {
        came_back(kill, &kills, &arrived, outcome.unreported, times);
    }
    outcome
}

/// When the devices of a killed agent sent again.
fn came_back(kill: &Kill, all: &[Kill], arrived: &[Message], unreported: u64, times: &mut Times) {
    // Of two agents that died who had what cannot be told apart.
    if all.len() > 1 {
        return;
    }
    let moved = |message: &&Message| mark(message)[4] == "1" && sent_us(message) > kill.at_us;
    let mut first_us: BTreeMap<&str, u64> = BTreeMap::new();
    for message in arrived.iter().filter(moved) {
        let first = first_us.entry(&message.topic).or_insert(u64::MAX);
        *first = (*first).min(sent_us(message));
    }
    let (Some(first), Some(last)) = (first_us.values().min(), first_us.values().max()) else {
        return;
    };
    times.took(Span::AgainOnProof, seconds(kill.at_us, *first));
    times.took(Span::AllAgainOnProof, seconds(kill.at_us, *last));
    if kill.is_first {
        // A message a second from each of its devices.
        times.took(Span::LostOfKilled, unreported as f64 / first_us.len() as f64);
    }
}

fn seconds(from_us: u64, to_us: u64) -> f64 {
    (to_us as f64 - from_us as f64) / 1e6
}

fn sent_us(message: &Message) -> u64 {
    mark(message)[6].parse().unwrap()
}

fn judge(document: &Value, arrived: &[Message], killed: &[&str], story: &str) -> Outcome {
    assert_eq!(document["phase"], "FINISHED", "{story}");
    let telemetry = series(document, "telemetry");
    let n = |class: &str| telemetry["slots"][class].as_u64().unwrap_or_default();
    let classes = ["sent", "missed", "not_connected", "away", "unsent", "unassigned"];
    let classed: u64 = classes.iter().map(|class| n(class)).sum();
    assert_eq!(n("planned"), classed, "every planned slot has one class: {story}");
    let n_arrived = arrived.len() as u64;
    assert_eq!(marks(arrived).len() as u64, n_arrived, "nothing came twice: {story}");
    never_driven_twice(arrived, story);

    assert!(n("sent") <= n_arrived, "nothing is reported that was not sent: {story}");
    let unreported = n_arrived - n("sent");
    // Of a killed agent the open window, and what it had sent and not delivered while the control
    // plane or its database was away, which may be all that it had.
    if killed.is_empty() {
        assert_eq!(unreported, 0, "every count of an agent that lives arrives: {story}");
        let is_proved = |row: &Value| row["totals_proved"] == true;
        assert!(document["agents"].as_array().unwrap().iter().all(is_proved), "{story}");
    }
    let validity = document["validity"].as_str().unwrap_or_default().to_owned();
    if validity == "VALID" {
        assert!(killed.is_empty(), "a killed agent is told: {story}");
        assert_eq!((n("planned"), n("missed")), (n("sent"), 0), "VALID is all of it: {story}");
    }
    Outcome { validity, arrived: n_arrived, unreported }
}

/// What the stamp of a message says, part by part.
fn mark(message: &Message) -> Vec<String> {
    let payload: Value = serde_json::from_slice(&message.payload).unwrap();
    payload["trace"].as_str().unwrap().split('.').map(str::to_owned).collect()
}

/// By the times that the messages themselves say: a device's next holder begins after the last word of
/// the one before.
fn never_driven_twice(arrived: &[Message], story: &str) {
    let mut spans: BTreeMap<(&str, u32), (u64, u64)> = BTreeMap::new();
    for message in arrived {
        let mark = mark(message);
        let (incarnation, at_us) = (mark[4].parse().unwrap(), mark[6].parse().unwrap());
        let span = spans.entry((&message.topic, incarnation)).or_insert((at_us, at_us));
        *span = (span.0.min(at_us), span.1.max(at_us));
    }
    for (((device, _), (_, last)), ((next, _), (first, _))) in
        spans.iter().zip(spans.iter().skip(1))
    {
        assert!(device != next || last < first, "{device} has two holders at {first}: {story}");
    }
}

#[tokio::test]
async fn an_agent_that_is_frozen_beyond_its_lease_sends_nothing_when_it_wakes() {
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), "devices/+/telemetry");
    let mut deployment = Deployment::start().await;
    for agent in ["sleeps", "stays"] {
        deployment.agent(agent, "1").await;
    }
    // The shortest lease that there is; it is lost ten seconds later.
    let text = std::fs::read_to_string(shipped("telemetry.yaml")).unwrap();
    let file = deployment.file("short-lease.yaml", &format!("{text}fleet: {{ lease: 20s }}\n"));
    let target = format!("broker=mqtt://{}", broker.addr());
    let set = ["--set", "devices=40", "--set", "hold=55s", "--set", &target];
    let started =
        deployment.shoal(&[&["start", &file, "--agents", "2"][..], &set[..]].concat()).await;
    assert_eq!(started.code, Some(0), "{started:?}");
    witness.hears(40);
    deployment.freeze_agent("sleeps");
    sleep(Duration::from_secs(36)).await;
    deployment.thaw_agent("sleeps");
    let watched = deployment.shoal(&["watch", "last"]).await;
    let document = deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    let story = format!("{watched:?} {document:#}");
    let arrived = witness.all();
    never_driven_twice(&arrived, &story);
    let outcome = judge(&document, &arrived, &[], &story);
    assert_ne!(outcome.validity, "VALID", "{story}");
    // All devices were driven again, by whoever stayed.
    let moved = |message: &Message| mark(message)[4] == "1";
    let again: BTreeSet<&str> =
        arrived.iter().filter(|one| moved(one)).map(|one| one.topic.as_str()).collect();
    assert_eq!(again.len(), 20, "{story}");
}

#[tokio::test]
async fn whatever_goes_away_for_a_while_the_counts_are_those_of_the_broker() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SHOAL_CHAOS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SHOAL_CHAOS").unwrap_or(3),
    };
    let mut by_validity: BTreeMap<String, u64> = BTreeMap::new();
    let (mut arrived, mut unreported, mut times) = (0, 0, Times::default());
    for seed in seeds {
        let outcome = play(seed, &mut times).await;
        *by_validity.entry(outcome.validity).or_default() += 1;
        (arrived, unreported) = (arrived + outcome.arrived, unreported + outcome.unreported);
        let told = writeln!(
            std::io::stderr(),
            "chaos: {by_validity:?} up to seed {seed}, {arrived} messages, {unreported} unreported by the dead"
        );
        told.unwrap();
    }
    times.print();
}

/// An agent that is killed and never comes back, with the shortest lease that there is.
async fn lose_one_for_good(round: u64, times: &mut Times) {
    let mut dice = Dice(round);
    let broker = Mosquitto::start();
    let witness = Subscriber::start(broker.addr(), "devices/+/telemetry");
    let mut deployment = Deployment::start().await;
    for agent in AGENTS {
        deployment.agent(agent, "1").await;
    }
    let text = std::fs::read_to_string(shipped("telemetry.yaml")).unwrap();
    let file = deployment.file("short-lease.yaml", &format!("{text}fleet: {{ lease: 20s }}\n"));
    let (target, devices) =
        (format!("broker=mqtt://{}", broker.addr()), format!("devices={DEVICES}"));
    let set = ["--set", &devices, "--set", "hold=90s", "--set", &target];
    let started =
        deployment.shoal(&[&["start", &file, "--agents", "3"][..], &set[..]].concat()).await;
    assert_eq!(started.code, Some(0), "round {round}: {started:?}");
    witness.hears(100);
    sleep(dice.millis(0, 3_000)).await;
    let killed_us = unix_us();
    deployment.kill_agent(AGENTS[dice.roll(3) as usize]);
    // Lost after lease and grace; whoever takes over needs a moment more for all.
    sleep(Duration::from_secs(35)).await;
    let stopped_us = unix_us();
    deployment.shoal(&["stop", "last"]).await;
    let watched = deployment.shoal(&["watch", "last"]).await;
    let document = deployment.shoal(&["show", "last", "--output", "json"]).await.document();
    let story = format!("round {round}: {watched:?} {document:#}");
    let arrived = witness.all();
    let outcome = judge(&document, &arrived, &["one"], &story);
    assert_eq!(outcome.validity, "DEGRADED", "{story}");
    let events = document["events"].as_array().unwrap();
    let lost = events.iter().find(|event| event["kind"] == "agent_lost");
    let lost_s = lost.and_then(|event| event["at_s"].as_f64()).unwrap_or_else(|| panic!("{story}"));
    let started_us = humantime::parse_rfc3339(document["started_at"].as_str().unwrap()).unwrap();
    let started_us = started_us.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as f64;
    times.took(Span::Detected, (started_us + lost_s * 1e6 - killed_us as f64) / 1e6);
    let mut first_us: BTreeMap<&str, u64> = BTreeMap::new();
    for message in arrived.iter().filter(|message| mark(message)[4] == "1") {
        let first = first_us.entry(&message.topic).or_insert(u64::MAX);
        *first = (*first).min(sent_us(message));
    }
    assert_eq!(first_us.len() as u64, DEVICES / 3, "all of its devices moved: {story}");
    let bounds = first_us.values().min().zip(first_us.values().max());
    let (first, last) = bounds.unwrap_or_else(|| panic!("{story}"));
    times.took(Span::Moved, seconds(killed_us, *first));
    times.took(Span::AllMoved, seconds(killed_us, *last));
    times.took(Span::LostOfKilled, outcome.unreported as f64 / (DEVICES / 3) as f64);
    let last_us = arrived.iter().map(sent_us).max().unwrap_or(0);
    times.took(Span::Stop, seconds(stopped_us, last_us));
}

#[tokio::test]
#[ignore = "nearly a minute for each round; `just chaos` runs it"]
async fn how_soon_the_devices_of_an_agent_that_is_gone_for_good_are_driven_again() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut times = Times::default();
    for round in 0..number("SHOAL_CHAOS").unwrap_or(3) {
        lose_one_for_good(round, &mut times).await;
        writeln!(std::io::stderr(), "chaos: one lost for good, round {round}").unwrap();
    }
    times.print();
}
