-- The far end of runs that are over, over time and in plain numbers, for dashboards: what became of
-- the messages that were sent in each point, and what was read in it.
INSERT INTO schema_compat (version, oldest_release) VALUES (12, '0.1.0');

CREATE TABLE observed (
    run_id            TEXT   NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    observer          BIGINT NOT NULL CHECK (observer >= 0),
    from_s            BIGINT NOT NULL CHECK (from_s >= 0),
    step_s            BIGINT NOT NULL CHECK (step_s > 0),
    name              TEXT   NOT NULL,
    sent              BIGINT NOT NULL,
    acked             BIGINT NOT NULL,
    uniquely_received BIGINT NOT NULL,
    lost              BIGINT NOT NULL,
    undelivered       BIGINT NOT NULL,
    unconfirmed       BIGINT NOT NULL,
    lost_possible     BIGINT NOT NULL,
    received          BIGINT NOT NULL,
    duplicated        BIGINT NOT NULL,
    resent            BIGINT NOT NULL,
    out_of_order      BIGINT NOT NULL,
    late_events       BIGINT NOT NULL,
    unparsed          BIGINT NOT NULL,
    foreign_events    BIGINT NOT NULL,
    -- NULL: no sample in this point.
    end_to_end_p50_us BIGINT,
    end_to_end_p95_us BIGINT,
    end_to_end_p99_us BIGINT,
    end_to_end_max_us BIGINT,
    ingest_p50_us     BIGINT,
    ingest_p95_us     BIGINT,
    ingest_p99_us     BIGINT,
    ingest_max_us     BIGINT,
    delivery_p50_us   BIGINT,
    delivery_p95_us   BIGINT,
    delivery_p99_us   BIGINT,
    delivery_max_us   BIGINT,
    PRIMARY KEY (run_id, observer, from_s)
);
