//! The run's document: every number that any face shows, made by one function of the control
//! plane (`query`) and only formatted afterwards.
//!
//! Serialized it is the JSON document of `shoal show --output json` (`schema` 1: it grows, it never
//! breaks). Fields end in their unit; ratios are 0..1 and end in `_ratio`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::labels::Labels;
use crate::outcome::{ErrorClass, Operation};
use crate::run::{Phase, Validity, Verdict};

pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    pub schema: u32,
    /// The run's id.
    pub run: String,
    /// Two words, unique in the store.
    pub name: String,
    pub server: String,
    /// RFC 3339, UTC; null until the first agent was asked to start.
    pub started_at: Option<String>,
    /// From t0 to the end of the load (or to now).
    pub duration_s: f64,
    /// Null until the run has ended.
    pub exit_code: Option<u8>,
    pub scenario: ScenarioReport,
    /// What was said about the run.
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub note: String,
    #[serde(default)]
    pub started_by: String,
    /// Of what was tested, like a git commit; empty: not told.
    #[serde(default)]
    pub revision: String,
    pub seed: u64,
    pub phase: Phase,
    /// Why it ended as it did; null while it runs.
    pub cause: Option<String>,
    pub validity: Option<Validity>,
    pub validity_reasons: Vec<ValidityReason>,
    pub verdict: Option<Verdict>,
    pub devices: DeviceTotals,
    pub series: Vec<SeriesReport>,
    /// Of the groups that run a loop: planned and actual shares of their tasks.
    #[serde(default)]
    pub tasks: Vec<TaskReport>,
    /// Each series over all holds together: without ramps, storms and arrivals.
    #[serde(default)]
    pub steady: Vec<SeriesReport>,
    /// Changes of the running load, in order.
    #[serde(default)]
    pub load_revisions: Vec<LoadRevisionReport>,
    /// Null: no single requests were logged.
    #[serde(default)]
    pub request_log: Option<RequestLogReport>,
    pub failures: Vec<FailureReport>,
    pub thresholds: Vec<ThresholdReport>,
    pub observers: Vec<ObserverReport>,
    pub agents: Vec<AgentReport>,
    /// What each agent or region did by itself, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartReport>,
    /// Its history in order: phases, lost agents, annotations.
    #[serde(default)]
    pub events: Vec<EventReport>,
}

/// From `at_s` on the group went to `devices`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadRevisionReport {
    pub at_s: f64,
    pub group: String,
    pub from_devices: u64,
    pub devices: u64,
    pub rate_per_s: f64,
}

