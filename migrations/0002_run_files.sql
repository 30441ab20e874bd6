-- The files that a run was accepted with.
INSERT INTO schema_compat (version, oldest_release) VALUES (2, '0.1.0');

CREATE TABLE run_files (
    run_id TEXT  NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    -- Relative to the scenario.
    path   TEXT  NOT NULL,
    sha256 TEXT  NOT NULL,
    body   BYTEA NOT NULL,
    PRIMARY KEY (run_id, path)
);
