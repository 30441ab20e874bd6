//! The request log of a run, for who asks: second by second, in each in the order of their ends.

use shoal_domain::ids::SeriesId;
use shoal_domain::plan::Plan;
use shoal_domain::requests::{End, Request, RequestLog};
use shoal_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use crate::query::kind_of;
use crate::record::internal;
use crate::refusal::Refusal;
use crate::store::{RunRow, Store};

/// Rows of one message.
const PAGE: usize = 1_000;

type Reader = mpsc::Sender<Result<v1::LoggedRequests, Status>>;

/// Until everything is told, the reader is gone, or the store does not answer.
pub(crate) async fn read(store: Store, row: RunRow, plan: Plan, t0_us: u64, reader: Reader) {
    if let Err(refusal) = tell(&store, &row, &plan, t0_us, &reader).await {
        let _ = reader.send(Err(refusal.into())).await;
    }
}

async fn tell(
    store: &Store,
    row: &RunRow,
    plan: &Plan,
    t0_us: u64,
    reader: &Reader,
) -> Result<(), Refusal> {
    let series = (0..plan.series.len()).map(|n| SeriesId(n as u32));
    let kinds: Vec<String> = series.map(|series| kind_of(plan, series)).collect();
    let mut after = -1;
    while let Some(window) = store.next_request_window(row.run_id, after).await? {
        after = window;
        let mut rows = Vec::new();
        for stored in store.request_logs(row.run_id, window).await? {
            let log = RequestLog::from_bytes(stored.body, stored.dropped.max(0) as u64).map_err(
                |error| internal(format!("table request_logs, id {}: {error}", row.run_id)),
            )?;
            let wire =
                |request: Request<'_>| to_wire(plan, &kinds, t0_us, &stored.agent_id, &request);
            rows.extend(log.iter().filter_map(wire));
        }
        rows.sort_by_key(|row: &v1::LoggedRequest| row.run_us + row.service_us.unwrap_or(0));
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(PAGE));
            let page = v1::LoggedRequests { rows: std::mem::replace(&mut rows, rest) };
            if reader.send(Ok(page)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// `None`: a series or stage that the plan does not have.
fn to_wire(
    plan: &Plan,
    kinds: &[String],
    t0_us: u64,
    agent: &str,
    request: &Request<'_>,
) -> Option<v1::LoggedRequest> {
    let series = plan.series.get(request.series.index())?;
    let stage = plan.stages.get(request.stage.index())?;
    let (outcome, class, text) = match request.end {
        End::Acked => ("acked", "", ""),
        End::Sent => ("sent", "", ""),
        End::Failed(class, text) => ("failed", class.word(), text),
    };
    Some(v1::LoggedRequest {
        sent_us: t0_us.saturating_add(request.sent_us),
        run_us: request.sent_us,
        kind: kinds.get(request.series.index())?.clone(),
        group: plan.groups[series.group].name.clone(),
        name: series.name.clone(),
        operation: series.operation.word().to_owned(),
        stage: stage.name.clone(),
        device: request.device.to_owned(),
        agent: agent.to_owned(),
        response_us: request.response_us(),
        service_us: request.service_us,
        lag_us: request.lag_us,
        bytes: request.bytes,
        status: request.status.map_or(0, u32::from),
        outcome: outcome.to_owned(),
        class: class.to_owned(),
        text: text.to_owned(),
    })
}
