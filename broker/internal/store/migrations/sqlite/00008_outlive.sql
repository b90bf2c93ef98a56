-- What outlives the broker: keys of imported volumes with another cipher, exports that several people agree to, the key that
-- recovery envelopes are sealed to, and what machines did without the broker.

-- +goose Up

-- Empty means AES-XTS, which every volume had.
ALTER TABLE device_keys ADD COLUMN cipher text NOT NULL DEFAULT '';

-- How many other Security Administrators must agree to an export.
ALTER TABLE accounts ADD COLUMN export_approvals bigint NOT NULL DEFAULT 0 CHECK (export_approvals BETWEEN 0 AND 9);

CREATE TABLE export_requests (
    id         text NOT NULL PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts (id),
    number     bigint NOT NULL CHECK (number >= 1),
    user_id    text NOT NULL,
    user_name  text NOT NULL,
    device_ids text,
    reason     text NOT NULL,
    status     text NOT NULL CHECK (status IN ('pending', 'approved', 'denied', 'exported', 'withdrawn', 'expired')),
    needed     bigint NOT NULL CHECK (needed >= 1),
    expires_at datetime NOT NULL,
    ended_at   datetime,
    created_at datetime NOT NULL,
    updated_at datetime NOT NULL,
    version    bigint NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, number)
);
CREATE INDEX export_requests_status ON export_requests (account_id, status, expires_at);

-- A person has one voice in a request, whatever they are called.
CREATE TABLE export_votes (
    id         text NOT NULL PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts (id),
    request_id text NOT NULL,
    user_id    text NOT NULL,
    user_name  text NOT NULL,
    agrees     boolean NOT NULL,
    reason     text NOT NULL,
    created_at datetime NOT NULL,
    updated_at datetime NOT NULL,
    version    bigint NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, request_id, user_id),
    FOREIGN KEY (account_id, request_id) REFERENCES export_requests (account_id, id) ON DELETE CASCADE
);

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
