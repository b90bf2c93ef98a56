package ui

// ArchivesPage lists the archived months of the audit log.
type ArchivesPage struct {
	Frame
	Rows    []ArchiveRow
	Deleted []DeletionRow
	// Export says that archives may be downloaded, CanDelete that they may be deleted.
	Export, CanDelete bool
	Empty             Empty
}

// ArchiveRow is one month.
type ArchiveRow struct {
	Month   string
	Records int64
	// Range is such as "1 to 4096"; Kept is the day until which the archive stays.
	Range, Kept string
	CSV, JSONL  string
	// Delete is nil while the archive is kept.
	Delete *Button
}

// DeletionRow says what was deleted.
type DeletionRow struct {
	Range, Period string
	At            When
	Actor, Reason string
	// Hash is that of the last record that was deleted, in hexadecimal.
	Hash string
}

// ProofsPage asks for proofs of the audit log, and lists the signatures over it.
type ProofsPage struct {
	Frame
	Record      []Field
	Consistency []Field
	// Proof is the answer; nil before anything was asked.
	Proof       *ProofView
	Checkpoints []CheckpointRow
	Pager       Pager
	// Head and Key are the addresses of the newest signature and of the key that verifies it.
	Head, Key string
	Empty     Empty
}

// ProofView is a proof as it was verified.
type ProofView struct {
	Title    string
	Facts    []Pair
	Download string
	// Command verifies the downloaded file without the broker.
	Command string
}

// CheckpointRow is a signature over the log up to a record. Without a root nothing is proved from it.
type CheckpointRow struct {
	Sequence    int64
	At          When
	Root, KeyID string
	// Prove proves that the log of this signature is the beginning of the log now.
	Prove string
}
