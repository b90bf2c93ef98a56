-- The rows of a broker. The file for the other database is the same but for types and triggers; a test compares both
-- with the models. Every tenant table has (account_id, id) as a key of its own so that references carry the account:
-- a row can never point into another tenant.

-- +goose Up

CREATE TABLE accounts (
    id             text     NOT NULL PRIMARY KEY,
    name           text     NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    time_zone      text     NOT NULL,
    date_format    text     NOT NULL,
    wrapped_key    blob     NOT NULL,
    root_key_id    text     NOT NULL,
    key_generation bigint   NOT NULL,
    created_at     datetime NOT NULL,
    updated_at     datetime NOT NULL,
    version        bigint   NOT NULL CHECK (version >= 1)
);
CREATE UNIQUE INDEX accounts_name ON accounts (lower(name));

CREATE TABLE users (
    id             text     NOT NULL PRIMARY KEY,
    account_id     text     NOT NULL REFERENCES accounts (id),
    name           text     NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    display_name   text     NOT NULL,
    email          text     NOT NULL,
    role           text     NOT NULL CHECK (role IN ('account-administrator', 'security-administrator', 'data-analyst', 'auditor', 'key-approver')),
    password_hash  text     NOT NULL,
    failed_log_ons bigint   NOT NULL CHECK (failed_log_ons >= 0),
    locked_until   datetime,
    last_log_on_at datetime,
    created_at     datetime NOT NULL,
    updated_at     datetime NOT NULL,
    version        bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id)
);
CREATE UNIQUE INDEX users_name ON users (account_id, lower(name));

CREATE TABLE sessions (
    id           text     NOT NULL PRIMARY KEY,
    account_id   text     NOT NULL REFERENCES accounts (id),
    user_id      text     NOT NULL,
    token_hash   blob     NOT NULL CHECK (length(token_hash) = 32),
    address      text     NOT NULL,
    user_agent   text     NOT NULL,
    last_seen_at datetime NOT NULL,
    expires_at   datetime NOT NULL,
    created_at   datetime NOT NULL,
    updated_at   datetime NOT NULL,
    version      bigint   NOT NULL CHECK (version >= 1),
    FOREIGN KEY (account_id, user_id) REFERENCES users (account_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX sessions_token_hash ON sessions (token_hash);
CREATE INDEX sessions_user ON sessions (account_id, user_id);

CREATE TABLE enrol_tokens (
    id          text     NOT NULL PRIMARY KEY,
    account_id  text     NOT NULL REFERENCES accounts (id),
    description text     NOT NULL,
    secret_hash blob     NOT NULL CHECK (length(secret_hash) = 32),
    uses_left   bigint   NOT NULL CHECK (uses_left >= 0),
    expires_at  datetime NOT NULL,
    created_by  text     NOT NULL,
    created_at  datetime NOT NULL,
    updated_at  datetime NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1)
);
CREATE INDEX enrol_tokens_account ON enrol_tokens (account_id);

CREATE TABLE images (
    id          text     NOT NULL PRIMARY KEY,
    account_id  text     NOT NULL REFERENCES accounts (id),
    provider    text     NOT NULL,
    identity    text     NOT NULL,
    name        text     NOT NULL,
    description text     NOT NULL,
    created_at  datetime NOT NULL,
    updated_at  datetime NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, provider, identity)
);

CREATE TABLE instances (
    id               text     NOT NULL PRIMARY KEY,
    account_id       text     NOT NULL REFERENCES accounts (id),
    provider         text     NOT NULL,
    identity         text     NOT NULL,
    host_name        text     NOT NULL,
    location         text     NOT NULL,
    image_id         text     NOT NULL,
    agent_version    text     NOT NULL,
    cert_fingerprint blob     CHECK (length(cert_fingerprint) = 32),
    cert_expires_at  datetime NOT NULL,
    first_seen_at    datetime NOT NULL,
    last_seen_at     datetime,
    source_ip        text     NOT NULL,
    missing          boolean  NOT NULL,
    evidence         text,
    created_at       datetime NOT NULL,
    updated_at       datetime NOT NULL,
    version          bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, provider, identity)
);
CREATE UNIQUE INDEX instances_cert_fingerprint ON instances (cert_fingerprint) WHERE cert_fingerprint IS NOT NULL;

