//! What a run must hold to pass.

use crate::ids::{ObserverId, SeriesId, StageId};
use crate::outcome::Operation;

#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// As a person wrote it, or the sentence of a default one.
    pub text: String,
    pub subject: Subject,
    pub metric: Metric,
    pub comparison: Comparison,
    pub limit: Limit,
    /// `None`: the whole run.
    pub stage: Option<StageId>,
    pub region: Region,
    /// `None`: judged once, over all of its time.
    pub windows: Option<Windows>,
    pub abort_after_us: Option<u64>,
    /// One of those that hold unless the file overrides them.
    pub is_default: bool,
}

impl Threshold {
    /// Whether its windows are judged while the load goes on.
    pub fn is_watched_by_windows(&self) -> bool {
        self.windows.is_some() && self.abort_after_us.is_some()
    }
}

/// Whose agents a threshold asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Region {
    /// All agents together.
    All,
    /// Those of one region.
    Named(String),
    /// Every region by itself: the worst one decides.
    Each,
}

/// Judged in every stretch of so many seconds; it must hold in at least this share of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Windows {
    pub seconds: u64,
    pub held_ratio: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Series(SeriesId),
    /// All series of one operation, added up.
    All(Operation),
    /// The devices of a group (index into [`Plan::groups`](super::Plan::groups)).
    Devices(usize),
    Observer(ObserverId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    Planned,
    Sent,
    Missed,
    Held,
    NotConnected,
    Away,
    Unsent,
    Unassigned,
    Count,
    Errors,
    /// Sends (attempts) per second of the stage or run.
    Rate,
    ResponseTime(Statistic),
    ServiceTime(Statistic),
    SendLag(Statistic),
    DevicesPlanned,
    DevicesConnected,
    DevicesFailed,
    Observed(Observed),
    IngestDelay(Statistic),
    DeliveryDelay(Statistic),
    EndToEndDelay(Statistic),
    /// How long the observer went on after the load.
    Drain,
    /// By how much its end-to-end delays can be wrong.
    ClockBound,
}

/// What an observer counts; see [`crate::tracker::Totals`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    Sent,
    Acked,
    Received,
    Unique,
    Lost,
    Undelivered,
    Unconfirmed,
    LostPossible,
    Duplicated,
    Resent,
    OutOfOrder,
    LateEvents,
    Unparsed,
    Foreign,
    /// End-to-end delays below 0.
    Negative,
    ReaderGaps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    Min,
    Mean,
    P50,
    P90,
    P95,
    P99,
    P999,
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
    NotEqual,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    Count(f64),
    /// 0..1; errors by `count`, slot classes by `planned`.
    Ratio(f64),
    Micros(f64),
    PerSecond(f64),
}
