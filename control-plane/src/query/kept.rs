//! The course of the far end as rows of plain numbers, for dashboards; see the table `observed`.

use shoal_domain::export::ObserverCourse;

use super::course::{Of, course};
use crate::refusal::Refusal;
use crate::store::{ObservedRow, RunRow, Store};

/// Keeps the far end of a run that is over.
pub(super) async fn keep(
    store: &Store,
    row: &RunRow,
    of: &Of<'_>,
    duration_s: f64,
) -> Result<(), Refusal> {
    let course = course(store, row, of, duration_s, 0).await?;
    let mut rows = Vec::new();
    for (n, observer) in course.observers.iter().enumerate() {
        for (point, from_s) in course.from_s.iter().enumerate() {
            rows.push(ObservedRow {
                observer: n as i64,
                from_s: *from_s as i64,
                step_s: course.step_s as i64,
                name: observer.name.clone(),
                counts: counts(observer, point),
                delays_us: delays(observer, point),
            });
        }
    }
    Ok(store.put_observed(row.run_id, &rows).await?)
}

fn counts(observer: &ObserverCourse, point: usize) -> [i64; 14] {
    [
        &observer.sent,
        &observer.acked,
        &observer.unique,
        &observer.lost,
        &observer.undelivered,
        &observer.unconfirmed,
        &observer.lost_possible,
        &observer.received,
        &observer.duplicated,
        &observer.resent,
        &observer.out_of_order,
        &observer.late_events,
        &observer.unparsed,
        &observer.foreign,
    ]
    .map(|counts| counts.get(point).map_or(0, |n| *n as i64))
}

fn delays(observer: &ObserverCourse, point: usize) -> [Option<i64>; 12] {
    let (whole, ingest, delivery) =
        (&observer.end_to_end_delay, &observer.ingest_delay, &observer.delivery_delay);
    [
        &whole.p50_us,
        &whole.p95_us,
        &whole.p99_us,
        &whole.max_us,
        &ingest.p50_us,
        &ingest.p95_us,
        &ingest.p99_us,
        &ingest.max_us,
        &delivery.p50_us,
        &delivery.p95_us,
        &delivery.p99_us,
        &delivery.max_us,
    ]
    .map(|delays| delays.get(point).copied().flatten())
}
