-- What outlives the broker: keys of imported volumes with another cipher, the key that
-- recovery envelopes are sealed to, and what machines did without the broker.

-- +goose Up

-- Empty means AES-XTS, which every volume had.
ALTER TABLE device_keys ADD COLUMN cipher text COLLATE "C" NOT NULL DEFAULT '';

-- The public half only: the private one is in the hands of its holders.
CREATE TABLE recovery_keys (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id),
    key_id     text COLLATE "C" NOT NULL,
    public_key bytea NOT NULL,
    threshold  bigint NOT NULL CHECK (threshold >= 1),
    holders    text COLLATE "C",
    created_by text COLLATE "C" NOT NULL,
    retired_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version    bigint NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, key_id)
);
CREATE UNIQUE INDEX recovery_keys_current ON recovery_keys (account_id) WHERE retired_at IS NULL;

CREATE TABLE offline_records (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id  text COLLATE "C" NOT NULL REFERENCES accounts (id),
    instance_id text COLLATE "C" NOT NULL,
    record_id   text COLLATE "C" NOT NULL,
    sequence    bigint NOT NULL CHECK (sequence >= 1),
    event       text COLLATE "C" NOT NULL,
    at          timestamptz NOT NULL,
    payload     bytea NOT NULL,
    hash        bytea NOT NULL CHECK (length(hash) = 32),
    signature   bytea NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    version     bigint NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, instance_id, record_id)
);
CREATE INDEX offline_records_sequence ON offline_records (account_id, instance_id, sequence);
