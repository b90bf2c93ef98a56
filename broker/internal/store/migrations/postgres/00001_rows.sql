-- The rows of a broker. The file for the other database is the same but for types and triggers; a test compares both
-- with the models. Every tenant table has (account_id, id) as a key of its own so that references carry the account:
-- a row can never point into another tenant.

-- +goose Up

CREATE TABLE accounts (
    id             text COLLATE "C" NOT NULL PRIMARY KEY,
    name           text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    time_zone      text COLLATE "C" NOT NULL,
    date_format    text COLLATE "C" NOT NULL,
    wrapped_key    bytea    NOT NULL,
    root_key_id    text COLLATE "C" NOT NULL,
    key_generation bigint   NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        bigint   NOT NULL CHECK (version >= 1)
);
CREATE UNIQUE INDEX accounts_name ON accounts (lower(name));

CREATE TABLE users (
    id             text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id     text COLLATE "C" NOT NULL REFERENCES accounts (id),
    name           text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    display_name   text COLLATE "C" NOT NULL,
    email          text COLLATE "C" NOT NULL,
    role           text COLLATE "C" NOT NULL CHECK (role IN ('account-administrator', 'security-administrator', 'data-analyst', 'auditor', 'key-approver')),
    password_hash  text COLLATE "C" NOT NULL,
    failed_log_ons bigint   NOT NULL CHECK (failed_log_ons >= 0),
    locked_until   timestamptz,
    last_log_on_at timestamptz,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id)
);
CREATE UNIQUE INDEX users_name ON users (account_id, lower(name));

CREATE TABLE sessions (
    id           text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id   text COLLATE "C" NOT NULL REFERENCES accounts (id),
    user_id      text COLLATE "C" NOT NULL,
    token_hash   bytea    NOT NULL CHECK (length(token_hash) = 32),
    address      text COLLATE "C" NOT NULL,
    user_agent   text COLLATE "C" NOT NULL,
    last_seen_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    version      bigint   NOT NULL CHECK (version >= 1),
    FOREIGN KEY (account_id, user_id) REFERENCES users (account_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX sessions_token_hash ON sessions (token_hash);
CREATE INDEX sessions_user ON sessions (account_id, user_id);

CREATE TABLE enrol_tokens (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id  text COLLATE "C" NOT NULL REFERENCES accounts (id),
    description text COLLATE "C" NOT NULL,
    secret_hash bytea    NOT NULL CHECK (length(secret_hash) = 32),
    uses_left   bigint   NOT NULL CHECK (uses_left >= 0),
    expires_at  timestamptz NOT NULL,
    created_by  text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1)
);
CREATE INDEX enrol_tokens_account ON enrol_tokens (account_id);

CREATE TABLE images (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id  text COLLATE "C" NOT NULL REFERENCES accounts (id),
    provider    text COLLATE "C" NOT NULL,
    identity    text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    description text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, provider, identity)
);

CREATE TABLE instances (
    id               text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id       text COLLATE "C" NOT NULL REFERENCES accounts (id),
    provider         text COLLATE "C" NOT NULL,
    identity         text COLLATE "C" NOT NULL,
    host_name        text COLLATE "C" NOT NULL,
    location         text COLLATE "C" NOT NULL,
    image_id         text COLLATE "C" NOT NULL,
    agent_version    text COLLATE "C" NOT NULL,
    cert_fingerprint bytea    CHECK (length(cert_fingerprint) = 32),
    cert_expires_at  timestamptz NOT NULL,
    first_seen_at    timestamptz NOT NULL,
    last_seen_at     timestamptz,
    source_ip        text COLLATE "C" NOT NULL,
    missing          boolean  NOT NULL,
    evidence         text COLLATE "C",
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    version          bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, provider, identity)
);
CREATE UNIQUE INDEX instances_cert_fingerprint ON instances (cert_fingerprint) WHERE cert_fingerprint IS NOT NULL;

CREATE TABLE policies (
    id                    text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id            text COLLATE "C" NOT NULL REFERENCES accounts (id),
    name                  text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 32),
    description           text COLLATE "C" NOT NULL,
    is_default            boolean  NOT NULL,
    rules                 text COLLATE "C",
    on_match              text COLLATE "C" NOT NULL CHECK (on_match IN ('approve', 'manual', 'deny')),
    on_failure            text COLLATE "C" NOT NULL CHECK (on_failure IN ('approve', 'manual', 'deny')),
    approve_after_seconds bigint   NOT NULL CHECK (approve_after_seconds >= 0),
    lease_seconds         bigint   NOT NULL CHECK (lease_seconds > 0),
    heartbeat_seconds     bigint   NOT NULL CHECK (heartbeat_seconds > 0),
    revoke_mode           text COLLATE "C" NOT NULL CHECK (revoke_mode IN ('unmount', 'suspend')),
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,
    version               bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id)
);
CREATE UNIQUE INDEX policies_name ON policies (account_id, lower(name));
CREATE UNIQUE INDEX policies_default ON policies (account_id) WHERE is_default;

