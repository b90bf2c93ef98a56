package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keyward/broker/api"
	"keyward/broker/internal/store"
)

// A full disk under the database: the request fails with a clear error, everything acknowledged before is there, and
// work goes on once there is space.
func TestTx_fullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("keyward-test", dir, "tmpfs", 0, "size=2m,mode=0700"); err != nil {
		t.Skipf("mounting a small tmpfs needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting the small tmpfs: %v", err)
		}
	})
	dsn := "sqlite:" + filepath.Join(dir, "keyward.db")
	s, err := store.Open(ctx, store.Options{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			s.Close()
		}
	}()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	account := newAccount(t, s, "acme")
	var acknowledged []string
	add := func() error {
		u := store.User{Name: strings.Repeat("u", 1+len(acknowledged)%60) + "-" + strings.Repeat("x", len(acknowledged)/60), Role: api.RoleAuditor, DisplayName: strings.Repeat("d", 4000)}
		err := s.Tx(ctx, func(tx *store.Tx) error { return store.In[store.User](tx.Tenant(account)).Insert(&u) })
		if err == nil {
			acknowledged = append(acknowledged, u.ID)
		}
		return err
	}
	for err == nil && len(acknowledged) < 2000 {
		err = add()
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("after %d rows: %v, want ErrFull", len(acknowledged), err)
	}
	full := len(acknowledged)
	if full < 10 {
		t.Fatalf("only %d rows fitted: the test shows nothing", full)
	}
	allThere := func(s *store.Store) {
		t.Helper()
		if err := s.View(ctx, func(tx *store.Tx) error {
			n, err := store.In[store.User](tx.Tenant(account)).Count(store.OneOf("id", acknowledged))
			if int(n) != len(acknowledged) {
				t.Errorf("%d of %d acknowledged rows are there", n, len(acknowledged))
			}
			return err
		}); err != nil {
			t.Errorf("reading: %v", err)
		}
	}
	allThere(s)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := add(); err != nil {
			t.Fatalf("after space was freed: %v", err)
		}
	}
	allThere(s)
	closed = true
	if err := s.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	again, err := store.Open(ctx, store.Options{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	allThere(again)
}
