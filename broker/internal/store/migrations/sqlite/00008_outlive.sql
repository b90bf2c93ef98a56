-- What outlives the broker: keys of imported volumes with another cipher, the key that
-- recovery envelopes are sealed to, and what machines did without the broker.

-- +goose Up

-- Empty means AES-XTS, which every volume had.
ALTER TABLE device_keys ADD COLUMN cipher text NOT NULL DEFAULT '';

-- The public half only: the private one is in the hands of its holders.
CREATE TABLE recovery_keys (
    id         text NOT NULL PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts (id),
    key_id     text NOT NULL,
    public_key blob NOT NULL,
    threshold  bigint NOT NULL CHECK (threshold >= 1),
    holders    text,
    created_by text NOT NULL,
    retired_at datetime,
    created_at datetime NOT NULL,
    updated_at datetime NOT NULL,
    version    bigint NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, key_id)
);
CREATE UNIQUE INDEX recovery_keys_current ON recovery_keys (account_id) WHERE retired_at IS NULL;

CREATE TABLE offline_records (
    id          text NOT NULL PRIMARY KEY,
    account_id  text NOT NULL REFERENCES accounts (id),
    instance_id text NOT NULL,
    record_id   text NOT NULL,
    sequence    bigint NOT NULL CHECK (sequence >= 1),
    event       text NOT NULL,
    at          datetime NOT NULL,
    payload     blob NOT NULL,
    hash        blob NOT NULL CHECK (length(hash) = 32),
    signature   blob NOT NULL,
    created_at  datetime NOT NULL,
    updated_at  datetime NOT NULL,
    version     bigint NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, instance_id, record_id)
);
CREATE INDEX offline_records_sequence ON offline_records (account_id, instance_id, sequence);
