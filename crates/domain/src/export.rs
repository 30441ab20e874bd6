//! A run with its course: what reports and files are made of.
//!
//! The course is the stored windows, joined into at most as many points as a caller can draw. Each
//! count of the run is in exactly one point, so the columns add up to the run's totals; times of a
//! point are of its merged histogram.

use serde::{Deserialize, Serialize};

mod building;

pub use self::building::{CourseBuilder, TimePart, Watched, WindowPart};

use crate::outcome::Operation;
use crate::report::RunReport;

/// Those that Locust's files have.
pub const QUANTILES: [f64; 11] =
    [0.50, 0.66, 0.75, 0.80, 0.90, 0.95, 0.98, 0.99, 0.999, 0.9999, 1.0];

/// The document of `shoal export --format json`: the run's document and what follows it here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunExport {
    #[serde(flatten)]
    pub report: RunReport,
    pub scenario_text: String,
    pub stages: Vec<StageSpan>,
    /// Of the whole run by series, and of all series together at the end.
    pub distributions: Vec<Distribution>,
    pub course: Course,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageSpan {
    pub name: String,
    /// `ramp`, `hold`, …
    pub kind: String,
    pub from_s: f64,
    pub to_s: f64,
    /// The groups that follow it.
    pub groups: Vec<String>,
}

/// A series as Locust counts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Null: all series together.
    pub operation: Option<Operation>,
    pub group: String,
    pub name: String,
    /// Locust's type: the method of HTTP requests, else `MQTT` or `HTTP`; empty: all together.
    #[serde(default)]
    pub kind: String,
    pub count: u64,
    pub errors: u64,
    /// Bytes of content per attempt.
    #[serde(default)]
    pub mean_bytes: f64,
    pub rate_per_s: f64,
    pub errors_per_s: f64,
    /// Which time it is: `response_time`, or `service_time` where there is no other; null without.
    pub time: Option<String>,
    pub mean_us: Option<f64>,
    pub min_us: Option<u64>,
    pub max_us: Option<u64>,
    /// At [`QUANTILES`]; empty without samples.
    pub quantiles_us: Vec<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Length of a point.
    pub step_s: u64,
    /// Run time at which each point begins.
    pub from_s: Vec<u64>,
    /// Connected devices at the end of each point; null: not known.
    pub devices: Vec<Option<u64>>,
    pub series: Vec<SeriesCourse>,
    #[serde(default)]
    pub observers: Vec<ObserverCourse>,
    /// All series together, added up from the start.
    pub so_far: Vec<SoFar>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeriesCourse {
    pub group: String,
    pub name: String,
    pub operation: String,
    /// Which time the percentiles are of; null without samples.
    pub time: Option<String>,
    pub sent: Vec<u64>,
    pub acked: Vec<u64>,
    pub errors: Vec<u64>,
    pub missed: Vec<u64>,
    pub p50_us: Vec<Option<u64>>,
    pub p95_us: Vec<Option<u64>>,
    pub p99_us: Vec<Option<u64>>,
    pub max_us: Vec<Option<u64>>,
}

/// The far end over time. What became of messages stands at the time of their sending, what an
/// observer read at the time at which it read it; so every row adds up to the run's total, and in
/// each point what was sent is unique + lost + undelivered + `lost_possible` + pending.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObserverCourse {
    pub name: String,
    /// The same as in the run's `observers`. All by the time of sending; empty where it is not
    /// known, in runs of older releases.
    pub sent: Vec<u64>,
    pub acked: Vec<u64>,
    pub unique: Vec<u64>,
    /// Of those sent in this point; null: nothing was.
    pub received_ratio: Vec<Option<f64>>,
    pub lost: Vec<u64>,
    pub undelivered: Vec<u64>,
    pub unconfirmed: Vec<u64>,
    pub lost_possible: Vec<u64>,
    pub pending: Vec<u64>,
    /// By the time of reading; the first four are empty where `sent` is.
    pub duplicated: Vec<u64>,
    pub resent: Vec<u64>,
    pub out_of_order: Vec<u64>,
    pub late_events: Vec<u64>,
    /// Events of the run, repetitions included.
    pub received: Vec<u64>,
    pub unparsed: Vec<u64>,
    pub foreign: Vec<u64>,
    /// Of what was read in this point.
    pub end_to_end_delay: DelayCourse,
    /// Empty, like the next, of a source that does not say when it took events in.
    pub ingest_delay: DelayCourse,
    pub delivery_delay: DelayCourse,
}

/// A delay over time; empty: it never had a sample.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayCourse {
    pub p50_us: Vec<Option<i64>>,
    pub p95_us: Vec<Option<i64>>,
    pub p99_us: Vec<Option<i64>>,
    pub max_us: Vec<Option<i64>>,
}

/// Everything up to the end of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SoFar {
    pub count: u64,
    pub errors: u64,
    /// Bytes of content per attempt.
    #[serde(default)]
    pub mean_bytes: f64,
    pub mean_us: Option<f64>,
    pub min_us: Option<u64>,
    pub max_us: Option<u64>,
    /// At [`QUANTILES`]; empty without samples.
    pub quantiles_us: Vec<u64>,
}

/// Bytes of content per attempt; 0 without one.
pub fn mean_bytes(bytes: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { bytes as f64 / count as f64 }
}
