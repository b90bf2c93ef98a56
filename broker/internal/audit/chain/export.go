package chain

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"keyward/broker/api"
)

// An exported log is JSON Lines in canonical form (Go's encoding/json of Line, a newline after each line): one header,
// then the records in order of their sequence, each checkpoint right behind the record that it signs.
const (
	Format  = "keyward-audit-log"
	Version = 3
)

// Line is one line of an exported log; exactly one field is set.
type Line struct {
	Header     *Header          `json:"header,omitempty"`
	Record     *api.AuditRecord `json:"record,omitempty"`
	Checkpoint *Checkpoint      `json:"checkpoint,omitempty"`
}

// Header says what the export holds. It is signed, so a log cut at either end is not the log that the header promises.
type Header struct {
	Format      string `json:"format"`
	Version     int    `json:"version"`
	AccountID   string `json:"account_id"`
	AccountName string `json:"account_name"`
	// Key is the broker's Ed25519 public key for audit logs.
	Key []byte `json:"key"`
	// First and Last are the sequences of the first and last record; both 0 in an empty export.
	First int64 `json:"first"`
	Last  int64 `json:"last"`
	// Previous is the hash before First, Hash that of Last: the head of the chain, when the export is up to date.
	Previous []byte `json:"previous"`
	Hash     []byte `json:"hash"`
	// Checkpoints is the number of checkpoint lines.
	Checkpoints int64     `json:"checkpoints"`
	ExportedAt  time.Time `json:"exported_at"`
	Signature   []byte    `json:"signature"`
	// Edge is the tree of the records before First (Tree.Edge), so that the roots in checkpoints can be checked; Keys is how
	// Key came from those before it. Both since version 2.
	Edge [][]byte   `json:"edge,omitempty"`
	Keys []Rotation `json:"keys,omitempty"`
	// Deleted stands for the records that were deleted, in their order. An export of a log of which nothing was deleted has
	// version 2 still, so that programs of before read it.
	Deleted []Tombstone `json:"deleted,omitempty"`
}

func (h Header) signed() []byte {
	if h.Version == 1 {
		return encode("keyward audit export v1", h.Format, int64(h.Version), h.AccountID, h.AccountName, h.Key,
			h.First, h.Last, h.Previous, h.Hash, h.Checkpoints, h.ExportedAt.UnixMicro())
	}
	fields := []any{fmt.Sprintf("keyward audit export v%d", h.Version), h.Format, int64(h.Version), h.AccountID, h.AccountName, h.Key,
		h.First, h.Last, h.Previous, h.Hash, h.Checkpoints, h.ExportedAt.UnixMicro(), int64(len(h.Edge))}
	for _, e := range h.Edge {
		fields = append(fields, e)
	}
	fields = append(fields, int64(len(h.Keys)))
	for _, k := range h.Keys {
		fields = append(fields, k.Number, k.At.UnixMicro(), k.Old, k.New, k.OldSignature, k.NewSignature)
	}
	if h.Version > 2 {
		fields = append(fields, int64(len(h.Deleted)))
		for _, t := range h.Deleted {
			fields = append(append(fields, t.fields()...), t.KeyID, t.Signature)
		}
	}
	return encode(fields...)
}

// Range is what an export is going to hold, read in the same transaction as the records.
type Range struct {
	AccountID, AccountName string
	// First and Last are the first and last record to be written; both nil for an empty export.
	First, Last *api.AuditRecord
	Checkpoints int64
	At          time.Time
	// Edge is the tree of the records before First; empty when First is the log's first record.
	Edge [][]byte
	// Keys are the changes of the signing key so far.
	Keys []Rotation
	// Deleted stands for the records that were deleted.
	Deleted []Tombstone
}

// Writer writes an exported log as a stream.
type Writer struct {
	out         *bufio.Writer
	header      Header
	next        int64
	previous    []byte
	checkpoints int64
}

// NewWriter writes the header. What follows must be what the range promises, or Close fails.
func NewWriter(w io.Writer, key ed25519.PrivateKey, r Range) (*Writer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("exporting the audit log: the signing key is no Ed25519 private key: restore it from a backup")
	}
	h := Header{Format: Format, Version: 2, AccountID: r.AccountID, AccountName: clean(r.AccountName),
		Key: key.Public().(ed25519.PublicKey), Previous: make([]byte, sha256.Size), Hash: make([]byte, sha256.Size),
		Checkpoints: r.Checkpoints, ExportedAt: r.At.UTC().Truncate(time.Microsecond), Edge: r.Edge, Keys: r.Keys, Deleted: r.Deleted}
	if len(h.Deleted) > 0 {
		h.Version = Version
	}
	if (r.First == nil) != (r.Last == nil) || r.AccountID == "" || r.Checkpoints < 0 {
		return nil, errors.New("exporting the audit log: a range has an account, and both ends or none")
	}
	if r.First != nil {
		if r.First.Sequence < 1 || r.Last.Sequence < r.First.Sequence {
			return nil, fmt.Errorf("exporting the audit log: %d to %d is no range", r.First.Sequence, r.Last.Sequence)
		}
		h.First, h.Last, h.Previous, h.Hash = r.First.Sequence, r.Last.Sequence, r.First.Previous, r.Last.Hash
	}
	h.Signature = ed25519.Sign(key, h.signed())
	out := &Writer{out: bufio.NewWriter(w), header: h, next: h.First, previous: h.Previous}
	return out, out.line(Line{Header: &h})
}

// Record writes the next record. One that is not the next of the range is refused, and the export is then worthless.
func (w *Writer) Record(r api.AuditRecord) error {
	if w.next == 0 || w.next > w.header.Last || r.Sequence != w.next {
		return fmt.Errorf("exporting the audit log: record %d came where %d was due: the log lacks a record; verify it", r.Sequence, w.next)
	}
	if !bytes.Equal(r.Previous, w.previous) {
		return fmt.Errorf("exporting the audit log: record %d does not follow the one before it: the log was changed; restore it from a backup", r.Sequence)
	}
	r.At = r.At.UTC()
	if len(r.Detail) == 0 {
		r.Detail = nil
	}
	w.next, w.previous = w.next+1, r.Hash
	return w.line(Line{Record: &r})
}

// Checkpoint writes the checkpoint of the record that was written last.
func (w *Writer) Checkpoint(c Checkpoint) error {
	if w.next == w.header.First || c.Sequence != w.next-1 {
		return fmt.Errorf("exporting the audit log: the checkpoint of record %d came behind record %d: read both in order of their sequence", c.Sequence, w.next-1)
	}
	c.At = c.At.UTC()
	w.checkpoints++
	return w.line(Line{Checkpoint: &c})
}

// Close flushes, and fails when the export does not hold what its header promises.
func (w *Writer) Close() error {
	if w.header.Last != 0 && w.next != w.header.Last+1 {
		return fmt.Errorf("exporting the audit log: it ends before record %d of %d: export it again", w.next, w.header.Last)
	}
	if w.checkpoints != w.header.Checkpoints {
		return fmt.Errorf("exporting the audit log: %d checkpoints were written, %d announced: export it again", w.checkpoints, w.header.Checkpoints)
	}
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("exporting the audit log: %w", err)
	}
	return nil
}

func (w *Writer) line(l Line) error {
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("exporting the audit log: %w", err)
	}
	if _, err := w.out.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("exporting the audit log: %w", err)
	}
	return nil
}
