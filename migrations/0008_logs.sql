-- What agents and control planes said about a run: it is read when the process that said it is gone.
INSERT INTO schema_compat (version, oldest_release) VALUES (8, '0.1.0');

CREATE TABLE run_logs (
    run_id      TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    -- In the order in which lines were stored, with holes; whoever follows reads on from here.
    stored_n    BIGINT NOT NULL,
    -- Empty: the control plane.
    agent_id    TEXT   NOT NULL,
    -- The process of the agent, and the number that the line has there: a line that is sent again is
    -- the same one.
    process     TEXT   NOT NULL,
    number      BIGINT NOT NULL CHECK (number >= 0),
    at_us       BIGINT NOT NULL,
    level       TEXT   NOT NULL CHECK (level IN ('TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR')),
    target      TEXT   NOT NULL,
    text        TEXT   NOT NULL,
    fields_json TEXT   NOT NULL,
    -- Lines that were lost or not kept right before this one.
    dropped     BIGINT NOT NULL CHECK (dropped >= 0),
    PRIMARY KEY (run_id, stored_n)
);
CREATE UNIQUE INDEX run_logs_once ON run_logs (run_id, agent_id, process, number);
CREATE INDEX run_logs_by_time ON run_logs (run_id, at_us, stored_n);
CREATE INDEX run_logs_by_agent ON run_logs (run_id, agent_id, stored_n);
