-- Which machine a device is at home on, since when a machine holds its certificate, and indexes for what is looked up
-- every second or by type.

-- +goose Up

-- A policy alone gives the key to this machine only; any other needs a person's approval once.
ALTER TABLE devices ADD COLUMN home_instance_id text NOT NULL DEFAULT '';
UPDATE devices SET home_instance_id = instance_id WHERE volume IS NOT NULL;
CREATE INDEX devices_home ON devices (account_id, home_instance_id);

-- Approvals from before do not count for who holds the certificate now.
ALTER TABLE instances ADD COLUMN enrolled_at datetime NOT NULL DEFAULT '1970-01-01 00:00:00+00:00';
UPDATE instances SET enrolled_at = first_seen_at;

CREATE INDEX key_requests_lease ON key_requests (account_id, lease_expires_at) WHERE lease_expires_at IS NOT NULL;
CREATE INDEX key_requests_approve ON key_requests (account_id, approve_at) WHERE approve_at IS NOT NULL;
CREATE INDEX key_requests_revoke ON key_requests (account_id, revoke_due_at) WHERE revoke_due_at IS NOT NULL;
CREATE INDEX audit_records_category ON audit_records (account_id, category, sequence);
