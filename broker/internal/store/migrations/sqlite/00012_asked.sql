-- What a request was asked with, once a check has put newer evidence in its place.

-- +goose Up

ALTER TABLE key_requests ADD COLUMN asked text;
