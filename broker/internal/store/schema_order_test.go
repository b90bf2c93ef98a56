package store_test

import (
	"fmt"
	"strings"
	"testing"

	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// The database itself refuses what does not continue an audit log, one record or many at a time.
func TestAuditRecords_onlyContinueTheLog(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a, b := newAccount(t, s, "acme"), newAccount(t, s, "other")
		for _, c := range []struct {
			name   string
			into   string
			number []int
			stored bool
		}{
			{"the first record has number 1", a, []int{2}, false},
			{"several begin a log", a, []int{1, 2, 3}, true},
			{"the next", a, []int{4}, true},
			{"a gap", a, []int{6}, false},
			{"a gap among several", a, []int{5, 7}, false},
			{"several with one that is there", a, []int{4, 5}, false},
			{"several more", a, []int{5, 6, 7}, true},
			{"another account's log is another one", b, []int{8}, false},
			{"which begins at 1", b, []int{1, 2}, true},
		} {
			var rows []string
			for _, n := range c.number {
				blob := "x'" + strings.Repeat("00", 32) + "'"
				if store.IsPostgresForTest(s) {
					blob = `'\x` + strings.Repeat("00", 32) + "'"
				}
				rows = append(rows, fmt.Sprintf("('%s', %d, '2026-01-02 03:04:05', 'key', 'e', 'a', 's', %s, %s)", c.into, n, blob, blob))
			}
			err := store.ExecForTest(s, "INSERT INTO audit_records (account_id, sequence, at, category, event, actor, subject, previous, hash) VALUES "+strings.Join(rows, ", "))
			if (err == nil) != c.stored {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})
}
