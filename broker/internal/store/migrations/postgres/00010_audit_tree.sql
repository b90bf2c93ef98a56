-- The Merkle tree over each audit log: the roots that checkpoints sign, and the nodes that save reading the whole log for
-- a proof. Nodes follow from the records; only those of complete subtrees of 256 records and more are kept.

-- +goose Up

-- Lists of devices are read in pages.
CREATE INDEX devices_by_name ON devices (account_id, lower(name), id);

ALTER TABLE audit_checkpoints ADD COLUMN root bytea CHECK (root IS NULL OR length(root) IN (0, 32));

CREATE TABLE audit_nodes (
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id),
    level      bigint NOT NULL CHECK (level BETWEEN 8 AND 62),
    position   bigint NOT NULL CHECK (position >= 0),
    hash       bytea  NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (account_id, level, position)
);

CREATE TRIGGER audit_nodes_append_only BEFORE UPDATE OR DELETE ON audit_nodes
    FOR EACH ROW EXECUTE FUNCTION keyward_append_only();
CREATE TRIGGER audit_nodes_no_truncate BEFORE TRUNCATE ON audit_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION keyward_append_only();
