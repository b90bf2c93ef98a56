-- Which root keys there are, which brokers can open what they wrapped, and account keys that are being replaced.

-- +goose Up

CREATE TABLE root_keys (
    id         text     NOT NULL PRIMARY KEY,
    provider   text     NOT NULL CHECK (length(provider) >= 1),
    active     boolean  NOT NULL,
    retired_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version    bigint   NOT NULL CHECK (version >= 1)
);
-- New account keys are wrapped by one root key.
CREATE UNIQUE INDEX root_keys_active ON root_keys (active) WHERE active;

-- A broker that runs says here which root keys it has, so that a rotation leaves none of them behind.
CREATE TABLE root_key_holders (
    id         text     NOT NULL PRIMARY KEY,
    host       text     NOT NULL,
    holds      text,
    seen_at    timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version    bigint   NOT NULL CHECK (version >= 1)
);

-- The account's keys of generations before, wrapped, as long as they wrap something.
ALTER TABLE accounts ADD COLUMN earlier_keys text;

-- Which generation of the account's key wraps the device's; 0 where it is not known.
ALTER TABLE device_keys ADD COLUMN account_generation bigint NOT NULL DEFAULT 0;
UPDATE device_keys SET account_generation = (SELECT key_generation FROM accounts WHERE accounts.id = device_keys.account_id);
CREATE INDEX device_keys_generation ON device_keys (account_id, account_generation);
