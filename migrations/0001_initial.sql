-- One text for Postgres and SQLite: TEXT, BIGINT, BYTEA, DOUBLE PRECISION and CHECK only.
-- Times are microseconds of UTC; the words in the CHECKs are those of the domain.

-- What an older release must know before it touches a database that a newer one has migrated.
CREATE TABLE schema_compat (
    version        BIGINT NOT NULL PRIMARY KEY,
    oldest_release TEXT   NOT NULL
);
INSERT INTO schema_compat (version, oldest_release) VALUES (1, '0.1.0');

CREATE TABLE agents (
    agent_id      TEXT   NOT NULL PRIMARY KEY,
    incarnation   BIGINT NOT NULL,
    build         TEXT   NOT NULL,
    labels_json   TEXT   NOT NULL,
    capacity_json TEXT   NOT NULL,
    first_seen_us BIGINT NOT NULL,
    last_seen_us  BIGINT NOT NULL
);

CREATE TABLE runs (
    run_id           TEXT   NOT NULL PRIMARY KEY,
    name             TEXT   NOT NULL UNIQUE,
    scenario_name    TEXT   NOT NULL,
    scenario_text    TEXT   NOT NULL,
    scenario_sha256  TEXT   NOT NULL,
    vars_json        TEXT   NOT NULL,
    -- Decimal text: a seed is any 64-bit number, a BIGINT has a sign.
    seed             TEXT   NOT NULL,
    planned_devices  BIGINT NOT NULL CHECK (planned_devices >= 0),
    created_at_us    BIGINT NOT NULL,
    -- The control plane that drives the run; epochs rise with each claim and fence older owners.
    owner            TEXT   NOT NULL,
    owner_epoch      BIGINT NOT NULL CHECK (owner_epoch >= 1),
    owner_seen_us    BIGINT NOT NULL,
    owner_token_hash TEXT,
    version          BIGINT NOT NULL CHECK (version >= 1),
    -- Also the number of the next event.
    n_events         BIGINT NOT NULL CHECK (n_events >= 0),
    phase            TEXT   NOT NULL CHECK (phase IN (
        'PENDING', 'PREPARING', 'ARMED', 'RUNNING', 'STOPPING', 'COLLECTING',
        'FINISHED', 'FAILED_TO_START', 'ABORTED', 'INTERRUPTED')),
    state_json       TEXT   NOT NULL,
    validity         TEXT   CHECK (validity IN ('VALID', 'DEGRADED', 'INVALID')),
    verdict          TEXT   CHECK (verdict IN ('PASSED', 'FAILED')),
    exit_code        BIGINT CHECK (exit_code BETWEEN 0 AND 4),
    cause            TEXT,
    t0_us            BIGINT,
    ended_at_us      BIGINT,
    -- A run has an end exactly when it is over; `ended_at_us IS NULL` is how statements ask.
    CHECK ((phase IN ('FINISHED', 'FAILED_TO_START', 'ABORTED', 'INTERRUPTED'))
        = (ended_at_us IS NOT NULL)),
    CHECK (phase <> 'RUNNING' OR t0_us IS NOT NULL)
);
CREATE INDEX runs_by_end ON runs (ended_at_us);

CREATE TABLE events (
    run_id TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    n      BIGINT NOT NULL,
    at_us  BIGINT NOT NULL,
    kind   TEXT   NOT NULL,
    text   TEXT   NOT NULL,
    PRIMARY KEY (run_id, n)
);

CREATE TABLE series (
    run_id     TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    series     BIGINT NOT NULL,
    operation  TEXT   NOT NULL,
    group_name TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    PRIMARY KEY (run_id, series)
);

CREATE TABLE assignments (
    assignment_id  TEXT   NOT NULL,
    epoch          BIGINT NOT NULL,
    run_id         TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    agent_id       TEXT   NOT NULL,
    blocks         BYTEA  NOT NULL,
    n_devices      BIGINT NOT NULL CHECK (n_devices >= 0),
    incarnation    BIGINT NOT NULL,
    -- Every delta up to here is in windows and summaries, and only there.
    folded_through BIGINT NOT NULL CHECK (folded_through >= -1),
    max_seq        BIGINT NOT NULL CHECK (max_seq >= folded_through),
    -- 0 while deltas are taken, 1 once the run takes no more.
    intake_over    BIGINT NOT NULL CHECK (intake_over IN (0, 1)),
    closed_at_us   BIGINT,
    last_seq       BIGINT CHECK (last_seq >= -1),
    totals         BYTEA,
    PRIMARY KEY (assignment_id, epoch),
    CHECK ((closed_at_us IS NULL) = (totals IS NULL)),
    CHECK ((closed_at_us IS NULL) = (last_seq IS NULL))
);
CREATE INDEX assignments_by_run ON assignments (run_id);

-- The agents' write-ahead log: a row lives from its ingest until the fold that takes it in.
CREATE TABLE deltas (
    assignment_id  TEXT   NOT NULL,
    epoch          BIGINT NOT NULL,
    seq            BIGINT NOT NULL CHECK (seq >= 0),
    first_window   BIGINT NOT NULL,
    last_window    BIGINT NOT NULL,
    received_at_us BIGINT NOT NULL,
    body           BYTEA  NOT NULL,
    PRIMARY KEY (assignment_id, epoch, seq),
    FOREIGN KEY (assignment_id, epoch)
        REFERENCES assignments (assignment_id, epoch) ON DELETE CASCADE,
    CHECK (first_window <= last_window)
);

-- Keyed by window before series: readers ask for a span of time with all its series.
-- Series -1 holds what belongs to no series.
CREATE TABLE windows (
    run_id       TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    window_index BIGINT NOT NULL,
    series       BIGINT NOT NULL CHECK (series >= -1),
    region       TEXT   NOT NULL,
    sent         BIGINT NOT NULL CHECK (sent >= 0),
    acked        BIGINT NOT NULL CHECK (acked >= 0),
    errors       BIGINT NOT NULL CHECK (errors >= 0),
    body         BYTEA  NOT NULL,
    PRIMARY KEY (run_id, window_index, series, region)
);

-- Series -1 with stage -1 holds what belongs to no cell: health, failures, gauges.
CREATE TABLE summaries (
    run_id        TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    series        BIGINT NOT NULL CHECK (series >= -1),
    stage         BIGINT NOT NULL CHECK (stage >= -1),
    assignment_id TEXT   NOT NULL,
    epoch         BIGINT NOT NULL,
    body          BYTEA  NOT NULL,
    PRIMARY KEY (run_id, series, stage, assignment_id, epoch)
);

CREATE TABLE thresholds (
    run_id         TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    position       BIGINT NOT NULL CHECK (position >= 0),
    text           TEXT   NOT NULL,
    -- NULL: the metric had no data.
    value          DOUBLE PRECISION,
    limit_value    DOUBLE PRECISION NOT NULL,
    result         TEXT   NOT NULL,
    breached_at_us BIGINT,
    PRIMARY KEY (run_id, position)
);
