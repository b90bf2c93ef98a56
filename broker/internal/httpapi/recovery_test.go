package httpapi_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client/recovery"
)

// holders make a recovery key among themselves and open with their shares what is sealed to it.
type holders struct {
	key    recovery.PublicKey
	shares []recovery.Share
}

var words = []string{"the first passphrase", "the second passphrase"}

func newHolders(t *testing.T) holders {
	t.Helper()
	key, texts, err := recovery.New([]string{"Alice", "Bob"}, 2, words)
	if err != nil {
		t.Fatal(err)
	}
	h := holders{key: key}
	for _, text := range texts {
		h.shares = append(h.shares, must[recovery.Share](t)(recovery.ParseShare(text)))
	}
	return h
}

func (h holders) open(t *testing.T, envelope []byte) (recovery.Header, [][]byte) {
	t.Helper()
	private := must[recovery.PrivateKey](t)(recovery.Combine(h.shares, words))
	defer private.Wipe()
	header, keys, err := recovery.Open(private, envelope)
	if err != nil {
		t.Fatal(err)
	}
	return header, keys
}

// machines get the envelope of their own devices, the Security Administrator that of all; both only ever sealed to the
// holders, renewed when the devices change, and on the log.
func TestRecovery_envelopes(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		one, two := o.machine("db1"), o.machine("db2")
		d, key := one.encrypted("data")
		if e := must[api.RecoveryEnvelope](t)(one.Recovery(ctx, "")); e.Revision != "" || len(e.Envelope) != 0 {
			t.Fatalf("without a recovery key: %+v", e)
		}
		security := o.person(api.RoleSecurityAdmin)
		_, err := security.RecoveryKey(ctx)
		wantProblem(t, err, 404, "not-found")
		h := newHolders(t)
		_, err = o.admin.SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: string(h.key.PEM())})
		wantProblem(t, err, 403, "forbidden")
		_, err = security.SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: "not a key"})
		wantProblem(t, err, 422, "invalid")
		set := must[api.RecoveryKey](t)(security.SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: string(h.key.PEM())}))
		if set.KeyID != h.key.ID || set.Threshold != 2 || strings.Join(set.Holders, " ") != "Alice Bob" {
			t.Errorf("set %+v", set)
		}

		mine := must[api.RecoveryEnvelope](t)(one.Recovery(ctx, ""))
		header, keys := h.open(t, mine.Envelope)
		if header.Scope != "instance" || header.InstanceID != one.id || len(keys) != 1 || header.Devices[0].ID != d.ID || !bytes.Equal(keys[0], key) {
			t.Errorf("the machine's envelope has %+v", header)
		}
		if again := must[api.RecoveryEnvelope](t)(one.Recovery(ctx, mine.Revision)); again.Revision != mine.Revision || len(again.Envelope) != 0 {
			t.Errorf("the same revision was sealed again: %+v", again)
		}
		other := must[api.RecoveryEnvelope](t)(two.Recovery(ctx, ""))
		if header, _ := h.open(t, other.Envelope); len(header.Devices) != 0 {
			t.Errorf("another machine's envelope has %+v", header.Devices)
		}
		e, secondKey := two.encrypted("more")
		if newer := must[api.RecoveryEnvelope](t)(two.Recovery(ctx, other.Revision)); len(newer.Envelope) == 0 {
			t.Error("a new device did not renew the envelope")
		} else if _, keys := h.open(t, newer.Envelope); len(keys) != 1 || !bytes.Equal(keys[0], secondKey) {
			t.Errorf("the renewed envelope lacks the key of %s", e.ID)
		}
		var all bytes.Buffer
		if err := security.RecoveryEnvelope(ctx, &all); err != nil {
			t.Fatal(err)
		}
		if header, keys := h.open(t, all.Bytes()); header.Scope != "account" || len(keys) != 2 || bytes.Contains(all.Bytes(), key[:16]) {
			t.Errorf("the account's envelope has %+v", header)
		}
		wantProblem(t, o.admin.RecoveryEnvelope(ctx, io.Discard), 403, "forbidden")

		// Another key takes over; the former one cannot come back under old shares.
		next := newHolders(t)
		must[api.RecoveryKey](t)(security.SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: string(next.key.PEM())}))
		newest := must[api.RecoveryEnvelope](t)(one.Recovery(ctx, mine.Revision))
		next.open(t, newest.Envelope)
		_, err = security.SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: string(h.key.PEM())})
		wantProblem(t, err, 409, "conflict")
		if err := security.Do(ctx, "DELETE", "/api/v1/recovery-key", nil, nil); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, security.RecoveryEnvelope(ctx, io.Discard), 404, "not-found")
		for event, n := range map[string]int{"recovery-key.set": 2, "recovery-key.retired": 1, "recovery-envelope.issued": 4, "recovery-envelope.downloaded": 1} {
			eq(t, event, len(o.events(event)), n)
		}
	})
}

