//! A run with its course: what reports and files are made of.
//!
//! The course is the stored windows, joined into at most as many points as a caller can draw. Each
//! count of the run is in exactly one point, so the columns add up to the run's totals; times of a
//! point are of its merged histogram.

use serde::{Deserialize, Serialize};

use crate::histogram::{DecodeError, Sparse};
use crate::ids::ObserverId;
use crate::observed::Arrivals;
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

/// What an observer read in each point, by the time at which it read it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObserverCourse {
    pub name: String,
    /// Events of the run, repetitions included.
    pub received: Vec<u64>,
    /// Of the delay from end to end.
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

/// One window of one series as it is stored.
#[derive(Debug, Clone, Default)]
pub struct WindowPart<'a> {
    pub sent: u64,
    pub acked: u64,
    pub errors: u64,
    pub missed: u64,
    pub bytes: u64,
    /// The first of these that has samples is the series' time.
    pub times: [TimePart<'a>; 2],
}

/// Samples as stored; empty bytes: none.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimePart<'a> {
    pub histogram: &'a [u8],
    pub count: u64,
    pub sum_us: u64,
    pub min_us: u64,
    pub max_us: u64,
}

const TIMES: [&str; 2] = ["response_time", "service_time"];

/// Joins windows that come in order of time.
#[derive(Debug)]
pub struct CourseBuilder {
    course: Course,
    open: Vec<Moment>,
    arrived: Vec<Arrivals>,
    so_far: Moment,
}

#[derive(Debug, Clone, Default)]
struct Moment {
    sent: u64,
    acked: u64,
    errors: u64,
    missed: u64,
    bytes: u64,
    time: Option<usize>,
    histogram: Sparse,
    n: u64,
    sum_us: u64,
    min_us: u64,
    max_us: u64,
}

impl CourseBuilder {
    /// `series` as (group, name, operation), in the order of their numbers.
    pub fn new(
        series: impl IntoIterator<Item = (String, String, String)>,
        observers: impl IntoIterator<Item = String>,
        step_s: u64,
    ) -> Self {
        let series: Vec<SeriesCourse> = series
            .into_iter()
            .map(|(group, name, operation)| SeriesCourse {
                group,
                name,
                operation,
                ..SeriesCourse::default()
            })
            .collect();
        let open = vec![Moment::default(); series.len()];
        let named = |name| ObserverCourse { name, ..ObserverCourse::default() };
        let observers: Vec<ObserverCourse> = observers.into_iter().map(named).collect();
        let arrived = vec![Arrivals::default(); observers.len()];
        let course = Course { step_s: step_s.max(1), series, observers, ..Course::default() };
        Self { course, open, arrived, so_far: Moment::default() }
    }

    /// A window may not lie before the point that an earlier one opened; then it counts there.
    pub fn add(
        &mut self,
        window: u64,
        series: usize,
        part: &WindowPart<'_>,
    ) -> Result<(), DecodeError> {
        self.reach(window);
        if let Some(moment) = self.open.get_mut(series) {
            moment.add(part)?;
        }
        Ok(())
    }

    /// The same of what an observer read.
    pub fn add_arrivals(&mut self, window: u64, observer: ObserverId, arrivals: &Arrivals) {
        self.reach(window);
        if let Some(open) = self.arrived.get_mut(observer.index()) {
            open.merge(arrivals);
        }
    }

    /// Opens every point up to the one of `window`.
    pub fn reach(&mut self, window: u64) {
        let point = (window / self.course.step_s) as usize;
        while self.course.from_s.len() <= point {
            if !self.course.from_s.is_empty() {
                self.close();
            }
            let next = self.course.from_s.len() as u64 * self.course.step_s;
            self.course.from_s.push(next);
        }
    }

    fn close(&mut self) {
        for (series, moment) in self.course.series.iter_mut().zip(&mut self.open) {
            let moment = std::mem::take(moment);
            self.so_far.absorb(&moment);
            moment.end(series);
        }
        for (observer, arrived) in self.course.observers.iter_mut().zip(&mut self.arrived) {
            let Arrivals { received, end_to_end, .. } = std::mem::take(arrived);
            observer.received.push(received);
            observer.p50_us.push(end_to_end.quantile_us(0.5));
            observer.p95_us.push(end_to_end.quantile_us(0.95));
            observer.p99_us.push(end_to_end.quantile_us(0.99));
            observer.max_us.push(end_to_end.max_us());
        }
        self.course.so_far.push(self.so_far.so_far());
    }

    pub fn finish(mut self) -> Course {
        if !self.course.from_s.is_empty() {
            self.close();
        }
        self.course
    }
}

impl Moment {
    fn add(&mut self, part: &WindowPart<'_>) -> Result<(), DecodeError> {
        self.sent += part.sent;
        self.acked += part.acked;
        self.errors += part.errors;
        self.missed += part.missed;
        self.bytes += part.bytes;
        let own = part.times.iter().position(|time| time.count > 0);
        // Two times of one series are never mixed: the first kind that came stays.
        if let Some(kind) = self.time.or(own) {
            let time = &part.times[kind];
            if time.count > 0 {
                self.histogram.add(time.histogram)?;
                self.time = Some(kind);
                self.extend(time.count, time.sum_us, time.min_us, time.max_us);
            }
        }
        Ok(())
    }

