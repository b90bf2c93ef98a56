package logbook

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"os"
	"sync"
	"testing"

	"keyward/broker/api"
)

func machine(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func entries(t *testing.T, records []api.OfflineRecord) []api.OfflineEntry {
	t.Helper()
	var out []api.OfflineEntry
	for _, r := range records {
		var e api.OfflineEntry
		if err := json.Unmarshal(r.Payload, &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func TestBook_recordsAreChainedAndSigned(t *testing.T) {
	t.Parallel()
	key := machine(t)
	b := New(t.TempDir(), "account", "instance", key)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := b.Append(api.OfflineBreakGlassOpened, []string{"dev"}, map[string]string{"mount_point": "/mnt"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	records, upTo, err := b.Unsent(100)
	if err != nil || len(records) != 4 || upTo != 4 {
		t.Fatalf("%d records up to %d, %v", len(records), upTo, err)
	}
	previous := ""
	for i, e := range entries(t, records) {
		digest := sha256.Sum256(append([]byte(api.OfflineRecordContext), records[i].Payload...))
		if e.Sequence != int64(i)+1 || e.Previous != previous || e.Instance != "instance" || !ecdsa.VerifyASN1(&key.PublicKey, digest[:], records[i].Signature) {
			t.Errorf("record %d: %+v", i, e)
		}
		previous = sum(records[i].Payload)
	}
}

func TestBook_whatWasSentIsNotSentAgain(t *testing.T) {
	t.Parallel()
	b := New(t.TempDir(), "account", "instance", machine(t))
	if records, _, err := b.Unsent(10); err != nil || len(records) != 0 {
		t.Fatalf("an empty log has %d records, %v", len(records), err)
	}
	for range 3 {
		if err := b.Append(api.OfflineClosed, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	first, upTo, err := b.Unsent(2)
	if err != nil || len(first) != 2 {
		t.Fatal(len(first), err)
	}
	if err := b.Sent(upTo); err != nil {
		t.Fatal(err)
	}
	rest, _, err := b.Unsent(2)
	if err != nil || len(rest) != 1 || entries(t, rest)[0].Sequence != 3 {
		t.Fatalf("%+v, %v", rest, err)
	}
}

func TestBook_aLineThatACrashCutShortIsReplaced(t *testing.T) {
	t.Parallel()
	b := New(t.TempDir(), "account", "instance", machine(t))
	if err := b.Append(api.OfflineClosed, nil, nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(b.Path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"payload":"e30`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := b.Append(api.OfflineExportedOpened, nil, nil); err != nil {
		t.Fatal(err)
	}
	records, _, err := b.Unsent(10)
	if err != nil || len(records) != 2 || entries(t, records)[1].Sequence != 2 {
		t.Fatalf("%d records, %v", len(records), err)
	}
}

func TestBook_ofAMachineThatIsNotEnrolledStaysLocal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := New(dir, "", "", nil).Append(api.OfflineExportedOpened, nil, nil); err != nil {
		t.Fatal(err)
	}
	b := New(dir, "account", "instance", machine(t))
	if err := b.Append(api.OfflineClosed, nil, nil); err != nil {
		t.Fatal(err)
	}
	records, upTo, err := b.Unsent(10)
	if err != nil || len(records) != 1 || upTo != 2 || entries(t, records)[0].Sequence != 2 {
		t.Fatalf("%d records up to %d, %v", len(records), upTo, err)
	}
}
