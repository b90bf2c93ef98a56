-- How often a machine was told to report: it cannot be silent before its next heartbeat is due.

-- +goose Up

ALTER TABLE instances ADD COLUMN pace_seconds bigint NOT NULL DEFAULT 0;
