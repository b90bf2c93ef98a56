-- Who decides, and on what: approvals by several people, second factors, resource pools, copies of machines.

-- +goose Up

-- Whether people of the account need a second factor, and whether approvals and exports ask for a fresh one.
ALTER TABLE accounts ADD COLUMN second_factor text NOT NULL DEFAULT 'optional' CHECK (second_factor IN ('', 'optional', 'required'));
ALTER TABLE accounts ADD COLUMN step_up boolean NOT NULL DEFAULT false;

-- The secret is wrapped by the account's key. It counts from the time in factor_since; factor_step is the newest time
-- step whose code was used.
ALTER TABLE users ADD COLUMN factor_secret blob;
ALTER TABLE users ADD COLUMN factor_since datetime;
ALTER TABLE users ADD COLUMN factor_step bigint NOT NULL DEFAULT 0;

CREATE TABLE recovery_codes (
    id         text     NOT NULL PRIMARY KEY,
    account_id text     NOT NULL REFERENCES accounts (id),
    user_id    text     NOT NULL,
    code_hash  blob     NOT NULL CHECK (length(code_hash) = 32),
    created_at datetime NOT NULL,
    updated_at datetime NOT NULL,
    version    bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, user_id, code_hash),
    FOREIGN KEY (account_id, user_id) REFERENCES users (account_id, id) ON DELETE CASCADE
);

-- A session with a stage is not logged on yet: it waits for a code, or for its user to set a second factor up.
ALTER TABLE sessions ADD COLUMN stage text NOT NULL DEFAULT '' CHECK (stage IN ('', 'code', 'enrol'));
ALTER TABLE sessions ADD COLUMN factor_at datetime;

-- Who enrolled a machine, configured a device or chose a request's policy, by user ID: names can be given anew.
ALTER TABLE enrol_tokens ADD COLUMN created_by_id text NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN enrolled_by text NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN configured_by text NOT NULL DEFAULT '';

-- The runs of a machine's agent, to notice two machines with one identity.
ALTER TABLE instances ADD COLUMN run_id text NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN boot_id text NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN generation bigint NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN run_since datetime;
ALTER TABLE instances ADD COLUMN former_runs text;
ALTER TABLE instances ADD COLUMN suspicion text NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN suspected_at datetime;

-- No approvals needed means one, no seconds a week.
ALTER TABLE policies ADD COLUMN resource_pool boolean NOT NULL DEFAULT false;
ALTER TABLE policies ADD COLUMN approvals_needed bigint NOT NULL DEFAULT 1 CHECK (approvals_needed BETWEEN 0 AND 10);
ALTER TABLE policies ADD COLUMN separate_approver boolean NOT NULL DEFAULT false;
ALTER TABLE policies ADD COLUMN request_seconds bigint NOT NULL DEFAULT 604800 CHECK (request_seconds >= 0);

-- What the policy demanded when the request was made stays with it. Where a pool gave another device than was asked for,
-- requested_device_id is the one that was asked for.
ALTER TABLE key_requests ADD COLUMN approvals_needed bigint NOT NULL DEFAULT 1 CHECK (approvals_needed >= 0);
ALTER TABLE key_requests ADD COLUMN separate_approver boolean NOT NULL DEFAULT false;
ALTER TABLE key_requests ADD COLUMN assigned_by text NOT NULL DEFAULT '';
ALTER TABLE key_requests ADD COLUMN expires_at datetime;
ALTER TABLE key_requests ADD COLUMN requested_device_id text NOT NULL DEFAULT '';
ALTER TABLE key_requests ADD COLUMN waits_for text NOT NULL DEFAULT '' CHECK (waits_for IN ('', 'pool', 'silence'));
ALTER TABLE key_requests ADD COLUMN run_id text NOT NULL DEFAULT '';
CREATE INDEX key_requests_expires ON key_requests (account_id, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX key_requests_waits ON key_requests (account_id, waits_for) WHERE waits_for <> '';

CREATE TABLE key_request_approvals (
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
    FOREIGN KEY (account_id, request_id) REFERENCES key_requests (account_id, id) ON DELETE CASCADE
);

-- Which machines list a device in their last inventory; a shared disk is in that of several.
CREATE TABLE device_sightings (
    id          text     NOT NULL PRIMARY KEY,
    account_id  text     NOT NULL REFERENCES accounts (id),
    device_id   text     NOT NULL,
    instance_id text     NOT NULL,
    created_at  datetime NOT NULL,
    updated_at  datetime NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, device_id, instance_id),
    FOREIGN KEY (account_id, device_id) REFERENCES devices (account_id, id) ON DELETE CASCADE,
    FOREIGN KEY (account_id, instance_id) REFERENCES instances (account_id, id) ON DELETE CASCADE
);
CREATE INDEX device_sightings_instance ON device_sightings (account_id, instance_id);
INSERT INTO device_sightings (id, account_id, device_id, instance_id, created_at, updated_at, version)
SELECT d.id, d.account_id, d.id, d.instance_id, d.updated_at, d.updated_at, 1 FROM devices d
JOIN instances i ON i.account_id = d.account_id AND i.id = d.instance_id WHERE d.status <> 'Undetected';
