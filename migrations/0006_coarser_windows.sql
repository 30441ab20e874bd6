-- Windows of old runs become coarser, so what thresholds saw in the fine ones is kept.
INSERT INTO schema_compat (version, oldest_release) VALUES (6, '0.1.0');

-- How long each window of the run is.
ALTER TABLE runs ADD COLUMN window_s BIGINT NOT NULL DEFAULT 1;
-- The threshold as the document shows it; empty: made from the windows at every look.
ALTER TABLE thresholds ADD COLUMN report_json TEXT NOT NULL DEFAULT '';
