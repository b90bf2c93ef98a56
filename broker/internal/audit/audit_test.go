package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/csv"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

var ctx = context.Background()

func newAccount(t *testing.T, s *store.Store, name string) tenant.Principal {
	t.Helper()
	a := store.Account{Name: name, WrappedKey: []byte("w")}
	if err := s.Tx(ctx, func(tx *store.Tx) error { return store.Global[store.Account](tx).Insert(&a) }); err != nil {
		t.Fatal(err)
	}
	return tenant.Principal{AccountID: a.ID, UserName: "ann"}
}

func newService(s *store.Store, clock func() time.Time) *audit.Service {
	return audit.New(s, ed25519.NewKeyFromSeed(make([]byte, 32)), clock)
}

// clock gives each call a later second.
func clock() func() time.Time {
	var mu sync.Mutex
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Second)
		return at
	}
}

func TestAppend_makesAChainThatVerifiesOffline(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		svc, p := newService(s, nil), newAccount(t, s, "acme")
		for i := range 12 {
			e := audit.Entry{Category: audit.Key, Event: "key-request.approved", Actor: "user:ann", Subject: fmt.Sprint(i),
				Detail: map[string]string{"reason": "ok \x00\xff", "long": strings.Repeat("é", 20000)}}
			if err := svc.Record(ctx, p, e); err != nil {
				t.Fatal(err)
			}
			if i == 5 {
				if err := svc.Checkpoint(ctx, 1); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := svc.Checkpoint(ctx, 7); err != nil { // six new records: not yet
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := svc.ExportJSONL(ctx, p, audit.Filter{}, &out); err != nil {
			t.Fatal(err)
		}
		r, err := chain.Verify(bytes.NewReader(out.Bytes()), chain.Options{TrustedKey: svc.PublicKey()})
		if err != nil {
			t.Fatalf("the export does not verify: %v", err)
		}
		if r.Records != 13 || r.Checkpoints != 1 || r.SignedTo != 6 || !r.Trusted || r.AccountName != "acme" {
			t.Errorf("report %+v, want 13 records (the export is the last) and one checkpoint at 6", r)
		}
		changed := bytes.Replace(out.Bytes(), []byte(`"subject":"7"`), []byte(`"subject":"8"`), 1)
		if _, err := chain.Verify(bytes.NewReader(changed), chain.Options{}); err == nil || !strings.Contains(err.Error(), "record 8") {
			t.Errorf("one changed byte in record 8: %v", err)
		}
	})
}

// Many writers of two brokers append to one log: no record is lost and the chain has no gap.
func TestAppend_fromTwoBrokersAtOnceKeepsTheChain(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		a, b := storetest.Open(t, dsn, nil), storetest.Open(t, dsn, nil)
		p := newAccount(t, a, "acme")
		services := []*audit.Service{newService(a, nil), newService(b, nil)}
		var wg sync.WaitGroup
		for w := range 6 {
			wg.Go(func() {
				for range 5 {
					if err := services[w%2].Record(ctx, p, audit.Entry{Category: audit.Agent, Event: "x", Actor: "instance:1"}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var out bytes.Buffer
		if err := services[0].ExportJSONL(ctx, p, audit.Filter{}, &out); err != nil {
			t.Fatal(err)
		}
		if r, err := chain.Verify(&out, chain.Options{}); err != nil || r.Records != 31 {
			t.Errorf("%d records (%v), want 31", r.Records, err)
		}
	})
}

func TestAppend_isUndoneWithItsTransaction(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		svc, p := newService(s, nil), newAccount(t, s, "acme")
		_ = s.Tx(ctx, func(tx *store.Tx) error {
			if err := audit.Append(tx.Tenant(p.AccountID), audit.Entry{Category: audit.User, Event: "x"}); err != nil {
				t.Error(err)
			}
			return fmt.Errorf("rolled back")
		})
		page, err := svc.Query(ctx, p, audit.Filter{})
		if err != nil || page.Total != 0 {
			t.Errorf("%d records of a transaction that failed (%v)", page.Total, err)
		}
	})
}

func TestQuery_selectsByTimeAndCategoryWithinTheTenant(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		s := storetest.Open(t, dsn, clock())
		svc := newService(s, nil)
		p, other := newAccount(t, s, "acme"), newAccount(t, s, "other")
		var times []time.Time
		for i := range 6 {
			category := []string{audit.Key, audit.User}[i%2]
			if err := s.Tx(ctx, func(tx *store.Tx) error {
				return audit.Append(tx.Tenant(p.AccountID), audit.Entry{Category: category, Event: fmt.Sprint(i + 1)})
			}); err != nil {
				t.Fatal(err)
			}
			page, err := svc.Query(ctx, p, audit.Filter{Size: 1})
			if err != nil {
				t.Fatal(err)
			}
			times = append(times, page.Records[0].At)
		}
		if err := svc.Record(ctx, other, audit.Entry{Category: audit.Key, Event: "theirs"}); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			f     audit.Filter
			want  string
			total int64
		}{
			"all, newest first": {audit.Filter{}, "654321", 6},
			"oldest first":      {audit.Filter{OldestFirst: true}, "123456", 6},
			"a category":        {audit.Filter{Category: audit.User}, "642", 3},
			"a time range":      {audit.Filter{From: times[1], To: times[4]}, "432", 3},
			"second page":       {audit.Filter{Size: 4, Page: 2}, "21", 6},
			"beyond the end":    {audit.Filter{Size: 4, Page: 9}, "", 6},
		} {
			page, err := svc.Query(ctx, p, c.f)
			got := ""
			for _, r := range page.Records {
				got += r.Event
			}
			if err != nil || got != c.want || page.Total != c.total {
				t.Errorf("%s: %q of %d (%v), want %q of %d", name, got, page.Total, err, c.want, c.total)
			}
		}
		for name, f := range map[string]audit.Filter{
			"unknown category": {Category: "x"}, "to before from": {From: times[3], To: times[1]}, "page of 1000": {Size: 1000}, "page -1": {Page: -1},
		} {
			if _, err := svc.Query(ctx, p, f); err == nil {
				t.Errorf("%s was accepted", name)
			}
		}
		// A stretch in the middle verifies on its own.
		var out bytes.Buffer
		if err := svc.ExportJSONL(ctx, p, audit.Filter{From: times[1], To: times[4], Category: audit.User}, &out); err != nil {
			t.Fatal(err)
		}
		if r, err := chain.Verify(&out, chain.Options{}); err != nil || r.First != 2 || r.Last != 4 {
			t.Errorf("export of records 2 to 4 gave %d to %d (%v)", r.First, r.Last, err)
		}
		out.Reset()
		if err := svc.ExportJSONL(ctx, p, audit.Filter{From: times[5].Add(time.Hour)}, &out); err != nil {
			t.Fatal(err)
		}
		if r, err := chain.Verify(&out, chain.Options{}); err != nil || r.Records != 0 {
			t.Errorf("export of nothing gave %d records (%v)", r.Records, err)
		}
	})
}

func TestExportCSV_isWholeAndHarmless(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		svc, p := newService(s, nil), newAccount(t, s, "acme")
		for part := range 13 { // more than two pages
			if err := s.Tx(ctx, func(tx *store.Tx) error {
				for i := part * 93; i < (part+1)*93; i++ {
					if err := audit.Append(tx.Tenant(p.AccountID), audit.Entry{Category: audit.Key, Event: "e", Actor: "=HYPERLINK(1)", Subject: "a,\"b\"\n", Detail: map[string]string{"n": fmt.Sprint(i)}}); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		if err := svc.ExportCSV(ctx, p, audit.Filter{Category: audit.Key}, &out); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&out).ReadAll()
		if err != nil || len(rows) != 1210 {
			t.Fatalf("%d lines (%v), want 1210", len(rows), err)
		}
		for i, r := range rows[1:] {
			if r[0] != fmt.Sprint(i+1) || r[4] != "'=HYPERLINK(1)" || r[5] != "a,\"b\"\n" || r[6] != fmt.Sprintf(`{"n":"%d"}`, i) {
				t.Fatalf("line %d is %q", i+2, r)
			}
		}
	})
}
