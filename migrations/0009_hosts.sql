-- What an agent runs on, as it said at its last hello, and as a run had it. `{}`: it never said.
INSERT INTO schema_compat (version, oldest_release) VALUES (9, '0.1.0');

ALTER TABLE agents ADD COLUMN host_json TEXT NOT NULL DEFAULT '{}';
ALTER TABLE run_agents ADD COLUMN host_json TEXT NOT NULL DEFAULT '{}';
