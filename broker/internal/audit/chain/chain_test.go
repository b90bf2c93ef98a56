package chain

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyward/broker/api"
)

const account = "0191d0a0-0000-7000-8000-000000000001"

// frozenHash is the hash of the record in TestHash_isWhatThePackageDocumentSays.
const frozenHash = "b1307c6c6fdaca05dcef144ce31c1e6f722e7e131d22a6c0249420de91a08fda"

var epoch = time.Date(2026, 11, 22, 10, 0, 0, 123456000, time.UTC)

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// makeLog makes n chained records.
func makeLog(t testing.TB, n int) []api.AuditRecord {
	t.Helper()
	var head Head
	records := make([]api.AuditRecord, 0, n)
	for i := range n {
		r, err := Seal(account, head, api.AuditRecord{
			At: epoch.Add(time.Duration(i) * time.Second), Category: "key", Event: "key-request.approved", Actor: "user:ann",
			Subject: fmt.Sprintf("request-%d", i), Detail: map[string]string{"reason": "maintenance <3>", "device": "vol-1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		records, head = append(records, r), HeadOf(r)
	}
	return records
}

func TestHash_isWhatThePackageDocumentSays(t *testing.T) {
	t.Parallel()
	r, err := Seal("acc", Head{}, api.AuditRecord{At: time.UnixMicro(1), Category: "user", Event: "log-on", Actor: "ann",
		Detail: map[string]string{"b": "2", "a": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	n := func(v byte) string { return "\x00\x00\x00\x00\x00\x00\x00" + string(v) }
	want := n(23) + "keyward audit record v1" + n(3) + "acc" + n(1) + n(1) + n(4) + "user" + n(6) + "log-on" + n(3) + "ann" + n(0) +
		n(2) + n(1) + "a" + n(1) + "1" + n(1) + "b" + n(1) + "2"
	if got := string(Canonical("acc", r)); got != want {
		t.Errorf("canonical encoding\n got %q\nwant %q", got, want)
	}
	sum := sha256.Sum256(append(make([]byte, 32), want...))
	if !bytes.Equal(r.Hash, sum[:]) {
		t.Errorf("hash %x, want %x", r.Hash, sum)
	}
	// Frozen: logs that exist must verify for ever.
	if got := hex.EncodeToString(r.Hash); got != frozenHash {
		t.Errorf("hash %s, frozen as %s", got, frozenHash)
	}
}

func TestSeal_keepsOnlyWhatADatabaseGivesBack(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("x", 3600)
	r, err := Seal(account, Head{}, api.AuditRecord{At: time.Date(2026, 1, 1, 1, 0, 0, 1999, zone), Category: "user", Event: "e",
		Actor: "a\x00b", Subject: "bad \xff", Detail: map[string]string{"k\x00": "v\xfe"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 1, 1, 0, 0, 0, 1000, time.UTC); r.At != want {
		t.Errorf("time %v, want %v", r.At, want)
	}
	if r.Actor != "a\ufffdb" || r.Subject != "bad \ufffd" || r.Detail["k\ufffd"] != "v\ufffd" {
		t.Errorf("texts not cleaned: %+v", r)
	}
}

func TestSeal_refusesWhatCannotBeKept(t *testing.T) {
	t.Parallel()
	good := api.AuditRecord{At: epoch, Category: "user", Event: "e"}
	many := make(map[string]string)
	for i := range maxDetails + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for name, change := range map[string]func(*api.AuditRecord, *Head, *string){
		"no account":  func(_ *api.AuditRecord, _ *Head, a *string) { *a = "" },
		"no event":    func(r *api.AuditRecord, _ *Head, _ *string) { r.Event = "" },
		"no category": func(r *api.AuditRecord, _ *Head, _ *string) { r.Category = "" },
		"no time":     func(r *api.AuditRecord, _ *Head, _ *string) { r.At = time.Time{} },
		"long text":   func(r *api.AuditRecord, _ *Head, _ *string) { r.Subject = strings.Repeat("x", maxText+1) },
		"long detail": func(r *api.AuditRecord, _ *Head, _ *string) {
			r.Detail = map[string]string{"a": strings.Repeat("x", maxText+1)}
		},
		"many details":   func(r *api.AuditRecord, _ *Head, _ *string) { r.Detail = many },
		"head lost hash": func(_ *api.AuditRecord, h *Head, _ *string) { *h = Head{Sequence: 3, Hash: []byte{1}} },
	} {
		r, head, acc := good, Head{}, account
		change(&r, &head, &acc)
		if _, err := Seal(acc, head, r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCanonical_differentRecordsNeverEncodeAlike(t *testing.T) {
	t.Parallel()
	text := rapid.StringMatching(`[ab|\x01]{0,4}`)
	record := rapid.Custom(func(t *rapid.T) api.AuditRecord {
		return api.AuditRecord{Sequence: rapid.Int64Range(1, 3).Draw(t, "seq"), At: epoch, Category: text.Draw(t, "cat"), Event: text.Draw(t, "event"),
			Actor: text.Draw(t, "actor"), Subject: text.Draw(t, "subject"), Detail: rapid.MapOfN(text, text, 0, 3).Draw(t, "detail")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := record.Draw(t, "a"), record.Draw(t, "b")
		same := fmt.Sprint(a) == fmt.Sprint(b)
		if bytes.Equal(Canonical("x", a), Canonical("x", b)) != same {
			t.Fatalf("%+v and %+v", a, b)
		}
		if bytes.Equal(Canonical("x", a), Canonical("y", a)) {
			t.Fatal("two accounts encode alike")
		}
	})
}

func TestCheckpoint_anyChangeBreaksTheSignature(t *testing.T) {
	t.Parallel()
	key := testKey(1)
	public := key.Public().(ed25519.PublicKey)
	good, err := Sign(key, account, HeadOf(makeLog(t, 2)[1]), epoch)
	if err != nil {
		t.Fatal(err)
	}
	if err := good.Verify(public); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Checkpoint){
		"account":   func(c *Checkpoint) { c.AccountID += "x" },
		"sequence":  func(c *Checkpoint) { c.Sequence++ },
		"time":      func(c *Checkpoint) { c.At = c.At.Add(time.Microsecond) },
		"hash":      func(c *Checkpoint) { c.Hash[0] ^= 1 },
		"signature": func(c *Checkpoint) { c.Signature[5] ^= 1 },
		"key":       func(c *Checkpoint) { c.KeyID = KeyID(testKey(2).Public().(ed25519.PublicKey)) },
	} {
		c := good
		c.Hash, c.Signature = bytes.Clone(c.Hash), bytes.Clone(c.Signature)
		change(&c)
		if c.Verify(public) == nil {
			t.Errorf("%s changed and not noticed", name)
		}
	}
	if _, err := Sign(key, account, Head{}, epoch); err == nil {
		t.Error("signed a chain without records")
	}
	if _, err := Sign(nil, account, HeadOf(makeLog(t, 1)[0]), epoch); err == nil {
		t.Error("signed without a key")
	}
}
