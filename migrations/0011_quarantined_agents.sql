-- Agents that reported what cannot be, until an operator undoes it.
INSERT INTO schema_compat (version, oldest_release) VALUES (11, '0.1.0');

CREATE TABLE quarantined_agents (
    agent_id TEXT   NOT NULL PRIMARY KEY,
    why      TEXT   NOT NULL,
    since_us BIGINT NOT NULL
);