CREATE TABLE policies (
    id                    text     NOT NULL PRIMARY KEY,
    account_id            text     NOT NULL REFERENCES accounts (id),
    name                  text     NOT NULL CHECK (length(name) BETWEEN 1 AND 32),
    description           text     NOT NULL,
    is_default            boolean  NOT NULL,
    rules                 text,
    on_match              text     NOT NULL CHECK (on_match IN ('approve', 'manual', 'deny')),
    on_failure            text     NOT NULL CHECK (on_failure IN ('approve', 'manual', 'deny')),
    approve_after_seconds bigint   NOT NULL CHECK (approve_after_seconds >= 0),
    lease_seconds         bigint   NOT NULL CHECK (lease_seconds > 0),
    heartbeat_seconds     bigint   NOT NULL CHECK (heartbeat_seconds > 0),
    revoke_mode           text     NOT NULL CHECK (revoke_mode IN ('unmount', 'suspend')),
    created_at            datetime NOT NULL,
    updated_at            datetime NOT NULL,
    version               bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id)
);
CREATE UNIQUE INDEX policies_name ON policies (account_id, lower(name));
CREATE UNIQUE INDEX policies_default ON policies (account_id) WHERE is_default;

CREATE TABLE policy_images (
    id         text     NOT NULL PRIMARY KEY,
    account_id text     NOT NULL REFERENCES accounts (id),
    policy_id  text     NOT NULL,
    image_id   text     NOT NULL,
    created_at datetime NOT NULL,
    updated_at datetime NOT NULL,
    version    bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, policy_id, image_id),
    FOREIGN KEY (account_id, policy_id) REFERENCES policies (account_id, id) ON DELETE CASCADE,
    FOREIGN KEY (account_id, image_id) REFERENCES images (account_id, id) ON DELETE CASCADE
);

CREATE TABLE devices (
    id            text     NOT NULL PRIMARY KEY,
    account_id    text     NOT NULL REFERENCES accounts (id),
    provider      text     NOT NULL,
    identity      text     NOT NULL,
    name          text     NOT NULL,
    description   text     NOT NULL,
    information   text     NOT NULL,
    contents      text     NOT NULL,
    size          bigint   NOT NULL CHECK (size >= 0),
    status        text     NOT NULL CHECK (status IN ('Not configured', 'Configured', 'Encryption pending', 'Encrypting', 'Encryption error', 'Encrypted', 'In-use', 'Undetected')),
    former_status text     NOT NULL,
    status_detail text     NOT NULL,
    platform      text     NOT NULL,
    file_system   text     NOT NULL,
    mount_point   text     NOT NULL,
    access        text     NOT NULL CHECK (access IN ('', 'read-only', 'read-write')),
    key_bits      bigint   NOT NULL CHECK (key_bits IN (0, 128, 192, 256)),
    image_id      text     NOT NULL,
    policy_id     text     NOT NULL,
    instance_id   text     NOT NULL,
    raid_set_id   text     NOT NULL,
    volume        text,
    created_at    datetime NOT NULL,
    updated_at    datetime NOT NULL,
    version       bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, provider, identity)
);
CREATE INDEX devices_policy ON devices (account_id, policy_id);
CREATE INDEX devices_instance ON devices (account_id, instance_id);

