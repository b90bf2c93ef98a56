package store

import "time"

// RecoveryKey is the public half of the key that an account's recovery envelopes are sealed to. At most one of an account
// is not retired.
type RecoveryKey struct {
	Base
	KeyID     string
	PublicKey []byte
	// Threshold of Holders open an envelope.
	Threshold int
	Holders   []string `gorm:"serializer:json"`
	CreatedBy string
	RetiredAt *time.Time
}

// OfflineRecord is what a machine did without the broker, as it signed it. (account, instance, record) is unique.
type OfflineRecord struct {
	Base
	InstanceID string
	RecordID   string
	Sequence   int64
	Event      string
	At         time.Time // the machine's clock
	Payload    []byte
	Hash       []byte // SHA-256 of Payload
	Signature  []byte
}
