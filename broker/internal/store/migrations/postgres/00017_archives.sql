-- Lists of running instances and of machines are selected and cut into pages by the database, and archived audit records
-- can be deleted: only behind a signed tombstone, which stays for ever.

-- +goose Up

DROP INDEX key_requests_device;
CREATE INDEX key_requests_pair ON key_requests (account_id, device_id, instance_id, number);
CREATE INDEX instances_by_name ON instances (account_id, host_name, id);
CREATE INDEX instances_image ON instances (account_id, image_id, host_name);

CREATE TABLE audit_tombstones (
    account_id     text COLLATE "C" NOT NULL REFERENCES accounts (id),
    last_sequence  bigint      NOT NULL,
    first_sequence bigint      NOT NULL CHECK (first_sequence BETWEEN 1 AND last_sequence),
    since          timestamptz NOT NULL,
    until          timestamptz NOT NULL,
    previous       bytea       NOT NULL CHECK (length(previous) = 32),
    hash           bytea       NOT NULL CHECK (length(hash) = 32),
    -- The hashes of the records behind the last complete block of 256, of which no node of the tree is kept.
    tail           bytea,
    at             timestamptz NOT NULL,
    actor          text COLLATE "C" NOT NULL,
    reason         text COLLATE "C" NOT NULL,
    key_id         text COLLATE "C" NOT NULL,
    signature      bytea       NOT NULL,
    PRIMARY KEY (account_id, last_sequence)
);

-- +goose StatementBegin
CREATE FUNCTION keyward_tombstone_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.first_sequence <> (SELECT COALESCE(MAX(last_sequence), 0) + 1 FROM audit_tombstones WHERE account_id = NEW.account_id) THEN
        RAISE EXCEPTION 'audit records are deleted from the oldest on, without gaps';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION keyward_buried() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM audit_tombstones WHERE account_id = OLD.account_id AND last_sequence >= OLD.sequence) THEN
        RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
    END IF;
    RETURN OLD;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION keyward_audit_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.sequence <> COALESCE((SELECT MAX(sequence) FROM audit_records WHERE account_id = NEW.account_id),
        (SELECT MAX(last_sequence) FROM audit_tombstones WHERE account_id = NEW.account_id), 0) + 1 THEN
        RAISE EXCEPTION 'audit records are written in order, without gaps';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

CREATE TRIGGER audit_tombstones_in_order BEFORE INSERT ON audit_tombstones
    FOR EACH ROW EXECUTE FUNCTION keyward_tombstone_in_order();
CREATE TRIGGER audit_tombstones_append_only BEFORE UPDATE OR DELETE ON audit_tombstones
    FOR EACH ROW EXECUTE FUNCTION keyward_append_only();
CREATE TRIGGER audit_tombstones_no_truncate BEFORE TRUNCATE ON audit_tombstones
    FOR EACH STATEMENT EXECUTE FUNCTION keyward_append_only();
DROP TRIGGER audit_records_append_only ON audit_records;
CREATE TRIGGER audit_records_no_update BEFORE UPDATE ON audit_records
    FOR EACH ROW EXECUTE FUNCTION keyward_append_only();
CREATE TRIGGER audit_records_no_delete BEFORE DELETE ON audit_records
    FOR EACH ROW EXECUTE FUNCTION keyward_buried();
DROP TRIGGER audit_checkpoints_append_only ON audit_checkpoints;
CREATE TRIGGER audit_checkpoints_no_update BEFORE UPDATE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION keyward_append_only();
CREATE TRIGGER audit_checkpoints_no_delete BEFORE DELETE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION keyward_buried();