-- A device with a key cannot be deleted: the key is destroyed first, by its own step.
CREATE TABLE device_keys (
    id         text     NOT NULL PRIMARY KEY,
    account_id text     NOT NULL REFERENCES accounts (id),
    device_id  text     NOT NULL,
    bits       bigint   NOT NULL CHECK (bits IN (128, 192, 256)),
    generation bigint   NOT NULL CHECK (generation >= 1),
    wrapped    blob     NOT NULL,
    created_at datetime NOT NULL,
    updated_at datetime NOT NULL,
    version    bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, device_id, generation),
    FOREIGN KEY (account_id, device_id) REFERENCES devices (account_id, id)
);

CREATE TABLE raid_sets (
    id            text     NOT NULL PRIMARY KEY,
    account_id    text     NOT NULL REFERENCES accounts (id),
    name          text     NOT NULL,
    description   text     NOT NULL,
    status        text     NOT NULL CHECK (status IN ('Not configured', 'Configured', 'Encryption pending', 'Encrypting', 'Encryption error', 'Encrypted', 'In-use', 'Device Missing')),
    former_status text     NOT NULL,
    platform      text     NOT NULL,
    file_system   text     NOT NULL,
    mount_point   text     NOT NULL,
    key_bits      bigint   NOT NULL CHECK (key_bits IN (0, 128, 192, 256)),
    image_id      text     NOT NULL,
    policy_id     text     NOT NULL,
    created_at    datetime NOT NULL,
    updated_at    datetime NOT NULL,
    version       bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id)
);

-- Devices, instances and policies may be deleted later; what was asked and decided stays, so there is no reference.
CREATE TABLE key_requests (
    id               text     NOT NULL PRIMARY KEY,
    account_id       text     NOT NULL REFERENCES accounts (id),
    number           bigint   NOT NULL CHECK (number >= 1),
    device_id        text     NOT NULL,
    instance_id      text     NOT NULL,
    image_id         text     NOT NULL,
    policy_id        text     NOT NULL,
    status           text     NOT NULL CHECK (status IN ('Pending', 'Approved', 'Delivered', 'Denied', 'Revoke_Pending', 'Revoke_Ignored', 'Revoking', 'Revoked', 'Expired', 'Failure')),
    integrity        text     NOT NULL CHECK (integrity IN ('Good', 'Bad', 'Failed', 'Unknown_DevPolicy', 'Unknown_ImgPolicy', 'Unknown_DevImgPolicy', 'Unknown_NoRules')),
    verdict          text,
    evidence         text,
    source_ip        text     NOT NULL,
    reason           text     NOT NULL,
    nonce            text     NOT NULL,
    public_key       blob,
    decided_by       text     NOT NULL,
    decided_at       datetime,
    approve_at       datetime,
    delivered_at     datetime,
    lease_expires_at datetime,
    revoke_due_at    datetime,
    revoke_mode      text     NOT NULL CHECK (revoke_mode IN ('', 'unmount', 'suspend')),
    mounted          boolean  NOT NULL,
    ended_at         datetime,
    created_at       datetime NOT NULL,
    updated_at       datetime NOT NULL,
    version          bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, number)
);
CREATE INDEX key_requests_device ON key_requests (account_id, device_id);
CREATE INDEX key_requests_instance ON key_requests (account_id, instance_id);
CREATE INDEX key_requests_status ON key_requests (account_id, status);

CREATE TABLE key_request_events (
    id          text     NOT NULL PRIMARY KEY,
    account_id  text     NOT NULL REFERENCES accounts (id),
    request_id  text     NOT NULL,
    from_status text     NOT NULL,
    to_status   text     NOT NULL,
    event       text     NOT NULL,
    actor       text     NOT NULL,
    reason      text     NOT NULL,
    created_at  datetime NOT NULL,
    updated_at  datetime NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1),
    FOREIGN KEY (account_id, request_id) REFERENCES key_requests (account_id, id) ON DELETE CASCADE
);
CREATE INDEX key_request_events_request ON key_request_events (account_id, request_id);

