package chain

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// maxTombstones bounds the deletions that a reader takes from a stranger.
const maxTombstones = 10_000

// Tombstone stands for records that were deleted, oldest first. It keeps the ends of the chain that lay between, so that
// what follows is still the same log, and it is signed: a deletion stays visible for ever.
type Tombstone struct {
	AccountID string `json:"account_id"`
	First     int64  `json:"first"`
	Last      int64  `json:"last"`
	// Since and Until are the times of the first and the last record.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Previous is the hash before First, Hash that of Last.
	Previous  []byte    `json:"previous"`
	Hash      []byte    `json:"hash"`
	At        time.Time `json:"at"`
	Actor     string    `json:"actor"`
	Reason    string    `json:"reason"`
	KeyID     string    `json:"key_id"`
	Signature []byte    `json:"signature"`
}

// Bury signs a tombstone; times are cut to microseconds in UTC. Store what it returns.
func Bury(key ed25519.PrivateKey, t Tombstone) (Tombstone, error) {
	if len(key) != ed25519.PrivateKeySize {
		return t, errors.New("audit: signing a tombstone: the key is no Ed25519 private key: restore it from a backup")
	}
	t.Actor, t.Reason = clean(t.Actor), clean(t.Reason)
	for _, at := range []*time.Time{&t.Since, &t.Until, &t.At} {
		*at = at.UTC().Truncate(time.Microsecond)
	}
	t.KeyID = KeyID(key.Public().(ed25519.PublicKey))
	if err := t.check(); err != nil {
		return t, fmt.Errorf("audit: signing a tombstone: %w", err)
	}
	t.Signature = ed25519.Sign(key, encode(t.fields()...))
	return t, nil
}

func (t Tombstone) fields() []any {
	return []any{"keyward audit tombstone v1", t.AccountID, t.First, t.Last, t.Since.UnixMicro(), t.Until.UnixMicro(), t.Previous, t.Hash,
		t.At.UnixMicro(), t.Actor, t.Reason}
}

func (t Tombstone) check() error {
	switch {
	case t.AccountID == "" || t.First < 1 || t.Last < t.First:
		return fmt.Errorf("records %d to %d of an account are none", t.First, t.Last)
	case len(t.Previous) != sha256.Size || len(t.Hash) != sha256.Size:
		return errors.New("its hashes have wrong lengths")
	case len(t.Actor) > maxText || len(t.Reason) > maxText:
		return fmt.Errorf("a text is longer than %d bytes", maxText)
	}
	for _, at := range []time.Time{t.Since, t.Until, t.At} {
		if at.Year() < 1970 || at.Year() > 9999 || at.Format(time.RFC3339Nano) != at.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano) {
			return fmt.Errorf("the time %s is not in whole microseconds of UTC", at)
		}
	}
	return nil
}

// verifyTombstones checks that tombstones tell of an account's log from its first record on, without gaps, and returns
// the end of what was deleted.
func verifyTombstones(account string, list []Tombstone, keys map[string]ed25519.PublicKey) (Head, error) {
	if len(list) > maxTombstones {
		return Head{}, fmt.Errorf("%d deletions are too many: at most %d", len(list), maxTombstones)
	}
	var end Head
	for _, t := range list {
		key, known := keys[t.KeyID]
		switch err := t.check(); {
		case err != nil:
			return end, fmt.Errorf("the deletion behind record %d: %w: bytes were changed", end.Sequence, err)
		case t.AccountID != account:
			return end, fmt.Errorf("the deletion of records %d to %d is of another account", t.First, t.Last)
		case t.First != end.Sequence+1 || !bytes.Equal(t.Previous, end.hash()):
			return end, fmt.Errorf("the deletion of records %d to %d does not follow the one before it, which ends at record %d: one is missing", t.First, t.Last, end.Sequence)
		case !known:
			return end, fmt.Errorf("the deletion of records %d to %d is signed by key %.32q, which is not the broker's", t.First, t.Last, t.KeyID)
		case !ed25519.Verify(key, encode(t.fields()...), t.Signature):
			return end, fmt.Errorf("the deletion of records %d to %d has a wrong signature", t.First, t.Last)
		}
		end = Head{Sequence: t.Last, Hash: t.Hash}
	}
	return end, nil
}
