-- The connection of an account to its Deep Security Manager.

-- +goose Up

CREATE TABLE deep_security_settings (
    id              text     NOT NULL PRIMARY KEY,
    account_id      text     NOT NULL UNIQUE REFERENCES accounts (id),
    enabled         boolean  NOT NULL,
    server          text     NOT NULL,
    port            bigint   NOT NULL CHECK (port BETWEEN 1 AND 65535),
    authority       text     NOT NULL,
    wrapped_api_key blob,
    created_at      datetime NOT NULL,
    updated_at      datetime NOT NULL,
    version         bigint   NOT NULL CHECK (version >= 1)
);
