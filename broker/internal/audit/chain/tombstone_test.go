package chain

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"keyward/broker/api"
)

// bury signs the deletion of records first to last of a log.
func bury(t testing.TB, key ed25519.PrivateKey, records []api.AuditRecord, first, last int) Tombstone {
	t.Helper()
	stone, err := Bury(key, Tombstone{AccountID: account, First: int64(first), Last: int64(last), Since: records[first-1].At, Until: records[last-1].At,
		Previous: records[first-1].Previous, Hash: records[last-1].Hash, At: epoch.Add(1000 * time.Hour), Actor: "user:ann", Reason: "retention is over"})
	if err != nil {
		t.Fatal(err)
	}
	return stone
}

// rest exports what is left behind the tombstones, from a record on.
func rest(t testing.TB, key ed25519.PrivateKey, records []api.AuditRecord, first int, stones ...Tombstone) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, key, Range{AccountID: account, First: &records[first-1], Last: &records[len(records)-1], At: epoch, Deleted: stones,
		Edge: growTree(t, records[:first-1]).Edge()})
	for _, r := range records[first-1:] {
		if err == nil {
			err = w.Record(r)
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestTombstones_standForWhatWasDeletedAndNothingElse(t *testing.T) {
	t.Parallel()
	key, stranger := testKey(7), testKey(8)
	records := makeLog(t, 13)
	one, two := bury(t, key, records, 1, 4), bury(t, key, records, 5, 9)
	altered := func(change func(*Tombstone)) Tombstone {
		s := two
		s.Hash, s.Previous = slices.Clone(s.Hash), slices.Clone(s.Previous)
		change(&s)
		return s
	}
	another := altered(func(s *Tombstone) { s.AccountID = "other" })
	another, err := Bury(key, another)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		log  []byte
		good bool
	}{
		"all that is left":                    {rest(t, key, records, 10, one, two), true},
		"a stretch behind a part kept":        {rest(t, key, records, 12, one, two), true},
		"nothing was deleted":                 {rest(t, key, records, 1), true},
		"one of two is missing":               {rest(t, key, records, 10, two), false},
		"in another order":                    {rest(t, key, records, 10, two, one), false},
		"records that are said to be deleted": {rest(t, key, records, 9, one, two), false},
		"a gap that nobody speaks of":         {rest(t, key, records, 10, one, altered(func(s *Tombstone) { s.Last = 8 })), false},
		"another reason":                      {rest(t, key, records, 10, one, altered(func(s *Tombstone) { s.Reason = "nothing" })), false},
		"another end":                         {rest(t, key, records, 10, one, altered(func(s *Tombstone) { s.Hash[0] ^= 1 })), false},
		"another account's":                   {rest(t, key, records, 10, one, another), false},
		"a stranger's":                        {rest(t, key, records, 10, one, bury(t, stranger, records, 5, 9)), false},
		"a time that hashes alike":            {rest(t, key, records, 10, one, altered(func(s *Tombstone) { s.At = s.At.Add(1) })), false},
	} {
		r, err := Verify(bytes.NewReader(c.log), Options{TrustedKey: key.Public().(ed25519.PublicKey)})
		if (err == nil) != c.good {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestBury_refusesWhatCouldNotBeVerified(t *testing.T) {
	t.Parallel()
	good := bury(t, testKey(7), makeLog(t, 3), 1, 2)
	for name, change := range map[string]func(*Tombstone){
		"no account": func(s *Tombstone) { s.AccountID = "" }, "record 0": func(s *Tombstone) { s.First = 0 }, "backwards": func(s *Tombstone) { s.Last = 0 },
		"a short hash": func(s *Tombstone) { s.Hash = s.Hash[1:] }, "no hash before": func(s *Tombstone) { s.Previous = nil },
		"a long reason": func(s *Tombstone) { s.Reason = string(make([]byte, maxText+1)) }, "no time": func(s *Tombstone) { s.Since = time.Time{} },
	} {
		s := good
		change(&s)
		if _, err := Bury(testKey(7), s); err == nil {
			t.Errorf("a tombstone with %s was signed", name)
		}
	}
}
