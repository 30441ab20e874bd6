//! Lines of logs, per run: once each, the newest of every agent, gone with their run.
//!
//! A line is known by its agent, the agent's process and its number there, so one that is sent again
//! is there once. Invariant: whatever is dropped to stay within [`MOST_KEPT`] is counted on the oldest
//! line that is kept.

use std::collections::BTreeMap;

use shoal_domain::ids::RunId;
use shoal_domain::logs::{Level, LogLine, MOST_KEPT};
use sqlx::FromRow;

use super::error::unavailable;
use super::run_row::parse_run_id;
use super::{Store, StoreError, Tx, in_tx, on_db};

/// A line that somebody said about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLogLine {
    pub run_id: RunId,
    /// Empty: the control plane.
    pub agent_id: String,
    pub process: String,
    /// Its own `run` is not looked at.
    pub line: LogLine,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// In the order in which lines were stored.
    pub stored_n: i64,
    pub agent_id: String,
    pub line: LogLine,
}

/// Where a reader goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogsAfter {
    /// In order of time, after this one, of those that were stored up to `through`.
    Time { at_us: i64, stored_n: i64, through: i64 },
    /// In the order of storing, after this one.
    Stored(i64),
}

#[derive(FromRow)]
struct RawLine {
    run_id: String,
    stored_n: i64,
    agent_id: String,
    number: i64,
    at_us: i64,
    level: String,
    target: String,
    text: String,
    fields_json: String,
    dropped: i64,
}

impl Store {
    /// Keeps lines, in one transaction. Those of runs that are not there (any more) are left out.
    pub async fn add_logs(&self, lines: &[NewLogLine]) -> Result<(), StoreError> {
        const DOING: &str = "keep lines of logs";
        let mut runs: BTreeMap<RunId, Vec<&NewLogLine>> = BTreeMap::new();
        for line in lines {
            runs.entry(line.run_id).or_default().push(line);
        }
        let mut tx = self.begin(DOING).await?;
        for (run_id, lines) in runs {
            let mut next = next_of(&mut tx, run_id).await?;
            for line in &lines {
                insert(&mut tx, next, line).await?;
                next += 1;
            }
            let mut agents: Vec<&str> = lines.iter().map(|line| line.agent_id.as_str()).collect();
            agents.sort_unstable();
            agents.dedup();
            for agent in agents {
                drop_oldest(&mut tx, run_id, agent).await?;
            }
        }
        tx.commit(DOING).await
    }

    /// At most `limit` lines of a run.
    pub async fn logs(
        &self,
        run_id: RunId,
        after: LogsAfter,
        limit: i64,
    ) -> Result<Vec<LogRow>, StoreError> {
        const BY_TIME: &str = "SELECT run_id, stored_n, agent_id, number, at_us, level, target, text, \
             fields_json, dropped FROM run_logs WHERE run_id = $1 \
             AND (at_us > $2 OR (at_us = $2 AND stored_n > $3)) AND stored_n <= $4 ORDER BY at_us, stored_n LIMIT $5";
        const BY_STORING: &str = "SELECT run_id, stored_n, agent_id, number, at_us, level, target, text, \
             fields_json, dropped FROM run_logs WHERE run_id = $1 AND stored_n > $2 \
             ORDER BY stored_n LIMIT $3";
        let run = run_id.to_string();
        let rows: Vec<RawLine> = match after {
            LogsAfter::Time { at_us, stored_n, through } => {
                on_db!(self, read, |p| sqlx::query_as(BY_TIME)
                    .bind(&run)
                    .bind(at_us)
                    .bind(stored_n)
                    .bind(through)
                    .bind(limit)
                    .fetch_all(p)
                    .await)
            }
            LogsAfter::Stored(stored_n) => on_db!(self, read, |p| sqlx::query_as(BY_STORING)
                .bind(&run)
                .bind(stored_n)
                .bind(limit)
                .fetch_all(p)
                .await),
        }
        .map_err(unavailable("read the logs of a run"))?;
        rows.into_iter().map(LogRow::try_from).collect()
    }

    /// The last that was stored of a run, -1 without any.
    pub async fn newest_log(&self, run_id: RunId) -> Result<i64, StoreError> {
        const NEWEST: &str = "SELECT COALESCE(MAX(stored_n), -1) FROM run_logs WHERE run_id = $1";
        on_db!(self, read, |p| sqlx::query_scalar(NEWEST)
            .bind(run_id.to_string())
            .fetch_one(p)
            .await)
        .map_err(unavailable("read the logs of a run"))
    }

    /// Whether an agent has, or had, a part in a run.
    pub async fn has_part(&self, run_id: RunId, agent_id: &str) -> Result<bool, StoreError> {
        const PART: &str = "SELECT COUNT(*) FROM assignments WHERE run_id = $1 AND agent_id = $2";
        let n: i64 = on_db!(self, read, |p| sqlx::query_scalar(PART)
            .bind(run_id.to_string())
            .bind(agent_id)
            .fetch_one(p)
            .await)
        .map_err(unavailable("look for an agent's part in a run"))?;
        Ok(n > 0)
    }
}

