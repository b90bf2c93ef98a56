package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"testing"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// fill appends n records.
func fill(t *testing.T, s *store.Store, p tenant.Principal, n int) {
	t.Helper()
	for n > 0 {
		some := min(n, 500)
		if err := s.Tx(ctx, func(tx *store.Tx) error {
			for i := range some {
				if err := audit.Append(tx.Tenant(p.AccountID), audit.Entry{Category: audit.Key, Event: "e", Subject: fmt.Sprint(i)}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		n -= some
	}
}

func TestProve_recordsAndBeginningsOfALongLog(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		svc, p, other := newService(s, nil), newAccount(t, s, "acme"), newAccount(t, s, "other")
		o := chain.Options{TrustedKey: svc.PublicKey()}
		fill(t, s, other, 3)
		fill(t, s, p, 700)
		first, err := svc.SignedHead(ctx, p)
		if err != nil || first.Sequence != 700 || len(first.Root) != 32 {
			t.Fatalf("head %+v, %v", first, err)
		}
		fill(t, s, p, 900)
		for _, n := range []int64{1, 255, 256, 257, 512, 700, 701, 1024, 1600} {
			raw, err := svc.ProveRecord(ctx, p, n)
			if err != nil {
				t.Fatalf("proving record %d: %v", n, err)
			}
			r, err := chain.VerifyProof(raw, o)
			if err != nil || r.Record.Sequence != n || r.AccountID != p.AccountID {
				t.Errorf("the proof of record %d: %+v, %v", n, r, err)
			}
		}
		raw, err := svc.ProveConsistency(ctx, p, first.Sequence, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := chain.VerifyProof(raw, o); err != nil || r.From != 700 || r.To != 1600 {
			t.Errorf("the proof of consistency: %+v, %v", r, err)
		}
		for name, f := range map[string]func() ([]byte, error){
			"a record that is not there":  func() ([]byte, error) { return svc.ProveRecord(ctx, p, 1601) },
			"record 0":                    func() ([]byte, error) { return svc.ProveRecord(ctx, p, 0) },
			"another account's record":    func() ([]byte, error) { return svc.ProveRecord(ctx, other, 4) },
			"from what was never signed":  func() ([]byte, error) { return svc.ProveConsistency(ctx, p, 699, 0) },
			"to what was never signed":    func() ([]byte, error) { return svc.ProveConsistency(ctx, p, 700, 701) },
			"a later log as a beginning":  func() ([]byte, error) { return svc.ProveConsistency(ctx, p, 1600, 700) },
			"another account's beginning": func() ([]byte, error) { return svc.ProveConsistency(ctx, other, 700, 0) },
		} {
			if raw, err := f(); err == nil {
				t.Errorf("%s was proved: %s", name, raw)
			}
		}
		// The tree that is stored is the tree of the records: an export from the middle has its edge checked to the root.
		var out bytes.Buffer
		if err := svc.ExportJSONL(ctx, p, audit.Filter{}, &out); err != nil {
			t.Fatal(err)
		}
		if r, err := chain.Verify(&out, o); err != nil || r.Roots != 2 || r.Records != 1601 {
			t.Errorf("the export: %+v, %v", r, err)
		}
	})
}

func TestRotated_exportsWhatTheOldKeySigned(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		p := newAccount(t, s, "acme")
		seed := func(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }
		old, current := seed(1), seed(2)
		before := audit.New(s, old, nil)
		fill(t, s, p, 10)
		head, err := before.SignedHead(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		change, err := chain.Rotate(1, head.At, old, current)
		if err != nil {
			t.Fatal(err)
		}
		after := audit.New(s, current, nil)
		if err := after.Rotated([]chain.Rotation{change}); err != nil {
			t.Fatal(err)
		}
		fill(t, s, p, 10)
		raw, err := after.ProveConsistency(ctx, p, head.Sequence, 0)
		if err != nil {
			t.Fatal(err)
		}
		for name, key := range map[string]ed25519.PublicKey{"old": before.PublicKey(), "current": after.PublicKey()} {
			if r, err := chain.VerifyProof(raw, chain.Options{TrustedKey: key}); err != nil || !r.Trusted {
				t.Errorf("the proof by the %s key: %+v, %v", name, r, err)
			}
			var out bytes.Buffer
			if err := after.ExportJSONL(ctx, p, audit.Filter{}, &out); err != nil {
				t.Fatal(err)
			}
			if r, err := chain.Verify(&out, chain.Options{TrustedKey: key}); err != nil || r.Checkpoints != 2 || !r.Trusted {
				t.Errorf("the export by the %s key: %+v, %v", name, r, err)
			}
		}
		if err := after.Rotated(nil); err != nil { // forgets the old one
			t.Fatal(err)
		}
		if err := before.Rotated([]chain.Rotation{change}); err == nil {
			t.Error("changes that lead to another key were accepted")
		}
	})
}
