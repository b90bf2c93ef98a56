package audit

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// exportPage is how many records are read at a time: an export of any length takes little memory and no long
// transaction. The log is append-only, so pages read one after another fit together.
const exportPage = 500

// ExportJSONL writes a stretch of the log as package chain describes, to be verified offline. The stretch is from the
// first to the last record within the filter's times; its category does not count, because a chain has no gaps. The
// export is itself recorded, as the last record of an export without an end.
func (s *Service) ExportJSONL(ctx context.Context, p tenant.Principal, f Filter, w io.Writer) error {
	f.Category = ""
	if err := f.check(); err != nil {
		return err
	}
	if err := s.recordExport(ctx, p, f, "jsonl"); err != nil {
		return err
	}
	if err := s.grow(ctx, p.AccountID); err != nil {
		return err
	}
	r := chain.Range{AccountID: p.AccountID, At: s.clock(), Keys: s.rotations}
	var checkpoints []store.AuditCheckpoint
	if err := s.store.View(ctx, func(tx *store.Tx) error {
		a, err := store.Global[store.Account](tx).Get(p.AccountID)
		if err != nil {
			return err
		}
		r.AccountName = a.Name
		t := tx.Tenant(p.AccountID)
		if r.First, r.Last, err = ends(t, f); err != nil || r.First == nil {
			return err
		}
		tree, err := treeOf(t, r.First.Sequence-1)
		if err != nil {
			return err
		}
		r.Edge = tree.Edge()
		if r.Deleted, err = s.tombstones(t); err != nil {
			return err
		}
		// Only what this broker's keys signed: the reader has no others.
		checkpoints, err = store.In[store.AuditCheckpoint](t).List(store.OneOf("key_id", s.known), store.Asc("sequence"),
			store.AtLeast("sequence", r.First.Sequence), store.AtMost("sequence", r.Last.Sequence))
		return err
	}); err != nil {
		return err
	}
	r.Checkpoints = int64(len(checkpoints))
	out, err := chain.NewWriter(w, s.key, r)
	if err != nil {
		return err
	}
	if r.First != nil {
		err := s.eachRecord(ctx, p, r.First.Sequence, r.Last.Sequence, nil, func(rec api.AuditRecord) error {
			if err := out.Record(rec); err != nil {
				return err
			}
			for len(checkpoints) > 0 && checkpoints[0].Sequence == rec.Sequence {
				c := checkpoints[0]
				checkpoints = checkpoints[1:]
				if err := out.Checkpoint(signedPart(c)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return out.Close()
}

// ends finds the first and last record within the filter's times; nil when there is none.
func ends(t *store.Tenant, f Filter) (first, last *api.AuditRecord, err error) {
	table := store.In[store.AuditRecord](t)
	a, err := table.First(append(f.where(), store.Asc("sequence"))...)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	b, err := table.First(append(f.where(), store.Desc("sequence"))...)
	if err != nil {
		return nil, nil, err
	}
	va, vb := view(a), view(b)
	return &va, &vb, nil
}

// ExportCSV writes what the filter selects for a spreadsheet, oldest first.
func (s *Service) ExportCSV(ctx context.Context, p tenant.Principal, f Filter, w io.Writer) error {
	if err := f.check(); err != nil {
		return err
	}
	if err := s.recordExport(ctx, p, f, "csv"); err != nil {
		return err
	}
	out := csv.NewWriter(w)
	if err := out.Write([]string{"sequence", "time (UTC)", "category", "event", "actor", "subject", "detail"}); err != nil {
		return err
	}
	err := s.eachRecord(ctx, p, 1, math.MaxInt64, f.where(), func(r api.AuditRecord) error {
		detail := ""
		if len(r.Detail) > 0 {
			b, err := json.Marshal(r.Detail)
			if err != nil {
				return err
			}
			detail = string(b)
		}
		return out.Write([]string{strconv.FormatInt(r.Sequence, 10), r.At.Format(time.RFC3339Nano), r.Category, r.Event, cell(r.Actor), cell(r.Subject), cell(detail)})
	})
	out.Flush()
	return errors.Join(err, out.Error())
}

// cell keeps a spreadsheet from taking text, which may be a stranger's, for a formula.
func cell(s string) string {
	if s != "" {
		switch s[0] {
		case '=', '+', '-', '@', '\t', '\r':
			return "'" + s
		}
	}
	return s
}

func (s *Service) recordExport(ctx context.Context, p tenant.Principal, f Filter, format string) error {
	detail := map[string]string{"format": format}
	for name, t := range map[string]time.Time{"from": f.From, "to": f.To} {
		if !t.IsZero() {
			detail[name] = t.UTC().Format(time.RFC3339)
		}
	}
	if f.Category != "" {
		detail["category"] = f.Category
	}
	if err := s.Record(ctx, p, Entry{Category: User, Event: "log.exported", Actor: p.Actor(), Detail: detail}); err != nil {
		return fmt.Errorf("recording the export: %w", err)
	}
	return nil
}

// each passes records from first to last that pass the filters, in order, page by page.
func (s *Service) eachRecord(ctx context.Context, p tenant.Principal, first, last int64, where []store.Filter, f func(api.AuditRecord) error) error {
	for first <= last {
		var rows []store.AuditRecord
		if err := s.store.View(ctx, func(tx *store.Tx) error {
			var err error
			filters := append(where[:len(where):len(where)], store.AtLeast("sequence", first), store.AtMost("sequence", last), store.Asc("sequence"), store.Limit(exportPage))
			rows, err = store.In[store.AuditRecord](tx.Tenant(p.AccountID)).List(filters...)
			return err
		}); err != nil {
			return err
		}
		for _, r := range rows {
			if err := f(view(r)); err != nil {
				return err
			}
		}
		if len(rows) < exportPage {
			return nil
		}
		first = rows[len(rows)-1].Sequence + 1
	}
	return nil
}
