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

// maxLine bounds one line of an export: the largest record, escaped.
const maxLine = 16 << 20

// Options of Verify.
type Options struct {
	// TrustedKey is the broker's public key for audit logs, obtained from somewhere else than the export. Without it
	// Verify shows only that the log is whole by the key that it brings along, which a forger can do as well.
	TrustedKey ed25519.PublicKey
}

// Report is what a verified log is.
type Report struct {
	AccountID, AccountName string
	Records                int64
	First, Last            int64
	// Head is the hash of the last record.
	Head        []byte
	Checkpoints int64
	// SignedTo is the last sequence that a checkpoint signs.
	SignedTo int64
	// Roots counts the checkpoints whose tree was checked against the records.
	Roots int64
	// Deleted stands for the records that are not there because they were deleted.
	Deleted []Tombstone
	// KeyID names the signing key; Trusted is true when it is Options.TrustedKey, or when that one led to it.
	KeyID      string
	Trusted    bool
	ExportedAt time.Time
}

// Problem is what is wrong with an export, and where.
type Problem struct {
	// Line counts from 1.
	Line int64
	// Sequence is the record that is wrong, missing or out of place; 0 when it is the header.
	Sequence int64
	What     string
}

// Error says where and what.
func (p *Problem) Error() string {
	if p.Sequence == 0 {
		return fmt.Sprintf("audit log line %d: %s", p.Line, p.What)
	}
	return fmt.Sprintf("audit log line %d, record %d: %s", p.Line, p.Sequence, p.What)
}

// Verify reads an exported log and checks every hash, link and signature. It keeps one line in memory. The error is a
// *Problem when the log is not what the broker wrote, and the report then covers what came before it; any other error
// is one of reading.
func Verify(r io.Reader, o Options) (Report, error) {
	v := verifier{in: bufio.NewReaderSize(r, 64<<10), trusted: o.TrustedKey}
	err := v.run()
	return v.report, err
}

type verifier struct {
	in       *bufio.Reader
	trusted  ed25519.PublicKey
	header   Header
	report   Report
	line     int64
	keys     map[string]ed25519.PublicKey
	tree     *Tree // nil where the export does not say what came before it
	next     int64 // the sequence that is due
	previous []byte
}

func (v *verifier) run() error {
	l, err := v.read()
	if err == io.EOF {
		return v.problem(0, "the file is empty: export the log again")
	}
	if err != nil {
		return err
	}
	if l.Header == nil {
		return v.problem(0, "it does not begin with a header: the beginning is missing")
	}
	if err := v.start(*l.Header); err != nil {
		return err
	}
	for {
		l, err := v.read()
		if err == io.EOF {
			return v.end()
		}
		if err != nil {
			return err
		}
		switch {
		case l.Record != nil:
			err = v.record(*l.Record)
		case l.Checkpoint != nil:
			err = v.checkpoint(*l.Checkpoint)
		default:
			err = v.problem(v.next, "a second header stands where a record was due")
		}
		if err != nil {
			return err
		}
	}
}

// read returns the next line, which must be the canonical encoding of what it says: what a lenient reader would
// overlook is a change.
func (v *verifier) read() (Line, error) {
	v.line++
	data, err := readLine(v.in)
	if err == io.EOF {
		return Line{}, io.EOF
	}
	if errors.Is(err, errCut) || errors.Is(err, errLong) {
		return Line{}, v.problem(v.next, "%s", err)
	}
	if err != nil {
		return Line{}, fmt.Errorf("reading audit log line %d: %w", v.line, err)
	}
	var l Line
	if err := json.Unmarshal(data, &l); err != nil {
		return Line{}, v.problem(v.next, "the line cannot be read (%s): bytes were changed", err)
	}
	if !exact(l) {
		return Line{}, v.problem(v.next, "a time is not in whole microseconds of UTC: bytes were changed")
	}
	set := 0
	for _, has := range []bool{l.Header != nil, l.Record != nil, l.Checkpoint != nil} {
		if has {
			set++
		}
	}
	canonical, err := json.Marshal(l)
	if err != nil || set != 1 || !bytes.Equal(canonical, data) {
		return Line{}, v.problem(v.next, "the line is not as a broker writes it: bytes were changed")
	}
	return l, nil
}

// exact says that the line's time is written as hashes count it. A finer or shifted time would hash alike.
func exact(l Line) bool {
	var t time.Time
	switch {
	case l.Header != nil:
		t = l.Header.ExportedAt
	case l.Record != nil:
		t = l.Record.At
	case l.Checkpoint != nil:
		t = l.Checkpoint.At
	}
	return t.Format(time.RFC3339Nano) == t.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano)
}

var (
	errCut  = errors.New("the line has no end: the log was cut, or its last byte changed")
	errLong = fmt.Errorf("the line is longer than %d bytes", maxLine)
)

// readLine reads up to a newline, which it leaves out.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, errLong
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case err == io.EOF && len(line) > 0:
			return nil, errCut
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}

