package api

import "time"

// PathOfflineRecords takes what machines tell of themselves, of times without the broker too.
const PathOfflineRecords = "/agent/v1/offline-records"

// OfflineRecordContext begins what the signature of an offline record covers; the payload follows.
const OfflineRecordContext = "keyward offline record v1\n"

// OfflineRecords are records of a machine in the order in which they were made.
type OfflineRecords struct {
	Records []OfflineRecord `json:"records" minItems:"1" maxItems:"100"`
}

// OfflineRecord is what a machine did without the broker, or what became of itself, signed with its own key. A record that the broker has already
// is taken again without effect.
type OfflineRecord struct {
	// Payload is the JSON of an OfflineEntry.
	Payload []byte `json:"payload"`
	// Signature is ECDSA with SHA-256 (ASN.1) over OfflineRecordContext and Payload.
	Signature []byte `json:"signature"`
}

// OfflineEvent names what was done.
type OfflineEvent string

// The events that are recorded without a broker.
const (
	OfflineExportedOpened   OfflineEvent = "exported-key-opened"
	OfflineBreakGlassOpened OfflineEvent = "break-glass-opened"
	OfflineBreakGlassCheck  OfflineEvent = "break-glass-rehearsed"
	OfflineKeyWritten       OfflineEvent = "key-file-written"
	OfflineClosed           OfflineEvent = "closed"
)

// The events of the machine's and the agent's own life. They are records of the same log, because nobody is asked when a
// machine goes down: they are told when there is a broker again, with the time at which they happened.
const (
	MachineBooted   OfflineEvent = "machine-booted"
	MachineStopping OfflineEvent = "machine-stopping"
	AgentStarted    OfflineEvent = "agent-started"
	AgentStopped    OfflineEvent = "agent-stopped"
)

// OfflineEntry is what an offline record says. Nothing in it is secret.
type OfflineEntry struct {
	ID string `json:"id"`
	// Sequence counts the records of the machine's log from 1, and Previous is the SHA-256 of the payload before, in lower
	// case hexadecimal: a record that was taken out is missed.
	Sequence int64  `json:"sequence"`
	Previous string `json:"previous"`
	// At is the machine's clock.
	At        time.Time         `json:"at"`
	AccountID string            `json:"account_id"`
	Instance  string            `json:"instance_id"`
	Event     OfflineEvent      `json:"event"`
	Devices   []string          `json:"devices"`
	Detail    map[string]string `json:"detail,omitempty"`
}
