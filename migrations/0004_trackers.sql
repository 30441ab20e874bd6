-- Which messages of an observed series were sent, acknowledged and received, by block of devices.
INSERT INTO schema_compat (version, oldest_release) VALUES (4, '0.1.0');

CREATE TABLE trackers (
    run_id   TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    observer BIGINT NOT NULL CHECK (observer >= 0),
    block    BIGINT NOT NULL CHECK (block >= 0),
    body     BYTEA  NOT NULL,
    PRIMARY KEY (run_id, observer, block)
);
