-- What the broker vouched for when it judged a request, so that a policy can be tried on it later.

-- +goose Up

ALTER TABLE key_requests ADD COLUMN observed text;

-- A replay reads an account's requests by time.
CREATE INDEX key_requests_created ON key_requests (account_id, created_at);
