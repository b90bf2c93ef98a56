-- Who a machine is: the key that its enrolment bound, renewal and revocation of its certificate, and the certificate by
-- which machines of one image enrol; its TPM and the cloud instance it is bound to. Hashes are in hexadecimal; '' means none.

-- +goose Up

ALTER TABLE images ADD COLUMN certificate text COLLATE "C" NOT NULL DEFAULT '' CHECK (length(certificate) IN (0, 64));
ALTER TABLE images ADD COLUMN cert_expires_at timestamptz;
CREATE UNIQUE INDEX images_certificate ON images (certificate) WHERE certificate <> '';

ALTER TABLE instances ADD COLUMN former_certificate text COLLATE "C" NOT NULL DEFAULT '' CHECK (length(former_certificate) IN (0, 64));
ALTER TABLE instances ADD COLUMN revoked_at timestamptz;
ALTER TABLE instances ADD COLUMN key_hash text COLLATE "C" NOT NULL DEFAULT '' CHECK (length(key_hash) IN (0, 64));
ALTER TABLE instances ADD COLUMN key_conflict text COLLATE "C";
ALTER TABLE instances ADD COLUMN from_image boolean NOT NULL DEFAULT FALSE;
CREATE UNIQUE INDEX instances_former_certificate ON instances (former_certificate) WHERE former_certificate <> '';

ALTER TABLE instances ADD COLUMN tpm text COLLATE "C";
ALTER TABLE instances ADD COLUMN tpm_challenge text COLLATE "C";
ALTER TABLE instances ADD COLUMN ek_hash text COLLATE "C" NOT NULL DEFAULT '' CHECK (length(ek_hash) IN (0, 64));
CREATE UNIQUE INDEX instances_ek_hash ON instances (account_id, ek_hash) WHERE ek_hash <> '';
ALTER TABLE instances ADD COLUMN cloud_identity text COLLATE "C" NOT NULL DEFAULT '';
CREATE UNIQUE INDEX instances_cloud_identity ON instances (account_id, cloud_identity) WHERE cloud_identity <> '';
