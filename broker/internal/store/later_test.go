package store_test

import (
	"errors"
	"fmt"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// What is put off is there for everything that reads afterwards, in its order, once; and gone with its transaction.
func TestLater_isStoredBeforeAnythingReads(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		in(t, s, account, func(tn *store.Tenant) error {
			table := store.In[store.Device](tn)
			d := device("a")
			if err := table.InsertLater(&d); err != nil {
				return err
			}
			copied := d
			d.Name = "renamed before it was stored"
			if err := table.UpdateLater(&d); err != nil {
				return err
			}
			if err := table.Update(&copied); !errors.Is(err, store.ErrStale) {
				t.Errorf("another copy of a row that changed: %v, want ErrStale", err)
			}
			got, err := table.Get(d.ID)
			if err != nil || got.Name != d.Name || got.Version != d.Version || got.Version != 2 {
				t.Errorf("read %+v (%v), want %+v", got, err, d)
			}
			d.Status = api.DeviceConfigured
			if err := table.UpdateLater(&d); err != nil {
				return err
			}
			d.Status = api.DeviceEncrypted
			if err := table.UpdateLater(&d); err != nil {
				return err
			}
			if n, err := table.Count(store.Eq("status", api.DeviceEncrypted)); err != nil || n != 1 || d.Version != 4 {
				t.Errorf("%d encrypted at version %d (%v)", n, d.Version, err)
			}
			b := device("b")
			if err := table.InsertLater(&b); err != nil {
				return err
			}
			return table.Delete(d.ID)
		})
		refused := errors.New("refused")
		if err := s.Tx(ctx, func(tx *store.Tx) error {
			c := device("c")
			return errors.Join(store.In[store.Device](tx.Tenant(account)).InsertLater(&c), refused)
		}); !errors.Is(err, refused) {
			t.Error(err)
		}
		in(t, s, account, func(tn *store.Tenant) error {
			rows, err := store.In[store.Device](tn).List()
			if len(rows) != 1 || rows[0].Identity != "b" {
				t.Errorf("left: %+v", rows)
			}
			return err
		})
	})
}

// A row that is put off in one tenant's name cannot be changed in another's, whatever the row says of itself.
func TestLater_isNotChangedByAnotherTenant(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		acme, other := newAccount(t, s, "acme"), newAccount(t, s, "other")
		var d store.Device
		if err := s.Tx(ctx, func(tx *store.Tx) error {
			d = device("a")
			if err := store.In[store.Device](tx.Tenant(acme)).InsertLater(&d); err != nil {
				return err
			}
			for _, says := range []string{acme, other} {
				theirs := d
				theirs.AccountID, theirs.Name = says, "taken"
				if err := store.In[store.Device](tx.Tenant(other)).Update(&theirs); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("a row that says it is of %s: %v, want ErrNotFound", says, err)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		in(t, s, acme, func(tn *store.Tenant) error {
			got, err := store.In[store.Device](tn).Get(d.ID)
			if got.Name != "a" {
				t.Errorf("the row is %+v", got)
			}
			return err
		})
	})
}

// Who loses against another transaction is run again; who never wins is told why, and nothing of it is kept.
func TestLater_whoLosesIsRunAgain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		runs := 0
		err := s.Tx(ctx, func(tx *store.Tx) error {
			runs++
			table := store.In[store.Device](tx.Tenant(account))
			for _, identity := range []string{"once", "once"} {
				d := device(identity)
				if err := table.InsertLater(&d); err != nil {
					return err
				}
			}
			return nil
		})
		if !errors.Is(err, store.ErrDuplicate) || runs < 2 || runs > 10 {
			t.Errorf("a duplicate that stays: %v after %d runs", err, runs)
		}
		runs = 0
		in(t, s, account, func(tn *store.Tenant) error {
			runs++
			table := store.In[store.Device](tn)
			d := device(fmt.Sprintf("run-%d", runs))
			if err := table.InsertLater(&d); err != nil {
				return err
			}
			if runs == 1 { // as if another transaction had changed the row since it was read
				stale := d
				if err := table.UpdateLater(&d); err != nil {
					return err
				}
				if _, err := table.Count(); err != nil {
					return err
				}
				stale.Version = 7
				return table.UpdateLater(&stale)
			}
			return nil
		})
		in(t, s, account, func(tn *store.Tenant) error {
			rows, err := store.In[store.Device](tn).List()
			if runs != 2 || len(rows) != 1 || rows[0].Identity != "run-2" {
				t.Errorf("%d runs left %+v", runs, rows)
			}
			return err
		})
	})
}

// A transaction that puts off more rows than are kept finds all of them, and takes all of them back.
func TestLater_thousandsOfRowsInOneTransaction(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		refused := errors.New("refused")
		for _, end := range []error{refused, nil} {
			err := s.Tx(ctx, func(tx *store.Tx) error {
				table := store.In[store.Device](tx.Tenant(account))
				for i := range 1500 {
					d := device(fmt.Sprint("d", i))
					if err := table.InsertLater(&d); err != nil {
						return err
					}
					if _, err := store.In[store.User](tx.Tenant(account)).Count(store.Eq("name", d.Name)); err != nil {
						return err
					}
					if i%500 == 0 {
						if n, err := table.Count(); err != nil || n != int64(i+1) {
							t.Errorf("%d of %d rows are there (%v)", n, i+1, err)
						}
					}
				}
				return end
			})
			if !errors.Is(err, end) {
				t.Fatalf("ended in %v, want %v", err, end)
			}
			want := int64(1500)
			if end != nil {
				want = 0
			}
			in(t, s, account, func(tn *store.Tenant) error {
				n, err := store.In[store.Device](tn).Count()
				if n != want {
					t.Errorf("%d rows are there afterwards, want %d", n, want)
				}
				return err
			})
		}
	})
}
