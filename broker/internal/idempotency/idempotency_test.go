package idempotency_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

type answer struct{ N int64 }

// setup makes an account and a function that counts how often it ran and leaves an image as its effect.
func setup(t *testing.T, st *store.Store) (string, *atomic.Int64, func(*store.Tenant) (answer, error)) {
	t.Helper()
	account := store.Account{Name: "acme", TimeZone: "UTC", DateFormat: "x", WrappedKey: []byte{1}, RootKeyID: "r", KeyGeneration: 1}
	if err := st.Tx(t.Context(), func(tx *store.Tx) error { return store.Global[store.Account](tx).Insert(&account) }); err != nil {
		t.Fatal(err)
	}
	runs := &atomic.Int64{}
	return account.ID, runs, func(t *store.Tenant) (answer, error) {
		n := runs.Add(1)
		images := store.In[store.Image](t)
		count, err := images.Count()
		if err != nil {
			return answer{}, err
		}
		return answer{count + 1}, images.Insert(&store.Image{Provider: "p", Identity: string(rune('a' + n)), Name: "x"})
	}
}

func images(t *testing.T, st *store.Store, account string) (n int64) {
	t.Helper()
	if err := st.View(context.Background(), func(tx *store.Tx) (err error) {
		n, err = store.In[store.Image](tx.Tenant(account)).Count()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTx_repeatsTheAnswerAndNotTheEffect(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		account, _, act := setup(t, st)
		call := idempotency.Call{Scope: "s", Key: "k", Body: []byte("body")}
		for range 3 {
			got, err := idempotency.Tx(t.Context(), st, account, call, act)
			if err != nil || got.N != 1 {
				t.Fatalf("answer %+v, %v", got, err)
			}
		}
		for name, c := range map[string]idempotency.Call{
			"another scope": {Scope: "other", Key: "k", Body: []byte("body")},
			"another key":   {Scope: "s", Key: "k2", Body: []byte("body")},
			"no key":        {Scope: "s", Body: []byte("body")},
		} {
			before := images(t, st, account)
			got, err := idempotency.Tx(t.Context(), st, account, c, act)
			if err != nil || got.N != before+1 {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		}
		call.Body = []byte("another body")
		_, err := idempotency.Tx(t.Context(), st, account, call, act)
		var p *problem.Problem
		if !errors.As(err, &p) || p.Slug() != "idempotency-key-reused" {
			t.Errorf("another body: %v", err)
		}
		call.Key = strings.Repeat("k", 129)
		if _, err := idempotency.Tx(t.Context(), st, account, call, act); !errors.As(err, &p) || p.Slug() != "idempotency-key-invalid" {
			t.Errorf("a long key: %v", err)
		}
	})
}

// A refusal is not an answer: the caller may correct what was wrong and repeat.
func TestTx_refusalsAreNotStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		account, _, act := setup(t, st)
		call := idempotency.Call{Scope: "s", Key: "k"}
		refused := errors.New("refused")
		rolledBack := func(t *store.Tenant) (answer, error) {
			if _, err := act(t); err != nil {
				return answer{}, err
			}
			return answer{}, refused
		}
		if _, err := idempotency.Tx(t.Context(), st, account, call, rolledBack); !errors.Is(err, refused) || images(t, st, account) != 0 {
			t.Fatalf("a refusal: %v, %d images", err, images(t, st, account))
		}
		kept := func(t *store.Tenant) (answer, error) {
			if _, err := act(t); err != nil {
				return answer{}, err
			}
			return answer{}, idempotency.Keep(refused)
		}
		if _, err := idempotency.Tx(t.Context(), st, account, call, kept); !errors.Is(err, refused) || images(t, st, account) != 1 {
			t.Fatalf("a refusal that is kept: %v, %d images", err, images(t, st, account))
		}
		if got, err := idempotency.Tx(t.Context(), st, account, call, act); err != nil || got.N != 2 {
			t.Fatalf("the corrected request: %+v, %v", got, err)
		}
	})
}

func TestTx_theSameRequestAtTheSameTimeActsOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		account, _, act := setup(t, st)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				got, err := idempotency.Tx(t.Context(), st, account, idempotency.Call{Scope: "s", Key: "k"}, act)
				if err != nil || got.N != 1 {
					t.Errorf("answer %+v, %v", got, err)
				}
			})
		}
		wg.Wait()
		if n := images(t, st, account); n != 1 {
			t.Errorf("%d effects, want 1", n)
		}
	})
}

func TestClean_forgetsWhatHasEnded(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		var offset atomic.Int64
		st := storetest.Open(t, dsn, func() time.Time { return time.Now().Add(time.Duration(offset.Load())) })
		account, runs, act := setup(t, st)
		call := idempotency.Call{Scope: "s", Key: "k"}
		stored := func() (n int64) {
			if err := st.Tx(t.Context(), func(tx *store.Tx) error {
				t := tx.Tenant(account)
				if err := idempotency.Clean(t); err != nil {
					return err
				}
				var err error
				n, err = store.In[store.IdempotencyRecord](t).Count()
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if _, err := idempotency.Tx(t.Context(), st, account, call, act); err != nil || stored() != 1 {
			t.Fatalf("%v, %d records", err, stored())
		}
		offset.Store(int64(idempotency.Life + time.Second))
		if stored() != 0 {
			t.Error("an answer that ended is kept")
		}
		if _, err := idempotency.Tx(t.Context(), st, account, call, act); err != nil || runs.Load() < 2 {
			t.Errorf("after its life the key counts again: %v", err)
		}
	})
}
