//! One threshold line, `path op limit`, before anything is known about the path.
//!
//! The limit keeps its dimension, so that comparing a time with a count is a mistake that the
//! check can name.

use crate::plan::{Comparison, Limit, Metric, Observed, Statistic};
use crate::units;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line<'t> {
    pub(crate) path: &'t str,
    pub(crate) comparison: Comparison,
    pub(crate) limit: Limit,
}

/// Longer ones first: `<=` begins with `<`.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

pub(crate) fn parse(line: &str) -> Result<Line<'_>, String> {
    let (path, comparison, limit) = split(line)?;
    let limit = parse_limit(limit)
        .ok_or_else(|| format!("`{limit}` is no limit: a count, 1%, 250ms or 100/s is expected"))?;
    Ok(Line { path, comparison, limit })
}

/// Path, comparison and what stands behind it.
pub(crate) fn split(line: &str) -> Result<(&str, Comparison, &str), String> {
    let expected = "`<path> <comparison> <limit>` is expected, like sensors.telemetry.errors < 1%";
    let at = line
        .find(['<', '>', '=', '!'])
        .ok_or_else(|| format!("`{line}` has no comparison: {expected}"))?;
    let (path, rest) = line.split_at(at);
    let (comparison, limit) = COMPARISONS
        .iter()
        .find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)))
        .ok_or_else(|| format!("`{rest}` is no comparison with a limit: {expected}"))?;
    Ok((path.trim(), comparison, limit.trim()))
}

pub(crate) fn parse_limit(text: &str) -> Option<Limit> {
    if let Some(count) = units::bare(text) {
        return Some(Limit::Count(count));
    }
    if let Some(share) = units::percent(text) {
        return Some(Limit::Ratio(share));
    }
    if let Some(rate) = units::rate(text) {
        return Some(Limit::PerSecond(rate.per_second()));
    }
    units::duration_ns(text).map(|ns| Limit::Micros(ns as f64 / 1e3))
}

pub(crate) const STATISTICS: [(&str, Statistic); 8] = [
    ("max", Statistic::Max),
    ("mean", Statistic::Mean),
    ("min", Statistic::Min),
    ("p50", Statistic::P50),
    ("p90", Statistic::P90),
    ("p95", Statistic::P95),
    ("p99", Statistic::P99),
    ("p999", Statistic::P999),
];

pub(crate) const COUNTERS: [(&str, Metric); 11] = [
    ("planned", Metric::Planned),
    ("sent", Metric::Sent),
    ("missed", Metric::Missed),
    ("held", Metric::Held),
    ("not_connected", Metric::NotConnected),
    ("away", Metric::Away),
    ("unsent", Metric::Unsent),
    ("unassigned", Metric::Unassigned),
    ("count", Metric::Count),
    ("errors", Metric::Errors),
    ("rate", Metric::Rate),
];

/// A duration is a metric once its statistic is known.
pub(crate) type OfStatistic = fn(Statistic) -> Metric;

pub(crate) const TIMES: [(&str, OfStatistic); 3] = [
    ("response_time", Metric::ResponseTime),
    ("service_time", Metric::ServiceTime),
    ("send_lag", Metric::SendLag),
];

pub(crate) const DEVICES: [(&str, Metric); 3] = [
    ("planned", Metric::DevicesPlanned),
    ("connected", Metric::DevicesConnected),
    ("failed", Metric::DevicesFailed),
];

pub(crate) const OBSERVED_COUNTERS: [(&str, Observed); 16] = [
    ("sent", Observed::Sent),
    ("acked", Observed::Acked),
    ("received", Observed::Received),
    ("unique", Observed::Unique),
    ("lost", Observed::Lost),
    ("undelivered", Observed::Undelivered),
    ("unconfirmed", Observed::Unconfirmed),
    ("lost_possible", Observed::LostPossible),
    ("duplicated", Observed::Duplicated),
    ("resent", Observed::Resent),
    ("out_of_order", Observed::OutOfOrder),
    ("late_events", Observed::LateEvents),
    ("unparsed", Observed::Unparsed),
    ("foreign", Observed::Foreign),
    ("negative", Observed::Negative),
    ("reader_gaps", Observed::ReaderGaps),
];

pub(crate) const OBSERVED_TIMES: [(&str, OfStatistic); 3] = [
    ("delivery_delay", Metric::DeliveryDelay),
    ("end_to_end_delay", Metric::EndToEndDelay),
    ("ingest_delay", Metric::IngestDelay),
];

/// Durations without a statistic: there is one of each.
pub(crate) const OBSERVED_DURATIONS: [(&str, Metric); 2] =
    [("clock_bound", Metric::ClockBound), ("drain", Metric::Drain)];

/// Why a limit cannot be compared with a metric; `None` where it can.
pub(crate) fn misfit(metric: Metric, limit: Limit) -> Option<&'static str> {
    let is_fitting = match metric {
        Metric::ResponseTime(_)
        | Metric::ServiceTime(_)
        | Metric::SendLag(_)
        | Metric::IngestDelay(_)
        | Metric::DeliveryDelay(_)
        | Metric::EndToEndDelay(_)
        | Metric::Drain
        | Metric::ClockBound => {
            return (!matches!(limit, Limit::Micros(_))).then_some("a duration, like 250ms");
        }
        Metric::Rate => {
            return (!matches!(limit, Limit::PerSecond(_))).then_some("a rate, like 100/s");
        }
        Metric::Planned
        | Metric::Count
        | Metric::DevicesPlanned
        | Metric::DevicesConnected
        | Metric::DevicesFailed
        | Metric::Observed(Observed::Sent | Observed::ReaderGaps) => {
            return (!matches!(limit, Limit::Count(_))).then_some("a count, like 0");
        }
        _ => matches!(limit, Limit::Count(_) | Limit::Ratio(_)),
    };
    (!is_fitting).then_some("a count or a share, like 0 or 1%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_a_path_a_comparison_and_a_limit() {
        let line = parse("sensors.telemetry.response_time.p95<=250ms").unwrap();
        assert_eq!(line.path, "sensors.telemetry.response_time.p95");
        assert_eq!(line.comparison, Comparison::AtMost);
        assert_eq!(line.limit, Limit::Micros(250_000.0));
        assert_eq!(parse("a.b.errors < 0.1%").unwrap().limit, Limit::Ratio(0.001));
        assert_eq!(parse("a.b.rate > 6000/min").unwrap().limit, Limit::PerSecond(100.0));
        assert!(parse("a.b.errors").unwrap_err().contains("no comparison"));
        assert!(parse("a.b.errors = 3").unwrap_err().contains("no comparison"));
        assert!(parse("a.b.errors < many").unwrap_err().contains("no limit"));
    }

    proptest! {
        #[test]
        fn any_line_parses_or_is_refused(line in "\\PC{0,40}") {
            let _ = parse(&line);
        }
    }
}