// told is a record as a machine signs it.
func (b *box) told(e api.OfflineEntry) api.OfflineRecord {
	b.t.Helper()
	payload := must[[]byte](b.t)(json.Marshal(e))
	digest := sha256.Sum256(append([]byte(api.OfflineRecordContext), payload...))
	return api.OfflineRecord{Payload: payload, Signature: must[[]byte](b.t)(ecdsa.SignASN1(rand.Reader, b.cert.PrivateKey.(*ecdsa.PrivateKey), digest[:]))}
}

// What was done without the broker joins the log once, in the machine's name and with the machine's time; what was taken out
// is missed; what the machine did not sign is refused.
func TestOfflineRecords_joinTheLog(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b, other := o.machine("db1"), o.machine("db2")
		entry := func(n int64, previous string) api.OfflineEntry {
			return api.OfflineEntry{ID: uuid.NewString(), Sequence: n, Previous: previous, At: b.now().Add(-1e12), AccountID: o.id, Instance: b.id,
				Event: api.OfflineBreakGlassOpened, Devices: []string{"dev"}, Detail: map[string]string{"holders": "Alice, Bob\x00"}}
		}
		send := func(from *box, r ...api.OfflineRecord) error {
			return from.SendOfflineRecords(ctx, api.OfflineRecords{Records: r})
		}
		first := b.told(entry(1, ""))
		sum := sha256.Sum256(first.Payload)
		second := b.told(entry(2, hex.EncodeToString(sum[:])))
		for range 2 { // an answer may be lost on the way
			if err := send(b, first, second); err != nil {
				t.Fatal(err)
			}
		}
		records := o.events("offline.break-glass-opened")
		if len(records) != 2 || records[1].Detail["machine_holders"] != "Alice, Bob " || records[1].Detail["gap"] != "" || records[0].Actor != "instance:"+b.id {
			t.Errorf("the log has %+v", records)
		}
		if err := send(b, b.told(entry(4, "")), b.told(entry(5, "another"))); err != nil {
			t.Fatal(err)
		}
		records = o.events("offline.break-glass-opened")
		if len(records) != 4 || !strings.Contains(records[2].Detail["gap"], "missing") || !strings.Contains(records[3].Detail["gap"], "another") {
			t.Errorf("the log has %+v", records[2:])
		}
		booted := entry(6, "")
		booted.Event, booted.Devices, booted.Detail = api.MachineBooted, nil, map[string]string{"boot": "a"}
		if err := send(b, b.told(booted)); err != nil {
			t.Fatal(err)
		}
		if lives := o.events("machine.booted"); len(lives) != 1 || lives[0].Category != "agent" || lives[0].Subject != b.id || lives[0].Detail["machine_boot"] != "a" ||
			lives[0].Detail["machine_time"] != booted.At.UTC().Format(time.RFC3339) {
			t.Errorf("a boot is recorded as %+v", lives)
		}
		changed := b.told(entry(6, ""))
		changed.Payload = bytes.Replace(changed.Payload, []byte("Alice"), []byte("Carol"), 1)
		unknown := entry(6, "")
		unknown.Event = "forgotten"
		for name, c := range map[string]struct {
			from *box
			r    api.OfflineRecord
		}{
			"another machine's":  {other, b.told(entry(6, ""))},
			"signed by another":  {b, other.told(entry(6, ""))},
			"changed":            {b, changed},
			"of an odd event":    {b, b.told(unknown)},
			"without a sequence": {b, b.told(entry(0, ""))},
		} {
			if err := send(c.from, c.r); err == nil {
				t.Errorf("a record that is %s was taken", name)
			}
		}
		eq(t, "records", len(o.events("offline.break-glass-opened")), 4)
	})
}
