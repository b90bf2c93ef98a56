-- What the broker vouched for when it judged a request, so that a policy can be tried on it later.

-- +goose Up

ALTER TABLE key_requests ADD COLUMN observed text;
