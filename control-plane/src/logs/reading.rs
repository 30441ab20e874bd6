//! A run's lines for somebody who asks: in order of time, and for who follows also what comes.

use std::time::Duration;

use shoal_domain::ids::RunId;
use shoal_domain::logs::Level;
use shoal_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use crate::orchestrator::Runs;
use crate::refusal::Refusal;
use crate::store::{LogRow, LogsAfter, Store, StoreError};

const PAGE: i64 = 500;
/// How often somebody who follows hears of news.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// After the end of a run its last lines are still on their way.
const LAST_LOOKS: u32 = 4;

/// Which lines.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub run: RunId,
    /// `None`: of everybody.
    pub agent: Option<String>,
    /// And all that are more severe.
    pub level: Level,
    pub follow: bool,
}

impl Wanted {
    fn has(&self, row: &LogRow) -> bool {
        let is_of = self.agent.as_ref().is_none_or(|agent| *agent == row.agent_id);
        // What was lost is told to everybody who asks for its agent: it may have been severe.
        is_of && (row.line.level >= self.level || row.line.dropped > 0)
    }
}

type Reader = mpsc::Sender<Result<v1::RunLogLine, Status>>;

/// Until everything is told, the reader is gone, or the store does not answer.
pub async fn read(store: Store, runs: Runs, wanted: Wanted, reader: Reader) {
    if let Err(error) = tell(&store, &runs, &wanted, &reader).await {
        let _ = reader.send(Err(Refusal::from(error).into())).await;
    }
}

async fn tell(
    store: &Store,
    runs: &Runs,
    wanted: &Wanted,
    reader: &Reader,
) -> Result<(), StoreError> {
    let mut newest = store.newest_log(wanted.run).await?;
    let (mut at_us, mut stored_n) = (i64::MIN, -1);
    loop {
        let after = LogsAfter::Time { at_us, stored_n, through: newest };
        let rows = store.logs(wanted.run, after, PAGE).await?;
        let Some(last) = rows.last() else { break };
        (at_us, stored_n) = (last.line.at_us as i64, last.stored_n);
        if !pass_on(rows, wanted, reader).await {
            return Ok(());
        }
    }
    let mut looks_left = if wanted.follow { LAST_LOOKS } else { 0 };
    while looks_left > 0 && !reader.is_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
        looks_left = if runs.active(wanted.run).is_some() { LAST_LOOKS } else { looks_left - 1 };
        let mut rows = store.logs(wanted.run, LogsAfter::Stored(newest), PAGE).await?;
        newest = rows.iter().map(|row| row.stored_n).fold(newest, i64::max);
        rows.sort_by_key(|row| (row.line.at_us, row.stored_n));
        if !pass_on(rows, wanted, reader).await {
            return Ok(());
        }
    }
    Ok(())
}

/// `false`: nobody reads any more.
async fn pass_on(rows: Vec<LogRow>, wanted: &Wanted, reader: &Reader) -> bool {
    for row in rows.into_iter().filter(|row| wanted.has(row)) {
        if reader.send(Ok(to_wire(row))).await.is_err() {
            return false;
        }
    }
    true
}

fn to_wire(row: LogRow) -> v1::RunLogLine {
    let line = row.line;
    let line = v1::LogLine {
        number: line.number,
        at_us: line.at_us,
        level: line.level.word().to_owned(),
        target: line.target,
        run_id: line.run.map(|run| run.to_string()).unwrap_or_default(),
        text: line.text,
        fields: line.fields,
        dropped: line.dropped,
    };
    v1::RunLogLine { agent_id: row.agent_id, line: Some(line) }
}
