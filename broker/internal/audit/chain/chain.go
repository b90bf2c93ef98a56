// Package chain is the audit log's hash chain: how a record is encoded, what its hash covers, what a checkpoint signs,
// and how an exported log is verified without a broker. It is pure; the rows are the caller's.
//
// # Canonical encoding
//
// A record's canonical encoding is the domain "keyward audit record v1", then account ID, sequence, time, category,
// event, actor, subject, and the number of details followed by each detail's name and value in the order of their
// names. Every string is preceded by its length in bytes; lengths, sequence, time and number are eight bytes,
// big-endian. Time counts microseconds since 1970 in UTC, because that is what every database keeps. The encoding is
// injective: different records never encode alike.
//
//	hash = SHA-256(hash of the record before || canonical encoding)
//
// Sequences count from 1 within an account, and the hash before the first record is 32 zero bytes. A changed, missing,
// inserted or moved record breaks the chain from there on; a chain rewritten to its end is caught by the signed
// checkpoints. What a signature cannot show is that an export is the newest: compare its last sequence with the
// broker's.
package chain

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"keyward/broker/api"
)

const recordDomain = "keyward audit record v1"

// Limits of one record; a log is read by machines that did not write it.
const (
	maxText    = 16 << 10
	maxDetails = 64
)

// Head is the end of a chain. The zero Head is a chain without records.
type Head struct {
	Sequence int64
	Hash     []byte
}

// hash is the hash to chain from.
func (h Head) hash() []byte {
	if h.Sequence == 0 {
		return make([]byte, sha256.Size)
	}
	return h.Hash
}

// HeadOf is the head of a chain that ends with r.
func HeadOf(r api.AuditRecord) Head { return Head{r.Sequence, r.Hash} }

// Seal makes r the record after head: it sets Sequence, Previous and Hash, cuts the time to microseconds in UTC, and
// replaces what a database or JSON would not give back as it was (NUL and invalid UTF-8). Store what it returns.
func Seal(account string, head Head, r api.AuditRecord) (api.AuditRecord, error) {
	if head.Sequence < 0 || (head.Sequence > 0 && len(head.Hash) != sha256.Size) {
		return api.AuditRecord{}, fmt.Errorf("audit: the chain's head (sequence %d, hash of %d bytes) is damaged: verify the log", head.Sequence, len(head.Hash))
	}
	r.At = r.At.UTC().Truncate(time.Microsecond)
	r.Category, r.Event, r.Actor, r.Subject = clean(r.Category), clean(r.Event), clean(r.Actor), clean(r.Subject)
	var detail map[string]string
	if len(r.Detail) > 0 {
		detail = make(map[string]string, len(r.Detail))
		odd := false
		for name, value := range r.Detail {
			odd = odd || clean(name) != name
			detail[name] = clean(value)
		}
		if odd {
			clear(detail)
			for _, name := range slices.Sorted(maps.Keys(r.Detail)) { // in order, so that names that become alike do so alike
				detail[clean(name)] = clean(r.Detail[name])
			}
		}
	}
	r.Detail = detail
	r.Sequence, r.Previous = head.Sequence+1, bytes.Clone(head.hash())
	if err := check(account, r); err != nil {
		return api.AuditRecord{}, fmt.Errorf("audit: %w", err)
	}
	r.Hash = Hash(account, r)
	return r, nil
}

func check(account string, r api.AuditRecord) error {
	switch {
	case account == "":
		return errors.New("a record needs its account")
	case r.Category == "" || r.Event == "":
		return errors.New("a record needs a category and an event")
	case r.At.Year() < 1970 || r.At.Year() > 9999:
		return fmt.Errorf("the time %s is out of range: set the clock", r.At)
	case len(r.Detail) > maxDetails:
		return fmt.Errorf("%d details are too many: at most %d", len(r.Detail), maxDetails)
	}
	for _, s := range []string{account, r.Category, r.Event, r.Actor, r.Subject} {
		if len(s) > maxText {
			return fmt.Errorf("a text of %d bytes is too long: at most %d", len(s), maxText)
		}
	}
	for name, value := range r.Detail {
		if len(name) > maxText || len(value) > maxText {
			return fmt.Errorf("detail %.40q is too long: at most %d bytes", name, maxText)
		}
	}
	return nil
}

func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

// Hash is the hash of r after r.Previous.
func Hash(account string, r api.AuditRecord) []byte {
	sum := sha256.Sum256(appendCanonical(append(make([]byte, 0, 1024), r.Previous...), account, r))
	return sum[:]
}

// Canonical is the canonical encoding of a record, as the package describes it.
func Canonical(account string, r api.AuditRecord) []byte { return appendCanonical(nil, account, r) }

func appendCanonical(out []byte, account string, r api.AuditRecord) []byte {
	out = appendText(appendText(out, recordDomain), account)
	out = appendNumber(appendNumber(out, r.Sequence), r.At.UnixMicro())
	for _, text := range [...]string{r.Category, r.Event, r.Actor, r.Subject} {
		out = appendText(out, text)
	}
	out = appendNumber(out, int64(len(r.Detail)))
	names := make([]string, 0, 16)
	for name := range r.Detail {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		out = appendText(appendText(out, name), r.Detail[name])
	}
	return out
}