func (v *verifier) start(h Header) error {
	v.report = Report{AccountID: h.AccountID, AccountName: h.AccountName, ExportedAt: h.ExportedAt}
	switch {
	case h.Format != Format || h.Version < 1 || h.Version > Version || h.Version == 1 && len(h.Edge)+len(h.Keys) > 0 || (h.Version == 3) != (len(h.Deleted) > 0):
		return v.problem(0, "format %.40q version %d is not %s version %d: use the program of the broker's version", h.Format, h.Version, Format, Version)
	case len(h.Key) != ed25519.PublicKeySize || len(h.Previous) != sha256.Size || len(h.Hash) != sha256.Size:
		return v.problem(0, "the header's key or hashes have wrong lengths: bytes were changed")
	case h.First < 0 || h.Last < h.First || (h.First == 0) != (h.Last == 0) || h.Checkpoints < 0 || h.AccountID == "":
		return v.problem(0, "the header's range is impossible: bytes were changed")
	}
	v.report.KeyID = KeyID(h.Key)
	for _, k := range h.Keys {
		if !k.At.Equal(k.At.Truncate(time.Microsecond)) || k.At.Location() != time.UTC {
			return v.problem(0, "a time is not in whole microseconds of UTC: bytes were changed")
		}
	}
	keys, err := Keys(h.Key, h.Keys)
	if err != nil {
		return v.problem(0, "%s", err)
	}
	v.keys = keys
	if v.trusted != nil {
		if !trusts(keys, v.trusted) {
			return v.problem(0, "the log is signed by key %s and not by the trusted key %s: it is another broker's, or forged", KeyID(h.Key), KeyID(v.trusted))
		}
		v.report.Trusted = true
	}
	if !ed25519.Verify(h.Key, h.signed(), h.Signature) {
		return v.problem(0, "the header's signature is wrong: bytes of the header were changed")
	}
	deleted, err := verifyTombstones(h.AccountID, h.Deleted, keys)
	if err != nil {
		return v.problem(0, "%s", err)
	}
	switch {
	case h.First != 0 && h.First <= deleted.Sequence:
		return v.problem(h.First, "the log begins among the records that were deleted (up to %d)", deleted.Sequence)
	case len(h.Deleted) > 0 && h.First == deleted.Sequence+1 && !bytes.Equal(h.Previous, deleted.hash()):
		return v.problem(h.First, "it does not follow the last record that was deleted: one of the two was changed or replaced")
	}
	v.report.Deleted = h.Deleted
	if h.First == 1 && !bytes.Equal(h.Previous, Head{}.hash()) {
		return v.problem(1, "the first record of the log has a hash before it")
	}
	if h.First == 1 || len(h.Edge) > 0 {
		if v.tree, err = NewTree(h.First-1, h.Edge); err != nil {
			return v.problem(0, "%s", err)
		}
	}
	v.header, v.next, v.previous = h, h.First, h.Previous
	v.report.First = h.First
	return nil
}

func (v *verifier) record(r api.AuditRecord) error {
	switch {
	case v.header.Last == 0 || v.next > v.header.Last:
		return v.problem(r.Sequence, "a record stands after the last that the header announces (%d): it was added", v.header.Last)
	case r.Sequence > v.next:
		return v.problem(v.next, "the record is missing: record %d stands in its place", r.Sequence)
	case r.Sequence < v.next:
		return v.problem(r.Sequence, "the record is out of order or repeated: %d was due", v.next)
	case !bytes.Equal(r.Previous, v.previous):
		return v.problem(r.Sequence, "it does not follow the record before it: one of the two was changed or replaced")
	case !bytes.Equal(r.Hash, Hash(v.header.AccountID, r)):
		return v.problem(r.Sequence, "its hash does not fit its content: it was changed")
	case r.Sequence == v.header.Last && !bytes.Equal(r.Hash, v.header.Hash):
		return v.problem(r.Sequence, "it is not the last record that the header signs: the log was rewritten")
	}
	if err := check(v.header.AccountID, r); err != nil {
		return v.problem(r.Sequence, "%s", err)
	}
	if v.tree != nil {
		if err := v.tree.Append(r.Hash, nil); err != nil {
			return v.problem(r.Sequence, "%s", err)
		}
	}
	v.report.Records++
	v.report.Last, v.report.Head = r.Sequence, r.Hash
	v.next, v.previous = r.Sequence+1, r.Hash
	return nil
}

func (v *verifier) checkpoint(c Checkpoint) error {
	switch {
	case c.AccountID != v.header.AccountID:
		return v.problem(c.Sequence, "the checkpoint is of another account")
	case v.report.Records == 0 || c.Sequence != v.report.Last:
		return v.problem(v.next, "a checkpoint of record %d stands where record %d was due: records are missing or out of order", c.Sequence, v.next)
	}
	key, known := v.keys[c.KeyID]
	if !known {
		return v.problem(c.Sequence, "the checkpoint is refused: it is signed by key %.32q, which is not the broker's", c.KeyID)
	}
	if err := c.Verify(key); err != nil {
		return v.problem(c.Sequence, "the checkpoint is refused: %s", err)
	}
	if !bytes.Equal(c.Hash, v.report.Head) {
		return v.problem(c.Sequence, "the checkpoint signs another hash: the log was rewritten up to here")
	}
	if v.tree != nil && len(c.Root) > 0 {
		if root, err := v.tree.Root(); err != nil || !bytes.Equal(root, c.Root) {
			return v.problem(c.Sequence, "the checkpoint signs another tree: the log was rewritten up to here")
		}
		v.report.Roots++
	}
	v.report.Checkpoints++
	v.report.SignedTo = c.Sequence
	return nil
}

func (v *verifier) end() error {
	if v.header.Last != 0 && v.next <= v.header.Last {
		return v.problem(v.next, "the log ends here and the header announces records up to %d: the end is missing", v.header.Last)
	}
	if v.report.Checkpoints != v.header.Checkpoints {
		return v.problem(v.next-1, "%d checkpoints of %d are there: checkpoints were removed or added", v.report.Checkpoints, v.header.Checkpoints)
	}
	return nil
}

func (v *verifier) problem(sequence int64, format string, args ...any) *Problem {
	return &Problem{Line: v.line, Sequence: sequence, What: fmt.Sprintf(format, args...)}
}