CREATE TABLE policy_images (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id),
    policy_id  text COLLATE "C" NOT NULL,
    image_id   text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version    bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, policy_id, image_id),
    FOREIGN KEY (account_id, policy_id) REFERENCES policies (account_id, id) ON DELETE CASCADE,
    FOREIGN KEY (account_id, image_id) REFERENCES images (account_id, id) ON DELETE CASCADE
);

CREATE TABLE devices (
    id            text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id    text COLLATE "C" NOT NULL REFERENCES accounts (id),
    provider      text COLLATE "C" NOT NULL,
    identity      text COLLATE "C" NOT NULL,
    name          text COLLATE "C" NOT NULL,
    description   text COLLATE "C" NOT NULL,
    information   text COLLATE "C" NOT NULL,
    contents      text COLLATE "C" NOT NULL,
    size          bigint   NOT NULL CHECK (size >= 0),
    status        text COLLATE "C" NOT NULL CHECK (status IN ('Not configured', 'Configured', 'Encryption pending', 'Encrypting', 'Encryption error', 'Encrypted', 'In-use', 'Undetected')),
    former_status text COLLATE "C" NOT NULL,
    status_detail text COLLATE "C" NOT NULL,
    platform      text COLLATE "C" NOT NULL,
    file_system   text COLLATE "C" NOT NULL,
    mount_point   text COLLATE "C" NOT NULL,
    access        text COLLATE "C" NOT NULL CHECK (access IN ('', 'read-only', 'read-write')),
    key_bits      bigint   NOT NULL CHECK (key_bits IN (0, 128, 192, 256)),
    image_id      text COLLATE "C" NOT NULL,
    policy_id     text COLLATE "C" NOT NULL,
    instance_id   text COLLATE "C" NOT NULL,
    raid_set_id   text COLLATE "C" NOT NULL,
    volume        text COLLATE "C",
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    version       bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, provider, identity)
);
CREATE INDEX devices_policy ON devices (account_id, policy_id);
CREATE INDEX devices_instance ON devices (account_id, instance_id);

-- A device with a key cannot be deleted: the key is destroyed first, by its own step.
CREATE TABLE device_keys (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id),
    device_id  text COLLATE "C" NOT NULL,
    bits       bigint   NOT NULL CHECK (bits IN (128, 192, 256)),
    generation bigint   NOT NULL CHECK (generation >= 1),
    wrapped    bytea    NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version    bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, device_id, generation),
    FOREIGN KEY (account_id, device_id) REFERENCES devices (account_id, id)
);

CREATE TABLE raid_sets (
    id            text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id    text COLLATE "C" NOT NULL REFERENCES accounts (id),
    name          text COLLATE "C" NOT NULL,
    description   text COLLATE "C" NOT NULL,
    status        text COLLATE "C" NOT NULL CHECK (status IN ('Not configured', 'Configured', 'Encryption pending', 'Encrypting', 'Encryption error', 'Encrypted', 'In-use', 'Device Missing')),
    former_status text COLLATE "C" NOT NULL,
    platform      text COLLATE "C" NOT NULL,
    file_system   text COLLATE "C" NOT NULL,
    mount_point   text COLLATE "C" NOT NULL,
    key_bits      bigint   NOT NULL CHECK (key_bits IN (0, 128, 192, 256)),
    image_id      text COLLATE "C" NOT NULL,
    policy_id     text COLLATE "C" NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    version       bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id)
);

-- Devices, instances and policies may be deleted later; what was asked and decided stays, so there is no reference.
CREATE TABLE key_requests (
    id               text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id       text COLLATE "C" NOT NULL REFERENCES accounts (id),
    number           bigint   NOT NULL CHECK (number >= 1),
    device_id        text COLLATE "C" NOT NULL,
    instance_id      text COLLATE "C" NOT NULL,
    image_id         text COLLATE "C" NOT NULL,
    policy_id        text COLLATE "C" NOT NULL,
    status           text COLLATE "C" NOT NULL CHECK (status IN ('Pending', 'Approved', 'Delivered', 'Denied', 'Revoke_Pending', 'Revoke_Ignored', 'Revoking', 'Revoked', 'Expired', 'Failure')),
    integrity        text COLLATE "C" NOT NULL CHECK (integrity IN ('Good', 'Bad', 'Failed', 'Unknown_DevPolicy', 'Unknown_ImgPolicy', 'Unknown_DevImgPolicy', 'Unknown_NoRules')),
    verdict          text COLLATE "C",
    evidence         text COLLATE "C",
    source_ip        text COLLATE "C" NOT NULL,
    reason           text COLLATE "C" NOT NULL,
    nonce            text COLLATE "C" NOT NULL,
    public_key       bytea,
    decided_by       text COLLATE "C" NOT NULL,
    decided_at       timestamptz,
    approve_at       timestamptz,
    delivered_at     timestamptz,
    lease_expires_at timestamptz,
    revoke_due_at    timestamptz,
    revoke_mode      text COLLATE "C" NOT NULL CHECK (revoke_mode IN ('', 'unmount', 'suspend')),
    mounted          boolean  NOT NULL,
    ended_at         timestamptz,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    version          bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, id),
    UNIQUE (account_id, number)
);
CREATE INDEX key_requests_device ON key_requests (account_id, device_id);
CREATE INDEX key_requests_instance ON key_requests (account_id, instance_id);
CREATE INDEX key_requests_status ON key_requests (account_id, status);

