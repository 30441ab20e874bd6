-- The time of the control plane that is in charge, so that who follows it on the same boot of the same machine goes
-- on with it whatever the wall clock was set to meanwhile.
INSERT INTO schema_compat (version, oldest_release) VALUES (13, '0.1.0');

ALTER TABLE leader ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE leader ADD COLUMN unix_minus_boot_us BIGINT NOT NULL DEFAULT 0;
