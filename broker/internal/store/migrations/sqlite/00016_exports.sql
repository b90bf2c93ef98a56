-- Exports that several people agree on, new volume keys that wait for their data, and which machine has which recovery envelope.

-- +goose Up

-- How many Security Administrators must agree to an export, the one who asks among them; 0 means one.
ALTER TABLE accounts ADD COLUMN export_people bigint NOT NULL DEFAULT 1 CHECK (export_people BETWEEN 0 AND 10);

-- Of kind 'devices' the devices are named with the generation of their keys; of kind 'recovery-key' public_key is the file.
CREATE TABLE key_exports (
    id            text     NOT NULL PRIMARY KEY,
    account_id    text     NOT NULL REFERENCES accounts (id),
    kind          text     NOT NULL CHECK (kind IN ('devices', 'recovery-key')),
    status        text     NOT NULL CHECK (status IN ('Waiting', 'Approved', 'Fetched', 'Denied', 'Cancelled', 'Expired')),
    asked_by      text     NOT NULL,
    asked_by_id   text     NOT NULL CHECK (asked_by_id <> ''),
    reason        text     NOT NULL,
    devices       text,
    public_key    text     NOT NULL,
    people_needed bigint   NOT NULL CHECK (people_needed >= 1),
    expires_at    datetime NOT NULL,
    ended_by      text     NOT NULL,
    end_reason    text     NOT NULL,
    ended_at      datetime,
    created_at    datetime NOT NULL,
    updated_at    datetime NOT NULL,
    version       bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id)
);
CREATE INDEX key_exports_open ON key_exports (account_id, expires_at) WHERE ended_at IS NULL;

CREATE TABLE key_export_approvals (
    id         text     NOT NULL PRIMARY KEY,
    account_id text     NOT NULL REFERENCES accounts (id),
    request_id text     NOT NULL,
    user_id    text     NOT NULL,
    user_name  text     NOT NULL,
    reason     text     NOT NULL,
    expires_at datetime NOT NULL,
    created_at datetime NOT NULL,
    updated_at datetime NOT NULL,
    version    bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, request_id, user_id),
    FOREIGN KEY (account_id, request_id) REFERENCES key_exports (account_id, id) ON DELETE CASCADE
);

-- A pending key stands beside the one that the volume has until its data was written anew; a device has one at most.
ALTER TABLE device_keys ADD COLUMN pending boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX device_keys_pending ON device_keys (account_id, device_id) WHERE pending;

-- Jobs were all of one kind. generation is that of the pending key; waits is why a machine has not begun, by its word, and
-- waits_agent the version of the agent that said so.
ALTER TABLE jobs DROP COLUMN kind;
ALTER TABLE jobs ADD COLUMN kind text NOT NULL DEFAULT 'encrypt' CHECK (kind IN ('encrypt', 'rotate-key'));
ALTER TABLE jobs ADD COLUMN generation bigint NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN asked_by text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN reason text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN waits text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN waits_agent text NOT NULL DEFAULT '';

-- The envelope that a machine was given last; confirmed_at is when it said that it has it.
CREATE TABLE recovery_envelopes (
    id           text     NOT NULL PRIMARY KEY,
    account_id   text     NOT NULL REFERENCES accounts (id),
    instance_id  text     NOT NULL,
    key_id       text     NOT NULL,
    revision     text     NOT NULL,
    issued_at    datetime NOT NULL,
    confirmed_at datetime,
    created_at   datetime NOT NULL,
    updated_at   datetime NOT NULL,
    version      bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, instance_id),
    FOREIGN KEY (account_id, instance_id) REFERENCES instances (account_id, id) ON DELETE CASCADE
);
