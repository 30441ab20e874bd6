-- Agents that an operator asked to take no devices any more, until that is undone.
INSERT INTO schema_compat (version, oldest_release) VALUES (7, '0.1.0');

CREATE TABLE drained_agents (
    agent_id TEXT   NOT NULL PRIMARY KEY,
    since_us BIGINT NOT NULL
);