CREATE TABLE jobs (
    id          text     NOT NULL PRIMARY KEY,
    account_id  text     NOT NULL REFERENCES accounts (id),
    kind        text     NOT NULL CHECK (kind IN ('encrypt')),
    device_id   text     NOT NULL,
    instance_id text     NOT NULL,
    status      text     NOT NULL CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    destroy     boolean  NOT NULL,
    phase       text     NOT NULL,
    percent     bigint   NOT NULL CHECK (percent BETWEEN 0 AND 100),
    error       text     NOT NULL,
    expires_at  datetime NOT NULL,
    ended_at    datetime,
    created_at  datetime NOT NULL,
    updated_at  datetime NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1)
);
CREATE INDEX jobs_instance ON jobs (account_id, instance_id, status);
-- Two encryptions of one device at a time would destroy each other's work.
CREATE UNIQUE INDEX jobs_one_per_device ON jobs (account_id, device_id) WHERE status IN ('queued', 'running');

CREATE TABLE nonces (
    id          text     NOT NULL PRIMARY KEY,
    account_id  text     NOT NULL REFERENCES accounts (id),
    instance_id text     NOT NULL,
    value       text     NOT NULL,
    expires_at  datetime NOT NULL,
    created_at  datetime NOT NULL,
    updated_at  datetime NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1),
    FOREIGN KEY (account_id, instance_id) REFERENCES instances (account_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX nonces_value ON nonces (value);
CREATE INDEX nonces_expires_at ON nonces (account_id, expires_at);

CREATE TABLE idempotency_records (
    id           text     NOT NULL PRIMARY KEY,
    account_id   text     NOT NULL REFERENCES accounts (id),
    scope        text     NOT NULL,
    "key"        text     NOT NULL,
    request_hash blob     NOT NULL,
    status       bigint   NOT NULL,
    content_type text     NOT NULL,
    body         blob,
    expires_at   datetime NOT NULL,
    created_at   datetime NOT NULL,
    updated_at   datetime NOT NULL,
    version      bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, scope, "key")
);
CREATE INDEX idempotency_records_expires_at ON idempotency_records (account_id, expires_at);

CREATE TABLE audit_records (
    account_id text     NOT NULL REFERENCES accounts (id),
    sequence   bigint   NOT NULL CHECK (sequence >= 1),
    at         datetime NOT NULL,
    category   text     NOT NULL CHECK (category IN ('agent', 'key', 'policy', 'user', 'server')),
    event      text     NOT NULL CHECK (length(event) >= 1),
    actor      text     NOT NULL,
    subject    text     NOT NULL,
    detail     text,
    previous   blob     NOT NULL,
    hash       blob     NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (account_id, sequence)
);
CREATE INDEX audit_records_at ON audit_records (account_id, at);

CREATE TABLE audit_checkpoints (
    account_id text     NOT NULL,
    sequence   bigint   NOT NULL,
    at         datetime NOT NULL,
    hash       blob     NOT NULL CHECK (length(hash) = 32),
    key_id     text     NOT NULL,
    signature  blob     NOT NULL,
    PRIMARY KEY (account_id, sequence),
    FOREIGN KEY (account_id, sequence) REFERENCES audit_records (account_id, sequence)
);

-- +goose StatementBegin
CREATE TRIGGER audit_records_in_order BEFORE INSERT ON audit_records
WHEN NEW.sequence <> (SELECT COALESCE(MAX(sequence), 0) + 1 FROM audit_records WHERE account_id = NEW.account_id)
BEGIN
    SELECT RAISE(ABORT, 'audit records are written in order, without gaps');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_records_no_update BEFORE UPDATE ON audit_records
BEGIN
    SELECT RAISE(ABORT, 'audit records are append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_records_no_delete BEFORE DELETE ON audit_records
BEGIN
    SELECT RAISE(ABORT, 'audit records are append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoints_no_update BEFORE UPDATE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'audit checkpoints are append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoints_no_delete BEFORE DELETE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'audit checkpoints are append-only');
END;
-- +goose StatementEnd
