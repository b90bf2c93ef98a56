package audit_test

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// calendar is a clock that a test sets.
type calendar struct{ now atomic.Int64 }

func (c *calendar) at(text string) {
	t, err := time.Parse(time.DateTime, text)
	if err != nil {
		panic(err)
	}
	c.now.Store(t.UnixMicro())
}

func (c *calendar) read() time.Time { return time.UnixMicro(c.now.Load()).UTC() }

// S-07: the log goes back twelve months, what is older is archived by month and kept for twelve months more. S-11: then it
// may be deleted; what is left still verifies and tells of the deletion for ever.
func TestArchives_deletedMonthsLeaveALogThatVerifies(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		var c calendar
		c.at("2024-01-15 12:00:00")
		s, err := store.Open(ctx, store.Options{DSN: dsn, Clock: c.read})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		svc, p := newService(s, c.read), newAccount(t, s, "acme")
		o := chain.Options{TrustedKey: svc.PublicKey()}
		fill(t, s, p, 700)
		c.at("2024-02-20 12:00:00")
		fill(t, s, p, 300) // to 1000
		early, err := svc.SignedHead(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		c.at("2025-06-01 00:00:00")
		fill(t, s, p, 100) // to 1100
		middle, err := svc.SignedHead(ctx, p)
		if err != nil {
			t.Fatal(err)
		}

		months := func(want string) api.AuditArchives {
			t.Helper()
			list, err := svc.Archives(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range list.Archives {
				word := "kept"
				if a.Deletable {
					word = "may go"
				}
				got = append(got, a.Month+" "+word)
			}
			if text := strings.Join(got, ", "); text != want {
				t.Fatalf("archived: %q, want %q", text, want)
			}
			return list
		}
		remove := func(month string) error {
			return svc.DeleteArchives(ctx, p, api.AuditDelete{Month: month, Confirm: month, Reason: "retention is over"})
		}
		months("2024-02 kept, 2024-01 kept")
		if p, ok := problem.From(remove("2024-01")); !ok || p.Status != 409 || !strings.Contains(p.Detail, "kept until 2026-02-01") {
			t.Fatalf("deleting what is kept: %+v", p)
		}
		c.at("2026-02-28 23:59:59")
		months("2024-02 kept, 2024-01 may go")
		for name, in := range map[string]api.AuditDelete{
			"without a reason":     {Month: "2024-01", Confirm: "2024-01"},
			"without the word":     {Month: "2024-01", Reason: "x"},
			"of no month":          {Month: "old", Confirm: "old", Reason: "x"},
			"of a month not there": {Month: "2023-01", Confirm: "2023-01", Reason: "x"},
			"of the log itself":    {Month: "2026-02", Confirm: "2026-02", Reason: "x"},
		} {
			if err := svc.DeleteArchives(ctx, p, in); err == nil {
				t.Errorf("a deletion %s was carried out", name)
			}
		}
		if err := remove("2024-01"); err != nil {
			t.Fatal(err)
		}
		list := months("2024-02 kept")
		if len(list.Deleted) != 1 || list.Deleted[0].First != 1 || list.Deleted[0].Last != 700 || list.Deleted[0].Actor != "user:ann" || list.Deleted[0].Reason != "retention is over" {
			t.Fatalf("deleted: %+v", list.Deleted)
		}

		// Tail of a block: record 701 stands behind 188 deleted ones of its block.
		for _, n := range []int64{701, 768, 769, 1000, 1100} {
			raw, err := svc.ProveRecord(ctx, p, n)
			if err != nil {
				t.Fatalf("proving record %d: %v", n, err)
			}
			if r, err := chain.VerifyProof(raw, o); err != nil || r.Record.Sequence != n {
				t.Errorf("the proof of record %d: %+v, %v", n, r, err)
			}
		}
		if _, err := svc.ProveRecord(ctx, p, 700); err == nil {
			t.Error("a deleted record was proved")
		}
		for _, head := range []chain.Checkpoint{early, middle} {
			raw, err := svc.ProveConsistency(ctx, p, head.Sequence, 0)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := chain.VerifyProof(raw, o); err != nil || r.From != head.Sequence {
				t.Errorf("from record %d: %+v, %v", head.Sequence, r, err)
			}
		}
		export := func() []byte {
			t.Helper()
			var out bytes.Buffer
			if err := svc.ExportJSONL(ctx, p, audit.Filter{}, &out); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
		whole := export()
		r, err := chain.Verify(bytes.NewReader(whole), o)
		if err != nil || r.First != 701 || len(r.Deleted) != 1 || r.Roots < 3 {
			t.Fatalf("the export: %+v, %v", r, err)
		}
		// Nobody hides or softens a deletion.
		for what, change := range map[string][2]string{"the reason": {"retention is over", "retention is done"}, "who": {`"actor":"user:ann","reason"`, `"actor":"user:bob","reason"`},
			"all of it": {`"deleted":[`, `"delated":[`}} {
			changed := bytes.Replace(whole, []byte(change[0]), []byte(change[1]), 1)
			if bytes.Equal(changed, whole) {
				t.Fatalf("%s is not in the export", what)
			}
			if _, err := chain.Verify(bytes.NewReader(changed), o); err == nil {
				t.Errorf("an export with %s changed verifies", what)
			}
		}

		// The next one takes the rest of the block, and everything that may go up to its month.
		c.at("2027-08-01 00:00:00")
		fill(t, s, p, 400)
		months("2026-02 kept, 2025-06 may go, 2024-02 may go")
		if err := remove("2025-06"); err != nil {
			t.Fatal(err)
		}
		list = months("2026-02 kept")
		if len(list.Deleted) != 3 || list.Deleted[0].Last != 1100 {
			t.Fatalf("deleted: %+v", list.Deleted)
		}
		if r, err := chain.Verify(bytes.NewReader(export()), o); err != nil || r.First != 1101 || len(r.Deleted) != 3 {
			t.Fatalf("the export: %+v, %v", r, err)
		}
		page, err := svc.Query(ctx, p, audit.Filter{Category: audit.Server, Size: 100})
		if err != nil || len(page.Records) != 3 || page.Records[0].Event != "log.deleted" || page.Records[0].Detail["last"] != "1100" {
			t.Errorf("the log of the deletions: %+v, %v", page.Records, err)
		}
		fill(t, s, p, 1)
	})
}
