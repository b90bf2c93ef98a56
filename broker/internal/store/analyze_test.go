package store_test

import (
	"fmt"
	"testing"
	"time"

	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// A table that has grown from nothing is known to be large before autovacuum comes round.
func TestAnalyze_looksAtTablesThatHaveGrown(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		in(t, s, account, func(tn *store.Tenant) error {
			for i := range 300 {
				d := device(fmt.Sprint(i))
				if err := store.In[store.Device](tn).Insert(&d); err != nil {
					return err
				}
			}
			return nil
		})
		db, err := store.RawForTest(s).DB()
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // the database counts changes with a delay
			if err := s.Analyze(t.Context()); err != nil {
				t.Fatal(err)
			}
			if store.RawForTest(s).Name() == "sqlite" {
				return
			}
			var rows float64
			if err := db.QueryRow("SELECT reltuples FROM pg_class WHERE oid = 'devices'::regclass").Scan(&rows); err != nil {
				t.Fatal(err)
			}
			if rows >= 300 {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the database believes in %v devices of 300", rows)
			}
		}
	})
}