async fn next_of(tx: &mut Tx, run_id: RunId) -> Result<i64, StoreError> {
    const NEXT: &str = "SELECT COALESCE(MAX(stored_n) + 1, 0) FROM run_logs WHERE run_id = $1";
    in_tx!(*tx, |c| sqlx::query_scalar(NEXT).bind(run_id.to_string()).fetch_one(c).await)
        .map_err(unavailable("number lines of logs"))
}

async fn insert(tx: &mut Tx, stored_n: i64, new: &NewLogLine) -> Result<(), StoreError> {
    // A pruned run has no lines; a line that was sent again is there.
    const INSERT: &str = "INSERT INTO run_logs (run_id, stored_n, agent_id, process, number, at_us, \
         level, target, text, fields_json, dropped) \
         SELECT r.run_id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM runs r WHERE r.run_id = $1 \
         ON CONFLICT (run_id, agent_id, process, number) DO NOTHING";
    let line = &new.line;
    in_tx!(*tx, |c| sqlx::query(INSERT)
        .bind(new.run_id.to_string())
        .bind(stored_n)
        .bind(&new.agent_id)
        .bind(&new.process)
        .bind(line.number as i64)
        .bind(line.at_us as i64)
        .bind(line.level.word())
        .bind(&line.target)
        .bind(&line.text)
        .bind(&line.fields)
        .bind(line.dropped as i64)
        .execute(c)
        .await
        .map(drop))
    .map_err(unavailable("keep a line of a log"))
}

/// Down to the newest [`MOST_KEPT`] of an agent.
async fn drop_oldest(tx: &mut Tx, run_id: RunId, agent_id: &str) -> Result<(), StoreError> {
    const OLDEST_KEPT: &str = "SELECT stored_n FROM run_logs WHERE run_id = $1 AND agent_id = $2 \
         ORDER BY stored_n DESC LIMIT 1 OFFSET $3";
    const GOES: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(dropped), 0) AS BIGINT) FROM run_logs \
         WHERE run_id = $1 AND agent_id = $2 AND stored_n < $3";
    const DROP: &str = "DELETE FROM run_logs WHERE run_id = $1 AND agent_id = $2 AND stored_n < $3";
    const COUNT: &str =
        "UPDATE run_logs SET dropped = dropped + $3 WHERE run_id = $1 AND stored_n = $2";
    const DOING: &str = "drop old lines of logs";
    let run = run_id.to_string();
    let oldest: Option<i64> = in_tx!(*tx, |c| sqlx::query_scalar(OLDEST_KEPT)
        .bind(&run)
        .bind(agent_id)
        .bind(MOST_KEPT as i64 - 1)
        .fetch_optional(c)
        .await)
    .map_err(unavailable(DOING))?;
    let Some(oldest) = oldest else { return Ok(()) };
    let (n, dropped): (i64, i64) = in_tx!(*tx, |c| sqlx::query_as(GOES)
        .bind(&run)
        .bind(agent_id)
        .bind(oldest)
        .fetch_one(c)
        .await)
    .map_err(unavailable(DOING))?;
    if n == 0 {
        return Ok(());
    }
    in_tx!(*tx, |c| sqlx::query(DROP)
        .bind(&run)
        .bind(agent_id)
        .bind(oldest)
        .execute(c)
        .await
        .map(drop))
    .map_err(unavailable(DOING))?;
    in_tx!(*tx, |c| sqlx::query(COUNT)
        .bind(&run)
        .bind(oldest)
        .bind(n + dropped)
        .execute(c)
        .await
        .map(drop))
    .map_err(unavailable(DOING))
}

impl TryFrom<RawLine> for LogRow {
    type Error = StoreError;

    fn try_from(raw: RawLine) -> Result<Self, StoreError> {
        let impossible = |column, why: &str| StoreError::Inconsistent {
            table: "run_logs",
            column,
            id: format!("{}, {}", raw.run_id, raw.stored_n),
            why: why.to_owned(),
        };
        let count = |column, n: i64| u64::try_from(n).map_err(|_| impossible(column, "below 0"));
        let (number, at_us) = (count("number", raw.number)?, count("at_us", raw.at_us)?);
        let dropped = count("dropped", raw.dropped)?;
        let level = Level::from_word(&raw.level);
        let level = level.ok_or_else(|| impossible("level", "no level"))?;
        let run = Some(parse_run_id("run_logs", &raw.run_id)?);
        let RawLine { stored_n, agent_id, target, text, fields_json: fields, .. } = raw;
        let line = LogLine { number, at_us, level, target, run, text, fields, dropped };
        Ok(Self { stored_n, agent_id, line })
    }
}
