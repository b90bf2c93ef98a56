-- The connection of an account to its Deep Security Manager.

-- +goose Up

CREATE TABLE deep_security_settings (
    id              text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id      text COLLATE "C" NOT NULL UNIQUE REFERENCES accounts (id),
    enabled         boolean  NOT NULL,
    server          text COLLATE "C" NOT NULL,
    port            bigint   NOT NULL CHECK (port BETWEEN 1 AND 65535),
    authority       text COLLATE "C" NOT NULL,
    wrapped_api_key bytea,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    version         bigint   NOT NULL CHECK (version >= 1)
);
