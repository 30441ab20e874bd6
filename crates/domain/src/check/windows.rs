//! Of a threshold: the windows it is judged in, and the region whose agents it asks about.
//!
//! What cannot be known per window or per region is refused here, so that judging never has to
//! say "no data" about a metric that could never have any.

use super::Check;
use crate::plan::{Limit, Metric, Observed, Region, Subject, Windows};
use crate::scenario::ThresholdLine;
use crate::units;

/// A region that is every one of them.
const EACH: &str = "each";

impl Check<'_> {
    /// `windows` and `held`; either makes the threshold one of windows.
    pub(super) fn windows_of(
        &self,
        line: &ThresholdLine,
        metric: Metric,
        limit: Limit,
    ) -> Option<Option<Windows>> {
        let Some(written) = line.windows.as_ref().or(line.held.as_ref()) else {
            return Some(None);
        };
        let seconds = match &line.windows {
            // Results are kept by the second.
            Some(windows) => self.whole_seconds(windows).map(u64::from),
            None => Some(1),
        };
        let held_ratio = match &line.held {
            Some(held) => self.read(held, "a share of at most 100%, like 99%", |text| {
                units::percent(text).filter(|share| *share > 0.0 && *share <= 1.0)
            }),
            None => Some(1.0),
        };
        if let Some(why) = unknown_per_window(metric, limit) {
            return self.refuse(written, why.to_owned(), None);
        }
        if let (Metric::Observed(_), Some(abort_after)) = (metric, &line.abort_after) {
            let message = "what became of the messages of a window is known at the end of the run";
            let help = "leave `abort_after` away, or `windows` and `held`".to_owned();
            return self.refuse(abort_after, message.to_owned(), Some(help));
        }
        Some(Some(Windows { seconds: seconds?, held_ratio: held_ratio? }))
    }

    pub(super) fn region_of(&self, line: &ThresholdLine, subject: &Subject) -> Option<Region> {
        let Some(written) = &line.region else { return Some(Region::All) };
        if matches!(subject, Subject::Observer(_)) {
            let message = "what an observer reads comes from all regions".to_owned();
            return self.refuse(written, message, Some("leave `region` away".to_owned()));
        }
        let name = self.resolve(written)?.text;
        match name.as_str() {
            EACH => Some(Region::Each),
            "" => self.refuse(written, "a region has a name".to_owned(), None),
            _ => Some(Region::Named(name)),
        }
    }
}

/// Why a metric has no value in a window.
fn unknown_per_window(metric: Metric, limit: Limit) -> Option<&'static str> {
    use Metric as M;
    match metric {
        M::Planned | M::Unassigned => Some("what was planned is not known per window"),
        M::Sent | M::Missed | M::Held | M::NotConnected | M::Away | M::Unsent
            if matches!(limit, Limit::Ratio(_)) =>
        {
            Some("what was planned is not known per window: compare with a count, or use rate")
        }
        M::DevicesPlanned | M::DevicesConnected | M::DevicesFailed => {
            Some("devices are counted over the whole run")
        }
        M::Observed(Observed::ReaderGaps) | M::Drain | M::ClockBound => {
            Some("this count of an observer is known for the whole run only")
        }
        _ => None,
    }
}
