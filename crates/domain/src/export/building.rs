//! Stored windows, in order of time, joined into the points of a course.

use super::{Course, DelayCourse, ObserverCourse, QUANTILES, SeriesCourse, SoFar, mean_bytes};
use crate::delay::Delays;
use crate::histogram::{DecodeError, Sparse};
use crate::ids::ObserverId;
use crate::observed::Arrivals;
use crate::tracker::Totals;

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

/// What a course has to know of an observer beforehand.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    pub name: String,
    /// The platform's clock minus ours.
    pub platform_shift_us: i64,
    /// What became of its messages is known by window.
    pub has_classes: bool,
}

/// Joins windows that come in order of time.
#[derive(Debug)]
pub struct CourseBuilder {
    course: Course,
    open: Vec<Moment>,
    watched: Vec<Watched>,
    seen: Vec<(Totals, Arrivals)>,
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
        watched: Vec<Watched>,
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
        let named =
            |it: &Watched| ObserverCourse { name: it.name.clone(), ..ObserverCourse::default() };
        let observers: Vec<ObserverCourse> = watched.iter().map(named).collect();
        let seen = vec![Default::default(); observers.len()];
        let course = Course { step_s: step_s.max(1), series, observers, ..Course::default() };
        Self { course, open, watched, seen, so_far: Moment::default() }
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
        if let Some((_, open)) = self.seen.get_mut(observer.index()) {
            open.merge(arrivals);
        }
    }

    /// The same of what became of messages.
    pub fn add_totals(&mut self, window: u64, observer: ObserverId, totals: &Totals) {
        self.reach(window);
        if let Some((open, _)) = self.seen.get_mut(observer.index()) {
            open.merge(totals);
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
        let known = self.watched.iter().zip(&mut self.seen);
        for (observer, (watched, seen)) in self.course.observers.iter_mut().zip(known) {
            let (totals, arrivals) = std::mem::take(seen);
            if watched.has_classes {
                observer.push_classes(&totals);
            }
            observer.push_arrivals(&arrivals, watched.platform_shift_us);
        }
        self.course.so_far.push(self.so_far.so_far());
    }

    pub fn finish(mut self) -> Course {
        if !self.course.from_s.is_empty() {
            self.close();
        }
        for observer in &mut self.course.observers {
            for delay in [
                &mut observer.end_to_end_delay,
                &mut observer.ingest_delay,
                &mut observer.delivery_delay,
            ] {
                if delay.max_us.iter().all(Option::is_none) {
                    *delay = DelayCourse::default();
                }
            }
        }
        self.course
    }
}

impl ObserverCourse {
    fn push_classes(&mut self, totals: &Totals) {
        self.sent.push(totals.sent);
        self.acked.push(totals.acked);
        self.unique.push(totals.unique);
        let ratio = totals.unique as f64 / totals.sent as f64;
        self.received_ratio.push((totals.sent > 0).then_some(ratio));
        self.lost.push(totals.lost);
        self.undelivered.push(totals.undelivered);
        self.unconfirmed.push(totals.unconfirmed);
        self.lost_possible.push(totals.lost_possible);
        self.pending.push(totals.pending);
        self.duplicated.push(totals.duplicated);
        self.resent.push(totals.resent);
        self.out_of_order.push(totals.out_of_order);
        self.late_events.push(totals.late_events);
    }

    fn push_arrivals(&mut self, arrivals: &Arrivals, platform_shift_us: i64) {
        self.received.push(arrivals.received);
        self.unparsed.push(arrivals.unparsed);
        self.foreign.push(arrivals.foreign);
        self.end_to_end_delay.push(&arrivals.end_to_end, 0);
        self.ingest_delay.push(&arrivals.ingest, -platform_shift_us);
        self.delivery_delay.push(&arrivals.delivery, platform_shift_us);
    }
}

impl DelayCourse {
    fn push(&mut self, delays: &Delays, shift_us: i64) {
        let shifted = |us: Option<i64>| us.map(|us| us.saturating_add(shift_us));
        self.p50_us.push(shifted(delays.quantile_us(0.5)));
        self.p95_us.push(shifted(delays.quantile_us(0.95)));
        self.p99_us.push(shifted(delays.quantile_us(0.99)));
        self.max_us.push(shifted(delays.max_us()));
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
            let mut builder = CourseBuilder::new(series, Vec::new(), step);
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
        let out = Watched { name: "out".into(), platform_shift_us: -10, has_classes: true };
        let mut builder = CourseBuilder::new(series, vec![out], 1);
        add(&mut builder, 1, &samples(&[5]));
        add(&mut builder, 4, &samples(&[7, 9]));
        let mut arrivals = Arrivals { received: 2, ..Arrivals::default() };
        arrivals.end_to_end.record(-3);
        arrivals.ingest.record(5);
        builder.add_arrivals(4, ObserverId(0), &arrivals);
        builder.add_arrivals(5, ObserverId(0), &arrivals);
        let totals = Totals { sent: 4, unique: 3, lost: 1, ..Totals::default() };
        builder.add_totals(5, ObserverId(0), &totals);
        let course = builder.finish();
        assert_eq!(course.from_s, [0, 1, 2, 3, 4, 5]);
        assert_eq!(course.series[0].sent, [0, 1, 0, 0, 2, 0]);
        assert_eq!(course.series[0].max_us, [None, Some(5), None, None, Some(9), None]);
        assert_eq!(course.series[0].time.as_deref(), Some("response_time"));
        assert_eq!(course.observers[0].received, [0, 0, 0, 0, 2, 2]);
        let out = &course.observers[0];
        assert_eq!(out.end_to_end_delay.max_us[3..], [None, Some(-3), Some(-3)]);
        assert_eq!(out.ingest_delay.p50_us[3..], [None, Some(15), Some(15)]);
        assert_eq!(out.delivery_delay, DelayCourse::default());
        assert_eq!((out.lost.as_slice(), out.sent[5]), (&[0, 0, 0, 0, 0, 1][..], 4));
        assert_eq!(out.received_ratio[4..], [None, Some(0.75)]);
    }
}
