package api

import "time"

// PathRecovery is where a machine fetches the recovery envelope of its devices.
const PathRecovery = "/agent/v1/recovery"

// RecoveryKey is the key that an account's recovery envelopes are sealed to. The broker has its public half only.
type RecoveryKey struct {
	KeyID     string    `json:"key_id"`
	Threshold int       `json:"threshold"`
	Holders   []string  `json:"holders"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
}

// EnvelopeState says whether a machine has the recovery envelope that it should have.
type EnvelopeState string

// The states of a machine's envelope.
const (
	EnvelopeCurrent EnvelopeState = "current" // it has the newest, by its own word
	EnvelopeIssued  EnvelopeState = "issued"  // it was given the newest and has not confirmed it
	EnvelopeFormer  EnvelopeState = "former"  // it was given one of another key, or before its devices changed
	EnvelopeNone    EnvelopeState = "none"    // it has never fetched one
)

// RecoveryMachine is a machine with what it has for a time without the broker.
type RecoveryMachine struct {
	InstanceID   string        `json:"instance_id"`
	InstanceName string        `json:"instance_name"`
	State        EnvelopeState `json:"state"`
	IssuedAt     *time.Time    `json:"issued_at,omitempty"`
	ConfirmedAt  *time.Time    `json:"confirmed_at,omitempty"`
}

// RecoveryKeyWrite sets an account's recovery key.
type RecoveryKeyWrite struct {
	// PublicKey is the file recovery-key.pub, as it was made.
	PublicKey string `json:"public_key" minLength:"1" maxLength:"16384"`
}

// RecoveryKeyAsk asks the other Security Administrators to agree to a recovery key.
type RecoveryKeyAsk struct {
	// PublicKey is the file recovery-key.pub, as it was made.
	PublicKey string `json:"public_key" minLength:"1" maxLength:"16384"`
	Reason    string `json:"reason" minLength:"1" maxLength:"1024"`
}

// RecoveryEnvelope answers a machine that asks for its envelope.
type RecoveryEnvelope struct {
	// Revision names what is in it; it is empty, as is Envelope, while the account has no recovery key.
	Revision string `json:"revision"`
	// Envelope is the file, empty where the machine has that revision already.
	Envelope []byte `json:"envelope,omitempty"`
}
