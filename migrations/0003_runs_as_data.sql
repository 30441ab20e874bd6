-- What people say about a run, the agents it had, and the runs that others are compared with.
INSERT INTO schema_compat (version, oldest_release) VALUES (3, '0.1.0');

ALTER TABLE runs ADD COLUMN note       TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN started_by TEXT NOT NULL DEFAULT '';
-- Of what was tested, like a git commit; empty: not told.
ALTER TABLE runs ADD COLUMN revision   TEXT NOT NULL DEFAULT '';
CREATE INDEX runs_by_scenario ON runs (scenario_name, run_id);

CREATE TABLE run_labels (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    name   TEXT NOT NULL CHECK (name <> ''),
    value  TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
);
CREATE INDEX run_labels_by_value ON run_labels (name, value, run_id);

-- The agents as they were when the run was dealt to them; `agents` says what they are now.
CREATE TABLE run_agents (
    run_id        TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    agent_id      TEXT NOT NULL,
    build         TEXT NOT NULL,
    labels_json   TEXT NOT NULL,
    capacity_json TEXT NOT NULL,
    PRIMARY KEY (run_id, agent_id)
);

-- Position 0 is the baseline of its scenario and labels, the others are its repeats. No cascade:
-- a run that others are compared with is not deleted.
CREATE TABLE baselines (
    scenario_name TEXT   NOT NULL,
    -- As JSON, in order of names; `{}`: of runs whatever their labels.
    labels        TEXT   NOT NULL,
    position      BIGINT NOT NULL CHECK (position >= 0),
    run_id        TEXT   NOT NULL REFERENCES runs (run_id),
    set_at_us     BIGINT NOT NULL,
    PRIMARY KEY (scenario_name, labels, position)
);
CREATE INDEX baselines_by_run ON baselines (run_id);
