-- Single requests of runs that ask for them: what came with each delta, stored in its transaction.
INSERT INTO schema_compat (version, oldest_release) VALUES (10, '0.1.0');

CREATE TABLE request_logs (
    run_id        TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    -- The last window of its delta: logs are read second by second.
    last_window   BIGINT NOT NULL,
    assignment_id TEXT   NOT NULL,
    epoch         BIGINT NOT NULL,
    seq           BIGINT NOT NULL,
    n_rows        BIGINT NOT NULL CHECK (n_rows >= 0),
    -- Requests of the sample that found no room.
    dropped       BIGINT NOT NULL CHECK (dropped >= 0),
    body          BYTEA  NOT NULL,
    PRIMARY KEY (run_id, last_window, assignment_id, epoch, seq)
);