CREATE TABLE key_request_events (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id  text COLLATE "C" NOT NULL REFERENCES accounts (id),
    request_id  text COLLATE "C" NOT NULL,
    from_status text COLLATE "C" NOT NULL,
    to_status   text COLLATE "C" NOT NULL,
    event       text COLLATE "C" NOT NULL,
    actor       text COLLATE "C" NOT NULL,
    reason      text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1),
    FOREIGN KEY (account_id, request_id) REFERENCES key_requests (account_id, id) ON DELETE CASCADE
);
CREATE INDEX key_request_events_request ON key_request_events (account_id, request_id);

CREATE TABLE jobs (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id  text COLLATE "C" NOT NULL REFERENCES accounts (id),
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('encrypt')),
    device_id   text COLLATE "C" NOT NULL,
    instance_id text COLLATE "C" NOT NULL,
    status      text COLLATE "C" NOT NULL CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    destroy     boolean  NOT NULL,
    phase       text COLLATE "C" NOT NULL,
    percent     bigint   NOT NULL CHECK (percent BETWEEN 0 AND 100),
    error       text COLLATE "C" NOT NULL,
    expires_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1)
);
CREATE INDEX jobs_instance ON jobs (account_id, instance_id, status);
-- Two encryptions of one device at a time would destroy each other's work.
CREATE UNIQUE INDEX jobs_one_per_device ON jobs (account_id, device_id) WHERE status IN ('queued', 'running');

CREATE TABLE nonces (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id  text COLLATE "C" NOT NULL REFERENCES accounts (id),
    instance_id text COLLATE "C" NOT NULL,
    value       text COLLATE "C" NOT NULL,
    expires_at  timestamptz NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    version     bigint   NOT NULL CHECK (version >= 1),
    FOREIGN KEY (account_id, instance_id) REFERENCES instances (account_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX nonces_value ON nonces (value);
CREATE INDEX nonces_expires_at ON nonces (account_id, expires_at);

CREATE TABLE idempotency_records (
    id           text COLLATE "C" NOT NULL PRIMARY KEY,
    account_id   text COLLATE "C" NOT NULL REFERENCES accounts (id),
    scope        text COLLATE "C" NOT NULL,
    "key"        text COLLATE "C" NOT NULL,
    request_hash bytea    NOT NULL,
    status       bigint   NOT NULL,
    content_type text COLLATE "C" NOT NULL,
    body         bytea,
    expires_at   timestamptz NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    version      bigint   NOT NULL CHECK (version >= 1),
    UNIQUE (account_id, scope, "key")
);
CREATE INDEX idempotency_records_expires_at ON idempotency_records (account_id, expires_at);

CREATE TABLE audit_records (
    account_id text COLLATE "C" NOT NULL REFERENCES accounts (id),
    sequence   bigint   NOT NULL CHECK (sequence >= 1),
    at         timestamptz NOT NULL,
    category   text COLLATE "C" NOT NULL CHECK (category IN ('agent', 'key', 'policy', 'user', 'server')),
    event      text COLLATE "C" NOT NULL CHECK (length(event) >= 1),
    actor      text COLLATE "C" NOT NULL,
    subject    text COLLATE "C" NOT NULL,
    detail     text COLLATE "C",
    previous   bytea    NOT NULL,
    hash       bytea    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (account_id, sequence)
);
CREATE INDEX audit_records_at ON audit_records (account_id, at);

CREATE TABLE audit_checkpoints (
    account_id text COLLATE "C" NOT NULL,
    sequence   bigint   NOT NULL,
    at         timestamptz NOT NULL,
    hash       bytea    NOT NULL CHECK (length(hash) = 32),
    key_id     text COLLATE "C" NOT NULL,
    signature  bytea    NOT NULL,
    PRIMARY KEY (account_id, sequence),
    FOREIGN KEY (account_id, sequence) REFERENCES audit_records (account_id, sequence)
);

-- +goose StatementBegin
CREATE FUNCTION keyward_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION keyward_audit_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.sequence <> (SELECT COALESCE(MAX(sequence), 0) + 1 FROM audit_records WHERE account_id = NEW.account_id) THEN
        RAISE EXCEPTION 'audit records are written in order, without gaps';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER audit_records_in_order BEFORE INSERT ON audit_records
    FOR EACH ROW EXECUTE FUNCTION keyward_audit_in_order();
CREATE TRIGGER audit_records_append_only BEFORE UPDATE OR DELETE ON audit_records
    FOR EACH ROW EXECUTE FUNCTION keyward_append_only();
CREATE TRIGGER audit_records_no_truncate BEFORE TRUNCATE ON audit_records
    FOR EACH STATEMENT EXECUTE FUNCTION keyward_append_only();
CREATE TRIGGER audit_checkpoints_append_only BEFORE UPDATE OR DELETE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION keyward_append_only();
CREATE TRIGGER audit_checkpoints_no_truncate BEFORE TRUNCATE ON audit_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION keyward_append_only();
