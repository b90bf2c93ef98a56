-- PostgreSQL checks the order of audit records once a statement from here on; SQLite, which knows only triggers for each
-- row, goes on as before. The number is taken so that both have the same.

-- +goose Up

SELECT 1;
