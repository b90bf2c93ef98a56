package store

import (
	"time"

	"keyward/broker/api"
)

// KeyExport is an export of keys that was asked for, through its whole life: of devices' keys, or of the account's recovery
// key, by which its holders can read them all.
type KeyExport struct {
	Base
	Kind      api.KeyExportKind
	Status    api.KeyExportStatus
	AskedBy   string // user name
	AskedByID string
	Reason    string
	// Devices are what it was asked for, with the generations of the keys that people agreed to.
	Devices []api.KeyExportDevice `gorm:"serializer:json"`
	// PublicKey is the file of the recovery key; empty for devices.
	PublicKey string
	// PeopleNeeded is what the account wanted when it was asked: loosening the setting does not loosen what waits.
	PeopleNeeded int64
	ExpiresAt    time.Time
	EndedBy      string // user name; empty where time ended it
	EndReason    string
	EndedAt      *time.Time
}

// KeyExportApproval is one person's approval of an export; it has the form of a key request's. (request, user) is unique.
type KeyExportApproval KeyRequestApproval

// RecoveryEnvelope is the envelope that a machine was given last. (account, instance) is unique.
type RecoveryEnvelope struct {
	Base
	InstanceID string
	KeyID      string
	Revision   string
	IssuedAt   time.Time
	// ConfirmedAt is when the machine said that it has it; nil before.
	ConfirmedAt *time.Time
}
