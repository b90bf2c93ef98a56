package api

import "time"

// KeyExportKind is what leaves the broker with an export.
type KeyExportKind string

// The kinds of exports.
const (
	ExportDevices     KeyExportKind = "devices"      // keys of devices, under a passphrase
	ExportRecoveryKey KeyExportKind = "recovery-key" // all keys of the account, to the holders of a new recovery key
)

// KeyExportStatus is where an export is that several people agree on.
type KeyExportStatus string

// The states of an export.
const (
	ExportWaiting   KeyExportStatus = "Waiting"   // for others to agree
	ExportApproved  KeyExportStatus = "Approved"  // who asked may fetch it, once
	ExportFetched   KeyExportStatus = "Fetched"   // it has left the broker
	ExportDenied    KeyExportStatus = "Denied"    // by another Security Administrator
	ExportCancelled KeyExportStatus = "Cancelled" // by who asked
	ExportExpired   KeyExportStatus = "Expired"   // nobody fetched it in time
)

// KeyExportWrite asks for an export of device keys.
type KeyExportWrite struct {
	DeviceIDs []string `json:"device_ids" minItems:"1" maxItems:"1000"`
	Reason    string   `json:"reason" minLength:"1" maxLength:"1024" doc:"why the keys have to leave the broker, for those who are asked to agree"`
}

// KeyExportDevice is a device of an export.
type KeyExportDevice struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Generation is that of the key that people agreed to; another one is never exported in its place.
	Generation int64 `json:"generation"`
	// PendingGeneration is that of the key that the device gets by a rotation, which is exported beside it; 0 without one.
	PendingGeneration int64 `json:"pending_generation,omitempty"`
}

// KeyExport is an export that was asked for.
type KeyExport struct {
	ID      string            `json:"id"`
	Kind    KeyExportKind     `json:"kind"`
	Status  KeyExportStatus   `json:"status"`
	AskedBy string            `json:"asked_by"`
	Reason  string            `json:"reason"`
	Devices []KeyExportDevice `json:"devices"`
	// RecoveryKey is the key of an export of kind recovery-key.
	RecoveryKey *RecoveryKey `json:"recovery_key,omitempty"`
	// PeopleNeeded is how many must agree, the one who asked among them; Agreed is how many do.
	PeopleNeeded int64      `json:"people_needed"`
	Agreed       int64      `json:"agreed"`
	Approvals    []Approval `json:"approvals"`
	// Own says that the caller asked for it.
	Own       bool       `json:"own"`
	AskedAt   time.Time  `json:"asked_at"`
	ExpiresAt time.Time  `json:"expires_at"`
	EndedBy   string     `json:"ended_by,omitempty"`
	EndReason string     `json:"end_reason,omitempty"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Version   int64      `json:"version"`
}

// KeyExportFetch fetches an export that enough people agreed to.
type KeyExportFetch struct {
	Passphrase string `json:"passphrase" minLength:"8" maxLength:"1024"`
}

// ExportSettings say how many people an export takes.
type ExportSettings struct {
	// People is how many Security Administrators must agree to an export of keys, the one who asks among them.
	People int64 `json:"people" minimum:"1" maximum:"10"`
}
