package store

import (
	"time"

	"keyward/broker/api"
)

// TPM is a machine's TPM: what people see of it, and the attestation key (TPMT_PUBLIC) that signs its quotes.
type TPM struct {
	api.TPMInfo
	AttestationKey []byte `json:"attestation_key"`
}

// TPMChallenge is a TPM that has to read a secret before it counts. Only the secret's SHA-256 is stored.
type TPMChallenge struct {
	TPM
	SecretHash []byte    `json:"secret_hash"`
	ExpiresAt  time.Time `json:"expires_at"`
}
