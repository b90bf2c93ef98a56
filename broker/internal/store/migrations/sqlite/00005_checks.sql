-- Integrity checks after delivery: the account's schedule, what policies do when one fails, when each key was judged
-- last, and what people should know of it.

-- +goose Up

ALTER TABLE accounts ADD COLUMN checks text;
ALTER TABLE accounts ADD COLUMN check_next_at datetime;
ALTER TABLE accounts ADD COLUMN check_asked_at datetime;
ALTER TABLE accounts ADD COLUMN check_nonce text NOT NULL DEFAULT '';

ALTER TABLE instances ADD COLUMN check_asked_at datetime;
ALTER TABLE instances ADD COLUMN check_nonce text NOT NULL DEFAULT '';

ALTER TABLE policies ADD COLUMN check_enabled boolean NOT NULL DEFAULT false;
ALTER TABLE policies ADD COLUMN check_every_heartbeat boolean NOT NULL DEFAULT false;
ALTER TABLE policies ADD COLUMN on_check_failure text NOT NULL DEFAULT '' CHECK (on_check_failure IN ('', 'notify', 'revoke'));
ALTER TABLE policies ADD COLUMN postpone_seconds bigint NOT NULL DEFAULT 0 CHECK (postpone_seconds >= 0);
ALTER TABLE policies ADD COLUMN missing_after_seconds bigint NOT NULL DEFAULT 0 CHECK (missing_after_seconds >= 0);

ALTER TABLE key_requests ADD COLUMN status_at datetime NOT NULL DEFAULT '1970-01-01 00:00:00+00:00';
UPDATE key_requests SET status_at = updated_at;
ALTER TABLE key_requests ADD COLUMN checked_at datetime;
UPDATE key_requests SET checked_at = created_at;
ALTER TABLE key_requests ADD COLUMN check_missed_at datetime;
ALTER TABLE key_requests ADD COLUMN retry_until datetime;
ALTER TABLE key_requests ADD COLUMN accepted text;
CREATE INDEX key_requests_retry ON key_requests (account_id, retry_until) WHERE retry_until IS NOT NULL;

CREATE TABLE notices (
    id          text NOT NULL PRIMARY KEY,
    account_id  text NOT NULL REFERENCES accounts (id),
    kind        text NOT NULL,
    request_id  text NOT NULL,
    instance_id text NOT NULL,
    device_id   text NOT NULL,
    text        text NOT NULL,
    seen_by     text NOT NULL,
    seen_at     datetime,
    created_at  datetime NOT NULL,
    updated_at  datetime NOT NULL,
    version     bigint NOT NULL CHECK (version >= 1)
);
CREATE INDEX notices_open ON notices (account_id, created_at) WHERE seen_at IS NULL;
