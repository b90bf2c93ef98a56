-- Machines that fell silent are looked for every second.

-- +goose Up
CREATE INDEX instances_silence ON instances (account_id, missing, last_seen_at);