/// Single requests that were logged beside the counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestLogReport {
    pub sample_ratio: f64,
    pub rows: u64,
    /// Requests of the sample that found no room.
    pub dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioReport {
    pub name: String,
    pub sha256: String,
    pub vars: BTreeMap<String, String>,
    /// What went with the run, by path.
    #[serde(default)]
    pub files: Vec<FileReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    pub path: String,
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidityReason {
    /// Stable, like `agent_lost`; see `docs/validity.md`.
    pub code: String,
    pub agent: Option<String>,
    pub from_s: Option<u64>,
    pub to_s: Option<u64>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTotals {
    pub planned: u64,
    pub connected: u64,
    pub failed: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesReport {
    pub group: String,
    pub name: String,
    pub operation: Operation,
    /// `open` (absolute schedule) or `closed` (waits for replies).
    pub model: String,
    /// `all` or a stage's name.
    pub stage: String,
    /// `ramp`, `hold`, `storm`, `arrive`, or `drain` for a ramp downwards; null for `all`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Null for `connect`, which has attempts, not slots.
    pub slots: Option<SlotReport>,
    /// Null where the target acknowledges nothing (QoS 0).
    pub acked: Option<u64>,
    /// Attempts begun (open model: = sent).
    pub count: u64,
    pub errors: u64,
    pub errors_by_class: BTreeMap<ErrorClass, u64>,
    /// Attempts per second of the stage's (or run's) time.
    pub rate_per_s: f64,
    /// Of the response times: lower bounds of sends still open at the end.
    pub censored: u64,
    /// Sent once more on a later connection of the same session; not part of `count`.
    #[serde(default)]
    pub resent: u64,
    /// Messages that came in on a subscription.
    #[serde(default)]
    pub received: u64,
    /// Of payloads that were published, of bodies of replies.
    #[serde(default)]
    pub bytes: u64,
    pub response_time_us: Option<TimeReport>,
    pub service_time_us: Option<TimeReport>,
    pub send_lag_us: Option<TimeReport>,
    /// Its median is so short that it says more of the generator than of the target.
    #[serde(default)]
    pub is_near_floor: bool,
}

impl SeriesReport {
    /// Whether its median is within [`NEAR_FLOOR`] times what a generator needs for an echo of its own: a reply cannot be
    /// seen sooner than that. A `floor_us` of 0 is not known.
    #[must_use]
    pub fn beside_floor(self, floor_us: u64) -> Self {
        let time = self.service_time_us.as_ref().or(self.response_time_us.as_ref());
        let limit_us = floor_us.saturating_mul(NEAR_FLOOR);
        let is_near_floor = time.is_some_and(|time| time.p50 < limit_us);
        Self { is_near_floor, ..self }
    }
}

/// A median below so many times the noise floor is flagged.
pub const NEAR_FLOOR: u64 = 3;

/// What the noisiest of a run's generators needed for an echo of its own; 0: none of them said.
pub fn noise_floor_us(agents: &[AgentReport]) -> u64 {
    agents.iter().filter_map(|agent| Some(agent.host.as_ref()?.echo_p50_us)).max().unwrap_or(0)
}

/// One task of a group's loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    pub group: String,
    pub name: String,
    /// Its weight among the weights of the group's tasks.
    pub planned_ratio: f64,
    /// How often it was begun: attempts of its first step without a condition. Null where all of
    /// its steps have one, or where another task shares that step's series.
    pub count: Option<u64>,
    /// Its share of the counts of the group's tasks; null where one of them is not known.
    pub actual_ratio: Option<f64>,
}

/// `planned = sent + missed + not_connected + away + unsent + unassigned` once the run has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    pub planned: u64,
    pub sent: u64,
    /// Part of `sent`: delayed by the target.
    pub held: u64,
    pub missed: u64,
    pub not_connected: u64,
    pub away: u64,
    pub unsent: u64,
    pub unassigned: u64,
}

impl SlotReport {
    pub fn n_classed(&self) -> u64 {
        self.sent + self.missed + self.not_connected + self.away + self.unsent + self.unassigned
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimeReport {
    pub count: u64,
    pub min: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// What one observer read, in a stage or in the whole run. Loss is decided per message and for the
/// whole run: where `stage` is not `all`, only arrivals and delays are known, the rest is null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObserverReport {
    pub name: String,
    /// `mqtt`, `kafka`, ...
    pub source: String,
    /// `group.name` of the series that it looks for.
    pub of: String,
    /// `all` or a stage's name.
    pub stage: String,
    pub sent: Option<u64>,
    pub acked: Option<u64>,
    /// Events of this run and series, with all repetitions.
    pub received: u64,
    /// Distinct messages that arrived.
    pub unique: Option<u64>,
    /// Of the messages sent, the share that arrived; null where none was sent.
    pub received_ratio: Option<f64>,
    /// Acknowledged, never received.
    pub lost: Option<u64>,
    /// Not acknowledged, never received.
    pub undelivered: Option<u64>,
    /// Received, never acknowledged.
    pub unconfirmed: Option<u64>,
    /// Not received, and it cannot be known whether that was the platform's doing.
    pub lost_possible: Option<u64>,
    /// Surplus arrivals: theirs.
    pub duplicated: Option<u64>,
    /// Surplus arrivals: ours, of messages that were sent again.
    pub resent: Option<u64>,
    pub out_of_order: Option<u64>,
    pub late_events: Option<u64>,
    /// On their way, while the run goes on.
    pub pending: Option<u64>,
    pub unparsed: u64,
    pub foreign: u64,
    /// Of `received`: their stamp is not the platform's, so that they have no ingest or delivery
    /// delay.
    #[serde(default)]
    pub unstamped: u64,
    /// Of `received`: they had waited while nobody read, so that only their ingest delay is known.
    #[serde(default)]
    pub backlog: u64,
    pub reader_gaps: Vec<ReaderGapReport>,
    /// End-to-end delays below 0.
    pub negative: u64,
    /// Enqueued by the platform − sent; null where the source does not say when.
    pub ingest_delay_us: Option<DelayReport>,
    /// Received − enqueued.
    pub delivery_delay_us: Option<DelayReport>,
    /// Received − sent.
    pub end_to_end_delay_us: Option<DelayReport>,
    /// The platform's clock minus the control plane's, as it is taken: 0 where it may be right, else
    /// in the middle of what causality allows. Ingest and delivery delay are corrected by it. Null
    /// where the source does not say when it took events in.
    #[serde(default)]
    pub platform_clock_us: Option<i64>,
    /// By how much ingest and delivery delay may be wrong.
    #[serde(default)]
    pub platform_bound_us: Option<u64>,
    /// No constant difference fits all events: that clock, or ours, has moved.
    #[serde(default)]
    pub has_platform_clock_moved: bool,
    /// By how much end-to-end delays may be wrong; 0: sent and received by one clock.
    pub clock_bound_us: u64,
    /// The bound exceeds 10 % of the median: the delays are an indication only.
    pub is_indicative: bool,
    /// How long it went on after the load; null until it has ended.
    pub drain_us: Option<u64>,
    /// Ids of devices that lost most, at most ten.
    pub lossy_devices: Vec<LossyReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReaderGapReport {
    pub from_s: f64,
    pub to_s: f64,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossyReport {
    pub device: String,
    pub lost: u64,
}

/// Signed: what comes out negative is a fact about clocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DelayReport {
    pub count: u64,
    pub min: i64,
    pub mean: f64,
    pub p50: i64,
    pub p90: i64,
    pub p95: i64,
    pub p99: i64,
    pub p999: i64,
    pub max: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureReport {
    /// `group.name`.
    pub series: String,
    pub class: ErrorClass,
    pub text: String,
    pub count: u64,
    pub first_s: f64,
    pub last_s: f64,
    pub devices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThresholdReport {
    pub expr: String,
    /// A stage's name; null is the whole run.
    #[serde(rename = "in")]
    pub stage: Option<String>,
    /// Null: there was no data (which fails).
    pub value: Option<f64>,
    pub limit: f64,
    /// `count`, `ratio`, `us` or `per_s`.
    pub unit: String,
    pub samples: u64,
    pub result: ThresholdResult,
    /// Run time since which it was false without a break, or where its first window began that
    /// did not hold; null while it holds.
    pub breached_at_s: Option<f64>,
    /// Whose agents it asks about: a region, or `each`; null is all.
    #[serde(default)]
    pub region: Option<String>,
    /// Of `each` region the one that `value` is of.
    #[serde(default)]
    pub worst_region: Option<String>,
    /// Null: judged once over all of its time. Else `value` and `limit` are the share of windows in
    /// which it held and must hold.
    #[serde(default)]
    pub windows: Option<WindowsReport>,
}

/// The windows of one threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowsReport {
    pub seconds: u64,
    pub judged: u64,
    pub held: u64,
    /// The value furthest beyond the limit, or nearest to it; null without any data.
    pub worst: Option<f64>,
    /// Where the window of that value begins.
    pub worst_at_s: Option<f64>,
    /// What each window is compared with, and the unit of both.
    pub limit: f64,
    pub unit: String,
}

impl ThresholdReport {
    /// The expression with what narrows it, as a person would say it.
    pub fn sentence(&self) -> String {
        let mut sentence = self.expr.clone();
        if let Some(stage) = &self.stage {
            sentence.push_str(&format!(" in {stage}"));
        }
        match (self.region.as_deref(), self.worst_region.as_deref()) {
            (Some("each"), Some(worst)) => {
                sentence.push_str(&format!(", in each region (worst: {worst})"));
            }
            (Some("each"), None) => sentence.push_str(", in each region"),
            (Some(region), _) => sentence.push_str(&format!(", in region {region}")),
            (None, _) => {}
        }
        if let Some(windows) = &self.windows {
            let share = (self.limit * 1e6).round() / 1e4;
            let seconds = windows.seconds;
            sentence.push_str(&format!(", held in {share}% of windows of {seconds}s"));
        }
        sentence
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdResult {
    Passed,
    Failed,
    /// Nothing to judge, which counts as failed.
    NoData,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventReport {
    /// RFC 3339, UTC.
    pub at: String,
    /// Run time, negative before the start; null if the run never started.
    pub at_s: Option<f64>,
    /// `phase`, `agent_lost`, `annotation`, …
    pub kind: String,
    pub text: String,
}

/// The share of one agent or region in the whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    /// `agent` or `region`.
    pub by: String,
    /// Agents that name no region are `none`.
    pub name: String,
    pub devices: DeviceTotals,
    /// Like the run's, for the whole run only.
    pub series: Vec<SeriesReport>,
    #[serde(default)]
    pub observers: Vec<PartObserverReport>,
}

/// What a part has to do with an observer: what became of the messages of its devices, and what its
/// agents read, of whichever device. Of one agent these are rarely the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartObserverReport {
    pub name: String,
    /// The series that is observed.
    pub of: String,
    /// Of the devices that it drove.
    pub sent: u64,
    pub acked: u64,
    pub unique: u64,
    pub received_ratio: Option<f64>,
    pub lost: u64,
    pub undelivered: u64,
    pub unconfirmed: u64,
    pub lost_possible: u64,
    pub duplicated: u64,
    pub resent: u64,
    pub pending: u64,
    /// What it read.
    pub received: u64,
    pub unparsed: u64,
    pub foreign: u64,
    pub negative: u64,
    pub ingest_delay_us: Option<DelayReport>,
    pub delivery_delay_us: Option<DelayReport>,
    pub end_to_end_delay_us: Option<DelayReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    pub agent: String,
    pub build: String,
    pub devices: u64,
    /// `running`, `closed`, `lost`, …
    pub state: String,
    /// How often its process was replaced while it held devices.
    #[serde(default)]
    pub restarts: u64,
    pub stall_max_us: u64,
    pub stalled_us: u64,
    pub descriptor_errors: u64,
    pub port_errors: u64,
    /// What its process used while it held these devices: cores on average, the most memory and
    /// descriptors, bytes through the interfaces of its machine or container but loopback.
    #[serde(default)]
    pub cpu_cores: f64,
    #[serde(default)]
    pub memory_max_bytes: u64,
    #[serde(default)]
    pub descriptors_max: u64,
    #[serde(default)]
    pub network_received_bytes: u64,
    #[serde(default)]
    pub network_sent_bytes: u64,
    /// Shares of that time in which its threads waited for a processor, anything on its machine did,
    /// the hypervisor gave its processors to others, its container had used up its share.
    #[serde(default)]
    pub waited_ratio: f64,
    #[serde(default)]
    pub pressure_ratio: f64,
    #[serde(default)]
    pub stolen_ratio: f64,
    #[serde(default)]
    pub throttled_ratio: f64,
    /// By how much it began behind the common instant, and by how much its idea of that may have been wrong.
    #[serde(default)]
    pub start_lag_us: u64,
    #[serde(default)]
    pub clock_bound_us: u64,
    /// Its own wall clock minus the control plane's, right within `clock_bound_us`. No number
    /// depends on it: everything is stamped in the control plane's time. Null: it never said.
    #[serde(default)]
    pub clock_offset_us: Option<i64>,
    /// Slots that it slept through, and p99 of its send lag.
    #[serde(default)]
    pub missed: u64,
    #[serde(default)]
    pub send_lag_p99_us: Option<u64>,
    /// Whether the agent's closing totals equal what was stored.
    pub totals_proved: Option<bool>,
    /// What it runs on; `None`: it never said.
    #[serde(default)]
    pub host: Option<HostReport>,
}

/// A machine, or what a container sees of it. Empty or 0: it could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReport {
    pub name: String,
    pub system: String,
    pub kernel: String,
    pub processor: String,
    /// That the machine has, whatever the agent may use of them.
    pub processors: u32,
    pub memory_bytes: u64,
    /// What it could tell apart when the agent started: p99 of its timers' lag, and what an echo over
    /// loopback took. 0: not known.
    #[serde(default)]
    pub timer_p99_us: u64,
    #[serde(default)]
    pub echo_p50_us: u64,
    #[serde(default)]
    pub echo_p99_us: u64,
}
