-- Exports that several people agree on, new volume keys that wait for their data, and which machine has which recovery envelope.

-- +goose Up

-- How many Security Administrators must agree to an export, the one who asks among them; 0 means one.
ALTER TABLE accounts ADD COLUMN export_people bigint NOT NULL DEFAULT 1 CHECK (export_people BETWEEN 0 AND 10);

-- Of kind 'devices' the devices are named with the generation of their keys; of kind 'recovery-key' public_key is the file.
CREATE TABLE key_exports (
    id            text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id    text COLLATE "C" NOT NULL REFERENCES accounts (id),
    kind          text COLLATE "C" NOT NULL CHECK (kind IN ('devices', 'recovery-key')),
    status        text COLLATE "C" NOT NULL CHECK (status IN ('Waiting', 'Approved', 'Fetched', 'Denied', 'Cancelled', 'Expired')),
    asked_by      text COLLATE "C" NOT NULL,
    asked_by_id   text COLLATE "C" NOT NULL CHECK (asked_by_id <> ''),
    reason        text COLLATE "C" NOT NULL,
    devices       text COLLATE "C",
    public_key    text COLLATE "C" NOT NULL,
    people_needed bigint   NOT NULL CHECK (people_needed >= 1),
    expires_at    timestamptz NOT NULL,
    ended_by      text COLLATE "C" NOT NULL,
    end_reason    text COLLATE "C" NOT NULL,
    ended_at      timestamptz,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    version       bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id)
);
CREATE INDEX key_exports_open ON key_exports (account_id, expires_at) WHERE ended_at IS NULL;

CREATE TABLE key_export_approvals (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id),
    request_id text COLLATE "C" NOT NULL,
    user_id    text COLLATE "C" NOT NULL,
    user_name  text COLLATE "C" NOT NULL,
    reason     text COLLATE "C" NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
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
ALTER TABLE jobs ADD COLUMN kind text COLLATE "C" NOT NULL DEFAULT 'encrypt' CHECK (kind IN ('encrypt', 'rotate-key'));
ALTER TABLE jobs ADD COLUMN generation bigint NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN asked_by text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN reason text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN waits text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN waits_agent text COLLATE "C" NOT NULL DEFAULT '';

-- The envelope that a machine was given last; confirmed_at is when it said that it has it.
CREATE TABLE recovery_envelopes (
    id           text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id   text COLLATE "C" NOT NULL REFERENCES accounts (id),
    instance_id  text COLLATE "C" NOT NULL,
    key_id       text COLLATE "C" NOT NULL,
    revision     text COLLATE "C" NOT NULL,
    issued_at    timestamptz NOT NULL,
    confirmed_at timestamptz,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    version      bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, instance_id),
    FOREIGN KEY (account_id, instance_id) REFERENCES instances (account_id, id) ON DELETE CASCADE
);
