//! The far end in metrics.
//!
//! What was read only grows; what became of messages is known as of now, and a lost one may still
//! come. Delays are as they were measured: the bound of clocks is the report's to say, and negative
//! ones are counted beside the histogram, which has no room for them.

use std::borrow::Cow;

use shoal_domain::delay::Delays;
use shoal_domain::ids::ObserverId;
use shoal_domain::observed::Arrivals;
use shoal_domain::plan::Plan;
use shoal_domain::tracker::{Horizon, Totals};

use super::TimeSample;
use super::families::{Point, Value, by_class};
use crate::live::LiveRun;

#[derive(Debug, Clone)]
pub(super) struct ObserverSample {
    pub(super) name: String,
    pub(super) events: [(&'static str, u64); 8],
    pub(super) messages: [(&'static str, u64); 8],
    reader_gaps: u64,
    pub(super) end_to_end: Option<TimeSample>,
    pub(super) ingest: Option<TimeSample>,
    pub(super) delivery: Option<TimeSample>,
}

impl ObserverSample {
    pub(super) fn all(plan: &Plan, live: &LiveRun) -> Vec<Self> {
        let of = |n: usize| {
            let id = ObserverId(n as u32);
            let tracker = live.trackers.of(id);
            let totals = tracker.map(|tracker| tracker.totals(Horizon::Open)).unwrap_or_default();
            let mut arrivals = Arrivals::default();
            for ((observer, _), cell) in &live.arrivals {
                if *observer == id {
                    arrivals.merge(cell);
                }
            }
            let gaps = live.gaps.iter().filter(|gap| gap.observer == id).count() as u64;
            Self::of(plan.observers[n].name.clone(), &totals, &arrivals, gaps)
        };
        (0..plan.observers.len()).map(of).collect()
    }

    fn of(name: String, totals: &Totals, arrivals: &Arrivals, reader_gaps: u64) -> Self {
        let negative = [&arrivals.end_to_end, &arrivals.ingest, &arrivals.delivery];
        Self {
            name,
            events: [
                ("received", arrivals.received),
                ("duplicated", totals.duplicated),
                ("resent", totals.resent),
                ("out_of_order", totals.out_of_order),
                ("late_events", totals.late_events),
                ("unparsed", arrivals.unparsed),
                ("foreign", arrivals.foreign),
                ("negative", negative.into_iter().map(Delays::n_negative).sum()),
            ],
            messages: [
                ("sent", totals.sent),
                ("acked", totals.acked),
                ("unique", totals.unique),
                ("lost", totals.lost),
                ("undelivered", totals.undelivered),
                ("unconfirmed", totals.unconfirmed),
                ("lost_possible", totals.lost_possible),
                ("pending", totals.pending),
            ],
            reader_gaps,
            end_to_end: TimeSample::of(&arrivals.end_to_end.ahead),
            ingest: TimeSample::of(&arrivals.ingest.ahead),
            delivery: TimeSample::of(&arrivals.delivery.ahead),
        }
    }

    /// What of this observer stands under a name.
    pub(super) fn points<'a>(
        &'a self,
        name: &str,
        mut labels: Vec<(&'static str, Cow<'a, str>)>,
    ) -> Vec<Point<'a>> {
        labels.push(("observer", self.name.as_str().into()));
        let one = |value| Point { labels: labels.clone(), value };
        let time =
            |time: &'a Option<TimeSample>| time.iter().map(|time| one(Value::Time(time))).collect();
        match name {
            "shoal_observer_events_total" => by_class(&labels, &self.events),
            "shoal_observer_messages" => by_class(&labels, &self.messages),
            "shoal_observer_reader_gaps" => vec![one(Value::Number(self.reader_gaps))],
            "shoal_end_to_end_delay_seconds" => time(&self.end_to_end),
            "shoal_ingest_delay_seconds" => time(&self.ingest),
            "shoal_delivery_delay_seconds" => time(&self.delivery),
            _ => Vec::new(),
        }
    }
}
