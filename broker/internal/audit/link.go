package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"hash"
	"strconv"
	"time"

	"keyward/broker/internal/store"
)

// genesis is what the first record of a chain follows.
func genesis() []byte { return make([]byte, sha256.Size) }

// link computes a record's hash.
func link(r store.AuditRecord) ([]byte, error) {
	detail, err := json.Marshal(r.Detail) // sorted keys
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	for _, f := range []string{string(r.Previous), r.AccountID, strconv.FormatInt(r.Sequence, 10), r.At.Format(time.RFC3339Nano), r.Category, r.Event, r.Actor, r.Subject, string(detail)} {
		prefixed(h, f)
	}
	return h.Sum(nil), nil
}

func prefixed(h hash.Hash, s string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(s)))
	h.Write(n[:])
	h.Write([]byte(s))
}
