package store_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"gorm.io/gorm"

	"keyward/broker/internal/store"
)

// What a large account's hot paths read is found by an index on what is asked for, never by reading the account's rows in
// the order of their keys.
func TestStatistics_theIndexOnWhatIsAskedForIsChosen(t *testing.T) {
	t.Parallel()
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "keyward.db")
	for range 2 { // the second opening finds the statistics
		st, err := store.Open(t.Context(), store.Options{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ query, index string }{
			{"SELECT * FROM devices WHERE instance_id = 'a' AND account_id = 'b' ORDER BY id", "devices_instance"},
			{"SELECT * FROM key_requests WHERE device_id = 'a' AND instance_id = 'b' AND account_id = 'c' ORDER BY number DESC LIMIT 1", "account_id=? AND "},
			{"SELECT number FROM key_requests WHERE account_id = 'c' ORDER BY number DESC, id LIMIT 1", "(account_id=?)"},
			{"SELECT * FROM key_requests WHERE device_id = 'a' AND status IN ('x', 'y') AND account_id = 'c' ORDER BY number, id", "key_requests_pair"},
			{"SELECT device_id FROM device_sightings WHERE instance_id = 'a' AND account_id = 'b' ORDER BY id", "device_sightings_instance"},
			{"SELECT count(*) FROM device_sightings WHERE device_id = 'd' AND instance_id = 'a' AND account_id = 'b'", "(account_id=? AND device_id=? AND instance_id=?)"},
			{"SELECT * FROM jobs WHERE instance_id = 'a' AND status = 'queued' AND account_id = 'b' ORDER BY id", "jobs_instance"},
			{"SELECT * FROM key_requests WHERE lease_expires_at < '2026' AND account_id = 'b' ORDER BY id", "key_requests_lease"},
			{"SELECT * FROM audit_records WHERE account_id = 'b' ORDER BY sequence DESC LIMIT 1", "(account_id=?)"},
			{"SELECT * FROM devices WHERE policy_id = 'p' AND account_id = 'b' ORDER BY id", "devices_policy"},
		} {
			if plan := planOf(t, store.RawForTest(st), c.query); !strings.Contains(plan, c.index) || strings.Contains(plan, "SCAN") {
				t.Errorf("%s\n\tis read by %s, want %s", c.query, plan, c.index)
			}
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func planOf(t *testing.T, g *gorm.DB, query string) string {
	t.Helper()
	db, err := g.DB()
	if err != nil {
		t.Fatal(err)
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN " + query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	return fmt.Sprint(plan)
}
