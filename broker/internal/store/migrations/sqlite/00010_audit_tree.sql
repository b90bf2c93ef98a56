-- The Merkle tree over each audit log: the roots that checkpoints sign, and the nodes that save reading the whole log for
-- a proof. Nodes follow from the records; only those of complete subtrees of 256 records and more are kept.

-- +goose Up

-- Lists of devices are read in pages.
CREATE INDEX devices_by_name ON devices (account_id, lower(name), id);

ALTER TABLE audit_checkpoints ADD COLUMN root blob CHECK (root IS NULL OR length(root) IN (0, 32));

CREATE TABLE audit_nodes (
    account_id text   NOT NULL REFERENCES accounts (id),
    level      bigint NOT NULL CHECK (level BETWEEN 8 AND 62),
    position   bigint NOT NULL CHECK (position >= 0),
    hash       blob   NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (account_id, level, position)
);

-- +goose StatementBegin
CREATE TRIGGER audit_nodes_no_update BEFORE UPDATE ON audit_nodes
BEGIN
    SELECT RAISE(ABORT, 'audit nodes are append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_nodes_no_delete BEFORE DELETE ON audit_nodes
BEGIN
    SELECT RAISE(ABORT, 'audit nodes are append-only');
END;
-- +goose StatementEnd
