// Package storetest gives every test its own migrated database, on each kind that the broker supports.
package storetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keyward/broker/internal/store"
)

// Each runs f as two parallel subtests, "sqlite" and "postgres", each with an empty store of its own. The second one is
// skipped with a reason where PostgreSQL is not installed.
func Each(t *testing.T, f func(t *testing.T, s *store.Store)) {
	t.Helper()
	EachDSN(t, func(t *testing.T, dsn string) { f(t, Open(t, dsn, nil)) })
}

// EachDSN is Each for tests that open the database themselves: twice, again, or with a clock.
func EachDSN(t *testing.T, f func(t *testing.T, dsn string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, SQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, Postgres(t))
	})
}

// Open opens a store and closes it when the test ends. A nil clock is the real one.
func Open(t testing.TB, dsn string, clock func() time.Time) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), store.Options{DSN: dsn, Clock: clock})
	if err != nil {
		t.Fatalf("opening the test's store: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the test's store: %v", err)
		}
	})
	return s
}

// template is a migrated, empty SQLite file: migrating once per test binary saves most of a small test's time.
var template = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "keyward-storetest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "template.db")
	s, err := store.Open(context.Background(), store.Options{DSN: "sqlite:" + path})
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil { // folds the WAL into the file
		return nil, err
	}
	return os.ReadFile(path)
})

// SQLite returns the address of an empty database in the test's own folder.
func SQLite(t testing.TB) string {
	t.Helper()
	b, err := template()
	if err != nil {
		t.Fatalf("making the template of a SQLite database: %v", err)
	}
	path := filepath.Join(t.TempDir(), "keyward.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return "sqlite:" + path
}

// Postgres returns the address of an empty database in this test binary's throw-away cluster.
func Postgres(t testing.TB) string {
	t.Helper()
	return postgres(t, "template_keyward")
}

// EmptyPostgres returns the address of a database without tables, for tests of migrations.
func EmptyPostgres(t testing.TB) string {
	t.Helper()
	return postgres(t, "template0")
}

func postgres(t testing.TB, template string) string {
	t.Helper()
	c, err := theCluster()
	if err != nil {
		t.Fatalf("starting a throw-away PostgreSQL: %v", err)
	}
	if c == nil {
		t.Skip("PostgreSQL is not installed: no initdb in PATH or /usr/lib/postgresql/*/bin")
	}
	name, err := c.create(template)
	if err != nil {
		t.Fatalf("creating the test's database: %v", err)
	}
	t.Cleanup(func() {
		if err := c.admin(fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name)); err != nil {
			t.Errorf("dropping the test's database: %v", err)
		}
	})
	return c.dsn(name)
}
