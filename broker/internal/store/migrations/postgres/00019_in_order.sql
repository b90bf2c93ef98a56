-- Audit records are stored many at a time: that they continue the log without gaps is checked once for all of a statement.

-- +goose Up

-- +goose StatementBegin
CREATE FUNCTION keyward_audit_continues() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM (SELECT account_id, MIN(sequence) AS first, MAX(sequence) AS last, COUNT(*) AS n FROM added GROUP BY account_id) a
        WHERE a.last - a.first + 1 <> a.n
            OR a.last <> (SELECT MAX(sequence) FROM audit_records WHERE account_id = a.account_id)
            OR a.first <> COALESCE((SELECT MAX(sequence) FROM audit_records WHERE account_id = a.account_id AND sequence < a.first),
                (SELECT MAX(last_sequence) FROM audit_tombstones WHERE account_id = a.account_id), 0) + 1) THEN
        RAISE EXCEPTION 'audit records are written in order, without gaps';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
DROP TRIGGER audit_records_in_order ON audit_records;
CREATE TRIGGER audit_records_in_order AFTER INSERT ON audit_records REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION keyward_audit_continues();
DROP FUNCTION keyward_audit_in_order();