    fn extend(&mut self, n: u64, sum_us: u64, min_us: u64, max_us: u64) {
        self.min_us = if self.n == 0 { min_us } else { self.min_us.min(min_us) };
        self.max_us = self.max_us.max(max_us);
        self.n += n;
        self.sum_us = self.sum_us.saturating_add(sum_us);
    }

    fn absorb(&mut self, other: &Self) {
        self.sent += other.sent;
        self.errors += other.errors;
        self.bytes += other.bytes;
        self.histogram.merge(&other.histogram);
        if other.n > 0 {
            self.extend(other.n, other.sum_us, other.min_us, other.max_us);
        }
    }

    fn quantile(&self, quantile: f64) -> Option<u64> {
        Some(self.histogram.quantile_us(quantile)?.clamp(self.min_us, self.max_us))
    }

    fn end(self, series: &mut SeriesCourse) {
        series.sent.push(self.sent);
        series.acked.push(self.acked);
        series.errors.push(self.errors);
        series.missed.push(self.missed);
        series.p50_us.push(self.quantile(0.5));
        series.p95_us.push(self.quantile(0.95));
        series.p99_us.push(self.quantile(0.99));
        series.max_us.push((self.n > 0).then_some(self.max_us));
        if series.time.is_none() {
            series.time = self.time.map(|kind| TIMES[kind].to_owned());
        }
    }

    fn so_far(&self) -> SoFar {
        let known = self.n > 0;
        SoFar {
            count: self.sent,
            errors: self.errors,
            mean_bytes: mean_bytes(self.bytes, self.sent),
            mean_us: known.then(|| self.sum_us as f64 / self.n as f64),
            min_us: known.then_some(self.min_us),
            max_us: known.then_some(self.max_us),
            quantiles_us: QUANTILES.iter().filter_map(|q| self.quantile(*q)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Samples;
    use proptest::prelude::*;

    fn samples(values: &[u64]) -> Samples {
        let mut samples = Samples::default();
        values.iter().for_each(|us| samples.record(*us));
        samples
    }

    fn add(builder: &mut CourseBuilder, window: u64, samples: &Samples) {
        let bytes = samples.encoded();
        let time = TimePart {
            histogram: &bytes,
            count: samples.count(),
            sum_us: samples.sum_us(),
            min_us: samples.min_us().unwrap_or(0),
            max_us: samples.max_us().unwrap_or(0),
        };
        let part = WindowPart {
            sent: samples.count(),
            times: [time, TimePart::default()],
            ..WindowPart::default()
        };
        builder.add(window, 0, &part).unwrap();
    }

    proptest! {
        #[test]
        fn a_course_adds_up_to_the_run_at_any_resolution(
            windows in proptest::collection::vec(
                (0u64..60, proptest::collection::vec(1u64..10_000_000, 0..20)), 1..30),
            step in 1u64..20,
        ) {
            let mut windows = windows;
            windows.sort();
            let series = [("g".to_owned(), "s".to_owned(), "publish".to_owned())];
            let mut builder = CourseBuilder::new(series, [], step);
            let mut whole = Samples::default();
            for (window, values) in &windows {
                let part = samples(values);
                add(&mut builder, *window, &part);
                whole.merge(&part);
            }
            let course = builder.finish();
            let points = (windows.last().unwrap().0 / step + 1) as usize;
            prop_assert_eq!(course.from_s.len(), points);
            let series = &course.series[0];
            prop_assert_eq!([series.sent.len(), series.p95_us.len(), course.so_far.len()], [points; 3]);
            prop_assert_eq!(series.sent.iter().sum::<u64>(), whole.count());
            let last = course.so_far.last().unwrap();
            prop_assert_eq!(last.count, whole.count());
            prop_assert_eq!(last.mean_us, whole.mean_us());
            let quantiles: Vec<u64> = QUANTILES.iter().filter_map(|q| whole.quantile_us(*q)).collect();
            prop_assert_eq!(&last.quantiles_us, &quantiles);
        }
    }

    #[test]
    fn a_quiet_time_has_its_points_too() {
        let series = [("g".to_owned(), "s".to_owned(), "publish".to_owned())];
        let mut builder = CourseBuilder::new(series, ["out".to_owned()], 1);
        add(&mut builder, 1, &samples(&[5]));
        add(&mut builder, 4, &samples(&[7, 9]));
        let mut arrivals = Arrivals { received: 2, ..Arrivals::default() };
        arrivals.end_to_end.record(-3);
        builder.add_arrivals(4, ObserverId(0), &arrivals);
        builder.add_arrivals(5, ObserverId(0), &arrivals);
        let course = builder.finish();
        assert_eq!(course.from_s, [0, 1, 2, 3, 4, 5]);
        assert_eq!(course.series[0].sent, [0, 1, 0, 0, 2, 0]);
        assert_eq!(course.series[0].max_us, [None, Some(5), None, None, Some(9), None]);
        assert_eq!(course.series[0].time.as_deref(), Some("response_time"));
        assert_eq!(course.observers[0].received, [0, 0, 0, 0, 2, 2]);
        assert_eq!(course.observers[0].max_us[3..], [None, Some(-3), Some(-3)]);
    }
}
