-- The places of the members of a RAID set.

-- +goose Up

ALTER TABLE devices ADD COLUMN raid_index bigint NOT NULL DEFAULT 0;
