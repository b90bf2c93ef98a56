package unlock

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"keyward/broker/api"
	"keyward/e2e/outcomes"
)

// ledger is what came about on one database.
type ledger struct {
	mu      sync.Mutex
	changes map[outcomes.Outcome]bool // of key requests; of ratings without what brought them
	records map[string]bool           // events of the audit logs
	skipped map[string]bool           // tests that could not run here
}

// skip notes that a test could not run here.
func (l *ledger) skip(test string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.skipped == nil {
		l.skipped = map[string]bool{}
	}
	test, _, _ = strings.Cut(test, "/")
	l.skipped[test] = true
}

// look reads an account's log and the histories of its key requests, at the end of its test at the latest. A broker that is
// gone by then is not asked.
func (a *account) look() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	requests := map[string]bool{}
	records, ratings := map[string]bool{}, map[string]bool{}
	for page := 1; ; page++ {
		var log api.AuditPage
		if a.Do(ctx, http.MethodGet, fmt.Sprintf("/api/v1/audit?size=100&page=%d", page), nil, &log) != nil {
			return
		}
		for _, r := range log.Records {
			records[r.Event] = true
			if strings.HasPrefix(r.Event, "key-request.") {
				requests[r.Subject] = true
			}
			if rating := r.Detail["integrity"]; rating != "" {
				ratings[rating] = true
			}
		}
		if int64(page)*100 >= log.Total {
			break
		}
	}
	l := &a.site.kind.seen
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changes == nil {
		l.changes, l.records = map[outcomes.Outcome]bool{}, map[string]bool{}
	}
	for event := range records {
		l.records[event] = true
	}
	for rating := range ratings {
		l.changes[outcomes.Outcome{Machine: outcomes.Ratings, To: rating}] = true
	}
	for id := range requests {
		r, err := a.KeyRequest(ctx, id)
		if err != nil {
			continue
		}
		l.changes[outcomes.Outcome{Machine: outcomes.Ratings, To: string(r.Integrity)}] = true
		for _, h := range r.History {
			l.changes[outcomes.Outcome{Machine: outcomes.KeyRequests, Event: h.Event, To: string(h.To)}] = true
		}
	}
}

// unseen compares what the whole suite has brought about with what docs/outcomes.md says that it does.
func (k *kind) unseen() error {
	k.seen.mu.Lock()
	defer k.seen.mu.Unlock()
	if k.site == nil {
		return nil
	}
	possible, err := outcomes.Possible("../..")
	if err != nil {
		return err
	}
	documented, err := outcomes.Documented("../..")
	if err != nil {
		return err
	}
	var missing []string
	for o, proofs := range documented {
		if !slices.ContainsFunc(proofs, func(p string) bool {
			test, ours := strings.CutPrefix(p, "e2e/unlock.")
			return ours && !k.seen.skipped[test]
		}) {
			continue
		}
		seen := false
		switch o.Machine {
		case outcomes.KeyRequests:
			seen = k.seen.changes[o]
		case outcomes.Ratings:
			seen = k.seen.changes[outcomes.Outcome{Machine: o.Machine, To: o.To}]
		default:
			seen = k.seen.records[possible[o]]
		}
		if !seen {
			missing = append(missing, fmt.Sprintf("%s: %s by %s", o.Machine, o.To, o.Event))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return errors.New("never seen on " + k.name + ", although docs/outcomes.md names a test of this suite: " + strings.Join(missing, "; "))
}
