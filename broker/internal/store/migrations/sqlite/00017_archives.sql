-- Lists of running instances and of machines are selected and cut into pages by the database, and archived audit records
-- can be deleted: only behind a signed tombstone, which stays for ever.

-- +goose Up

DROP INDEX key_requests_device;
CREATE INDEX key_requests_pair ON key_requests (account_id, device_id, instance_id, number);
CREATE INDEX instances_by_name ON instances (account_id, host_name, id);
CREATE INDEX instances_image ON instances (account_id, image_id, host_name);

CREATE TABLE audit_tombstones (
    account_id     text     NOT NULL REFERENCES accounts (id),
    last_sequence  bigint   NOT NULL,
    first_sequence bigint   NOT NULL CHECK (first_sequence BETWEEN 1 AND last_sequence),
    since          datetime NOT NULL,
    until          datetime NOT NULL,
    previous       blob     NOT NULL CHECK (length(previous) = 32),
    hash           blob     NOT NULL CHECK (length(hash) = 32),
    -- The hashes of the records behind the last complete block of 256, of which no node of the tree is kept.
    tail           blob,
    at             datetime NOT NULL,
    actor          text     NOT NULL,
    reason         text     NOT NULL,
    key_id         text     NOT NULL,
    signature      blob     NOT NULL,
    PRIMARY KEY (account_id, last_sequence)
);

-- +goose StatementBegin
CREATE TRIGGER audit_tombstones_in_order BEFORE INSERT ON audit_tombstones
WHEN NEW.first_sequence <> (SELECT COALESCE(MAX(last_sequence), 0) + 1 FROM audit_tombstones WHERE account_id = NEW.account_id)
BEGIN
    SELECT RAISE(ABORT, 'audit records are deleted from the oldest on, without gaps');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_tombstones_no_update BEFORE UPDATE ON audit_tombstones
BEGIN
    SELECT RAISE(ABORT, 'audit tombstones are append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_tombstones_no_delete BEFORE DELETE ON audit_tombstones
BEGIN
    SELECT RAISE(ABORT, 'audit tombstones are append-only');
END;
-- +goose StatementEnd

DROP TRIGGER audit_records_in_order;
-- +goose StatementBegin
CREATE TRIGGER audit_records_in_order BEFORE INSERT ON audit_records
WHEN NEW.sequence <> COALESCE((SELECT MAX(sequence) FROM audit_records WHERE account_id = NEW.account_id),
    (SELECT MAX(last_sequence) FROM audit_tombstones WHERE account_id = NEW.account_id), 0) + 1
BEGIN
    SELECT RAISE(ABORT, 'audit records are written in order, without gaps');
END;
-- +goose StatementEnd
DROP TRIGGER audit_records_no_delete;
-- +goose StatementBegin
CREATE TRIGGER audit_records_no_delete BEFORE DELETE ON audit_records
WHEN NOT EXISTS (SELECT 1 FROM audit_tombstones WHERE account_id = OLD.account_id AND last_sequence >= OLD.sequence)
BEGIN
    SELECT RAISE(ABORT, 'audit records are append-only');
END;
-- +goose StatementEnd
DROP TRIGGER audit_checkpoints_no_delete;
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoints_no_delete BEFORE DELETE ON audit_checkpoints
WHEN NOT EXISTS (SELECT 1 FROM audit_tombstones WHERE account_id = OLD.account_id AND last_sequence >= OLD.sequence)
BEGIN
    SELECT RAISE(ABORT, 'audit checkpoints are append-only');
END;
-- +goose StatementEnd
