package api

import "time"

// AuditArchive is a month of the log that is older than the twelve months that the log itself goes back.
type AuditArchive struct {
	// Month is such as "2025-03"; From and To are its ends in UTC.
	Month string    `json:"month"`
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	// First and Last are the sequences of its records.
	First   int64 `json:"first"`
	Last    int64 `json:"last"`
	Records int64 `json:"records"`
	// DeletableFrom is when an auditor may delete it.
	DeletableFrom time.Time `json:"deletable_from"`
	Deletable     bool      `json:"deletable"`
}

// AuditArchives are the archived months of a log, newest first, and what was deleted of it.
type AuditArchives struct {
	Archives []AuditArchive  `json:"archives"`
	Deleted  []AuditDeletion `json:"deleted"`
}

// AuditDeletion says that records were deleted, by whom and why.
type AuditDeletion struct {
	First  int64     `json:"first"`
	Last   int64     `json:"last"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Reason string    `json:"reason"`
	// Hash is that of the last record, KeyID the key that signed the deletion.
	Hash  []byte `json:"hash"`
	KeyID string `json:"key_id"`
}

// AuditDelete deletes the archives up to a month, that one included. Confirm repeats the month.
type AuditDelete struct {
	Month   string `json:"month" maxLength:"16"`
	Confirm string `json:"confirm" maxLength:"16"`
	Reason  string `json:"reason" maxLength:"1024"`
}

// AuditCheckpointInfo is a signature over the log up to a record.
type AuditCheckpointInfo struct {
	Sequence int64     `json:"sequence"`
	At       time.Time `json:"at"`
	Hash     []byte    `json:"hash"`
	// Root is the root of the tree of the records so far; without one nothing is proved from it.
	Root  []byte `json:"root,omitempty"`
	KeyID string `json:"key_id"`
}

// AuditCheckpoints are signatures over a log, newest first.
type AuditCheckpoints struct {
	Checkpoints []AuditCheckpointInfo `json:"checkpoints"`
	Total       int64                 `json:"total"`
}
