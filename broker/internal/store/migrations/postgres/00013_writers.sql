-- Which machine may have written to a device last: another one's suspended volume is out of date then.

-- +goose Up

ALTER TABLE devices ADD COLUMN writer_id text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN writers bigint NOT NULL DEFAULT 0;
UPDATE devices SET writer_id = home_instance_id;
