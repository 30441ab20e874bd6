-- Runs from release 0.1.0 on. A window whose sums are not what agents counted is marked, and one row
-- says which of the control planes on this database is in charge: it counts its beats, so that nobody
-- compares clocks.
ALTER TABLE windows ADD COLUMN storage_gap BIGINT NOT NULL DEFAULT 0 CHECK (storage_gap IN (0, 1));

CREATE TABLE leader (
    id    BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    owner TEXT   NOT NULL,
    epoch BIGINT NOT NULL CHECK (epoch >= 1),
    beats BIGINT NOT NULL CHECK (beats >= 0)
);

INSERT INTO schema_compat (version, oldest_release) VALUES (5, '0.1.0');
