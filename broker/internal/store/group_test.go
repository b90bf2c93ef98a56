package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// crowd runs parts that all wait while another transaction writes, and returns how each ended.
func crowd(t *testing.T, s *store.Store, parts ...func(*store.Tx) error) []error {
	t.Helper()
	all := make([]func() error, len(parts))
	for i, part := range parts {
		all[i] = func() error { return s.Tx(ctx, part) }
	}
	return crowded(t, s, all...)
}

// crowded is crowd for calls that run a transaction each.
func crowded(t *testing.T, s *store.Store, parts ...func() error) []error {
	t.Helper()
	hold, held := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Tx(ctx, func(*store.Tx) error {
			select {
			case <-held:
			default:
				close(held)
			}
			<-hold
			return nil
		}); err != nil {
			t.Errorf("the one that held the others up: %v", err)
		}
	})
	<-held
	out := make([]error, len(parts))
	for i, part := range parts {
		wg.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					out[i] = fmt.Errorf("panic: %v", r)
				}
			}()
			out[i] = part()
		})
		for store.WaitingForTest(s) <= i {
			time.Sleep(time.Millisecond)
		}
	}
	close(hold)
	wg.Wait()
	return out
}

// adding is a part that stores a device and then ends with an error.
func adding(account, identity string, end error) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		d := device(identity)
		return errors.Join(store.In[store.Device](tx.Tenant(account)).Insert(&d), end)
	}
}

func identities(t *testing.T, s *store.Store, account string) string {
	t.Helper()
	var out []string
	if err := s.View(ctx, func(tx *store.Tx) error {
		rows, err := store.In[store.Device](tx.Tenant(account)).List()
		for _, d := range rows {
			out = append(out, d.Identity)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

func TestTx_thoseThatWaitShareOneCommit(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		before := store.CommitsForTest(s)
		var parts []func(*store.Tx) error
		for i := range 20 {
			parts = append(parts, adding(account, string(rune('a'+i)), nil))
		}
		for i, err := range crowd(t, s, parts...) {
			if err != nil {
				t.Errorf("part %d: %v", i, err)
			}
		}
		if got := identities(t, s, account); got != "abcdefghijklmnopqrst" {
			t.Errorf("stored %q", got)
		}
		if n := store.CommitsForTest(s) - before; n > 10 {
			t.Errorf("21 transactions took %d commits", n)
		}
	})
}

func TestTx_aPartThatFailsTakesNoOtherWithIt(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		refused := errors.New("refused")
		in(t, s, account, func(tn *store.Tenant) error {
			d := device("z")
			return store.In[store.Device](tn).Insert(&d)
		})
		var hooks sync.Map
		hooked := func(name string, part func(*store.Tx) error) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				tx.AfterCommit(func() { hooks.Store(name, true) })
				return part(tx)
			}
		}
		got := crowd(t, s,
			hooked("a", adding(account, "a", nil)),
			hooked("b", adding(account, "b", refused)),
			adding(account, "c", nil),
			func(*store.Tx) error { return refused }, // without a write
			func(tx *store.Tx) error {
				_ = adding(account, "d", nil)(tx)
				panic("e")
			},
			func(tx *store.Tx) error { // swallows the database's refusal
				table := store.In[store.Device](tx.Tenant(account))
				d := device("f")
				if err := table.Insert(&d); err != nil {
					return err
				}
				d.Identity = "z"
				_ = table.Update(&d)
				return nil
			},
			adding(account, "g", nil),
		)
		for i, want := range []string{"<nil>", "refused", "<nil>", "refused", "panic: e", "already exists", "<nil>"} {
			if text := fmt.Sprint(got[i]); !strings.Contains(text, want) {
				t.Errorf("part %d ended with %v, want %s", i, text, want)
			}
		}
		if got := identities(t, s, account); got != "acgz" {
			t.Errorf("stored %q, want the parts that succeeded and what was there", got)
		}
		_, a := hooks.Load("a")
		_, b := hooks.Load("b")
		if !a || b {
			t.Errorf("after the commit: a %v, b %v; want only a", a, b)
		}
	})
}

func TestTx_whoGivesUpWaitingHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		gone, cancel := context.WithCancel(ctx)
		var left error
		hold, held := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = s.Tx(ctx, func(*store.Tx) error { close(held); <-hold; return nil })
		})
		<-held
		wg.Go(func() { left = s.Tx(gone, adding(account, "a", nil)) })
		wg.Go(func() {
			if err := s.Tx(ctx, adding(account, "b", nil)); err != nil {
				t.Error(err)
			}
		})
		for store.WaitingForTest(s) < 2 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		for store.WaitingForTest(s) > 1 {
			time.Sleep(time.Millisecond)
		}
		close(hold)
		wg.Wait()
		if !errors.Is(left, store.ErrBusy) {
			t.Errorf("who gave up got %v, want ErrBusy", left)
		}
		if got := identities(t, s, account); got != "b" {
			t.Errorf("stored %q, want b", got)
		}
	})
}

// What is kept among transactions that share a commit is read again after a change of its table and after a part that
// took its writes back.
func TestKeep_neverShowsWhatIsNotSo(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		policy := store.Policy{Name: "p", LeaseSeconds: 10, HeartbeatSeconds: 1, OnMatch: "approve", OnFailure: "deny", RevokeMode: "unmount"}
		in(t, s, account, func(tn *store.Tenant) error { return store.In[store.Policy](tn).Insert(&policy) })
		set := func(lease int64, end error) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				table := store.In[store.Policy](tx.Tenant(account))
				row, err := table.Get(policy.ID)
				if err != nil {
					return err
				}
				row.LeaseSeconds = lease
				return errors.Join(table.Update(&row), end)
			}
		}
		var mu sync.Mutex
		var seen []int64
		look := func(tx *store.Tx) error {
			row, err := store.In[store.Policy](tx.Tenant(account)).Steady(policy.ID)
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, row.LeaseSeconds)
			return err
		}
		crowd(t, s, look, look, set(20, nil), look, set(30, errors.New("taken back")), look)
		// On PostgreSQL the parts ran again, in any order.
		if slices.Contains(seen, 30) {
			t.Errorf("leases seen: %v; want never 30", seen)
		}
		seen = nil
		crowd(t, s, look)
		if slices.Contains(seen, 30) || seen[len(seen)-1] != 20 {
			t.Errorf("leases seen: %v; want never 30, and 20 at the end", seen)
		}
	})
}
