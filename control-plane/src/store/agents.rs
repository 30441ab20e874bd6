//! Agents as they last introduced themselves. Whether one is connected now is the fleet's to say.

use sqlx::FromRow;

use super::error::unavailable;
use super::{Store, StoreError, on_db};

/// One agent; `agent_id` is the name its owner gave it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct AgentRow {
    pub agent_id: String,
    /// How often the agent's process was started on its data directory.
    pub incarnation: i64,
    pub build: String,
    pub labels_json: String,
    pub capacity_json: String,
    pub host_json: String,
    pub first_seen_us: i64,
    pub last_seen_us: i64,
}

/// An agent that is not believed any more.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct QuarantineRow {
    pub agent_id: String,
    pub why: String,
    pub since_us: i64,
}

impl Store {
    /// Writes all but `first_seen_us`, which stays what it was at the first call.
    pub async fn upsert_agent(&self, agent: &AgentRow) -> Result<(), StoreError> {
        const UPSERT: &str = "INSERT INTO agents (agent_id, incarnation, build, labels_json, \
             capacity_json, first_seen_us, last_seen_us, host_json) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (agent_id) DO UPDATE SET incarnation = excluded.incarnation, \
             build = excluded.build, labels_json = excluded.labels_json, \
             capacity_json = excluded.capacity_json, last_seen_us = excluded.last_seen_us, \
             host_json = excluded.host_json";
        on_db!(self, write, |p| sqlx::query(UPSERT)
            .bind(&agent.agent_id)
            .bind(agent.incarnation)
            .bind(&agent.build)
            .bind(&agent.labels_json)
            .bind(&agent.capacity_json)
            .bind(agent.first_seen_us)
            .bind(agent.last_seen_us)
            .bind(&agent.host_json)
            .execute(p)
            .await
            .map(drop))
        .map_err(unavailable("keep an agent"))
    }

    /// Keeps whether an agent is to take no devices any more.
    pub async fn set_drained(
        &self,
        agent_id: &str,
        is_drained: bool,
        now_us: i64,
    ) -> Result<(), StoreError> {
        const DRAIN: &str = "INSERT INTO drained_agents (agent_id, since_us) VALUES ($1, $2) \
             ON CONFLICT (agent_id) DO NOTHING";
        const UNDO: &str = "DELETE FROM drained_agents WHERE agent_id = $1 AND since_us <= $2";
        let sql = if is_drained { DRAIN } else { UNDO };
        on_db!(self, write, |p| sqlx::query(sql)
            .bind(agent_id)
            .bind(now_us)
            .execute(p)
            .await
            .map(drop))
        .map_err(unavailable("drain an agent"))
    }

    pub async fn drained_agents(&self) -> Result<Vec<String>, StoreError> {
        const DRAINED: &str = "SELECT agent_id FROM drained_agents ORDER BY agent_id";
        on_db!(self, read, |p| sqlx::query_scalar(DRAINED).fetch_all(p).await)
            .map_err(unavailable("list the drained agents"))
    }

    /// The first reason stays.
    pub async fn keep_quarantine(&self, row: &QuarantineRow) -> Result<(), StoreError> {
        const KEEP: &str = "INSERT INTO quarantined_agents (agent_id, why, since_us) \
             VALUES ($1, $2, $3) ON CONFLICT (agent_id) DO NOTHING";
        on_db!(self, write, |p| sqlx::query(KEEP)
            .bind(&row.agent_id)
            .bind(&row.why)
            .bind(row.since_us)
            .execute(p)
            .await
            .map(drop))
        .map_err(unavailable("keep a quarantine"))
    }

    pub async fn lift_quarantine(&self, agent_id: &str) -> Result<(), StoreError> {
        const LIFT: &str = "DELETE FROM quarantined_agents WHERE agent_id = $1";
        on_db!(self, write, |p| sqlx::query(LIFT).bind(agent_id).execute(p).await.map(drop))
            .map_err(unavailable("lift a quarantine"))
    }

    pub async fn quarantined_agents(&self) -> Result<Vec<QuarantineRow>, StoreError> {
        const KEPT: &str =
            "SELECT agent_id, why, since_us FROM quarantined_agents ORDER BY agent_id";
        on_db!(self, read, |p| sqlx::query_as(KEPT).fetch_all(p).await)
            .map_err(unavailable("list the quarantined agents"))
    }

    /// All agents ever seen, by id.
    pub async fn agents(&self) -> Result<Vec<AgentRow>, StoreError> {
        const AGENTS: &str = "SELECT agent_id, incarnation, build, labels_json, capacity_json, \
             host_json, first_seen_us, last_seen_us FROM agents ORDER BY agent_id";
        on_db!(self, read, |p| sqlx::query_as(AGENTS).fetch_all(p).await)
            .map_err(unavailable("list the agents"))
    }
}
