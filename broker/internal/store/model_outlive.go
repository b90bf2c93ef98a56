package store

import "time"

// ExportRequest is an export of device keys that several people must agree to, through its whole life.
type ExportRequest struct {
	Base
	Number    int64 // counts within the account
	UserID    string
	UserName  string
	DeviceIDs []string `gorm:"serializer:json"`
	Reason    string
	Status    string // "pending", "approved", "denied", "exported", "withdrawn", "expired"
	// Needed is how many others must agree, as the account had it when the request was made.
	Needed    int
	ExpiresAt time.Time
	EndedAt   *time.Time
}

// ExportVote is one person's word on an export request. (request, user) is unique.
type ExportVote struct {
	Base
	RequestID string
	UserID    string
	UserName  string
	Agrees    bool
	Reason    string
}

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
