package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

var ctx = context.Background()

// newAccount stores an account and returns its ID.
func newAccount(t testing.TB, s *store.Store, name string) string {
	t.Helper()
	a := store.Account{Name: name, TimeZone: "UTC", DateFormat: "2006-01-02", WrappedKey: []byte("w"), RootKeyID: "r", KeyGeneration: 1}
	if err := s.Tx(ctx, func(tx *store.Tx) error { return store.Global[store.Account](tx).Insert(&a) }); err != nil {
		t.Fatal(err)
	}
	return a.ID
}

// in runs f in a transaction of one account.
func in(t testing.TB, s *store.Store, account string, f func(*store.Tenant) error) {
	t.Helper()
	if err := s.Tx(ctx, func(tx *store.Tx) error { return f(tx.Tenant(account)) }); err != nil {
		t.Fatal(err)
	}
}

func device(identity string) store.Device {
	return store.Device{Provider: "native", Identity: identity, Name: identity, Status: api.DeviceNotConfigured}
}

func TestTable_writtenRowEqualsReadRow(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		zone := time.FixedZone("CEST", 7200)
		seen := time.Date(2026, 3, 4, 5, 6, 7, 123456789, zone)
		image := store.Image{Provider: "native", Identity: "i", Name: "naïve \U0001F511"}
		instance := store.Instance{Provider: "native", Identity: "m", HostName: "h", CertFingerprint: make([]byte, 32),
			CertExpiresAt: seen, FirstSeenAt: seen, LastSeenAt: &seen,
			Evidence: api.Evidence{CollectedAt: seen.UTC(), Facts: []api.Fact{{Name: api.FactUserData, Values: []string{"a\x00b"}}}}}
		encrypted := device("d")
		encrypted.Volume = &api.VolumeRecord{UUID: "u", KeyBits: 256, Digest: []byte{1, 2}, DataSize: 1 << 40}
		plain := device("e")
		in(t, s, account, func(tn *store.Tenant) error {
			return errors.Join(store.In[store.Image](tn).Insert(&image), store.In[store.Instance](tn).Insert(&instance),
				store.In[store.Device](tn).Insert(&encrypted), store.In[store.Device](tn).Insert(&plain))
		})
		if want := time.Date(2026, 3, 4, 3, 6, 7, 123456000, time.UTC); !instance.FirstSeenAt.Equal(want) || instance.FirstSeenAt.Location() != time.UTC {
			t.Errorf("a written time became %v, want %v", instance.FirstSeenAt, want)
		}
		if err := s.View(ctx, func(tx *store.Tx) error {
			tn := tx.Tenant(account)
			same(t, store.In[store.Image](tn), image.ID, image)
			same(t, store.In[store.Instance](tn), instance.ID, instance)
			same(t, store.In[store.Device](tn), encrypted.ID, encrypted)
			same(t, store.In[store.Device](tn), plain.ID, plain)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func same[T any](t *testing.T, table store.Table[T], id string, want T) {
	t.Helper()
	got, err := table.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back\n%+v\nwant\n%+v", got, want)
	}
}

func TestTable_neverShowsAnotherTenantsRows(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a, b := newAccount(t, s, "a"), newAccount(t, s, "b")
		mine, theirs := device("same"), device("same") // unique within a tenant only
		in(t, s, a, func(tn *store.Tenant) error { return store.In[store.Device](tn).Insert(&mine) })
		in(t, s, b, func(tn *store.Tenant) error { return store.In[store.Device](tn).Insert(&theirs) })
		in(t, s, a, func(tn *store.Tenant) error {
			table := store.In[store.Device](tn)
			if _, err := table.Get(theirs.ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Get of another tenant's row: %v, want ErrNotFound", err)
			}
			if rows, _ := table.List(store.Eq("account_id", b)); len(rows) != 0 {
				t.Errorf("List with the other account's ID returned %d rows", len(rows))
			}
			if rows, _ := table.List(); len(rows) != 1 || rows[0].ID != mine.ID {
				t.Errorf("List returned %v, want only the tenant's own row", rows)
			}
			if n, _ := table.Count(store.Eq("identity", "same")); n != 1 {
				t.Errorf("Count = %d, want 1", n)
			}
			stolen := theirs
			if err := table.Update(&stolen); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Update of another tenant's row: %v, want ErrNotFound", err)
			}
			stolen.AccountID = a
			if err := table.Update(&stolen); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Update of another tenant's row under our account: %v, want ErrNotFound", err)
			}
			if err := table.Delete(theirs.ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Delete of another tenant's row: %v, want ErrNotFound", err)
			}
			if n, err := table.DeleteWhere(store.Eq("name", "same")); n != 1 || err != nil {
				t.Errorf("DeleteWhere removed %d rows (%v), want the tenant's own only", n, err)
			}
			return nil
		})
		in(t, s, b, func(tn *store.Tenant) error {
			got, err := store.In[store.Device](tn).Get(theirs.ID)
			if err == nil && got.Name != "same" {
				t.Errorf("the other tenant's row is now %+v", got)
			}
			return err
		})
	})
}

func TestTable_aReferenceIntoAnotherTenantIsRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a, b := newAccount(t, s, "a"), newAccount(t, s, "b")
		d := device("d")
		in(t, s, b, func(tn *store.Tenant) error { return store.In[store.Device](tn).Insert(&d) })
		err := s.Tx(ctx, func(tx *store.Tx) error {
			return store.In[store.DeviceKey](tx.Tenant(a)).Insert(&store.DeviceKey{DeviceID: d.ID, Bits: 256, Generation: 1, Wrapped: []byte("k")})
		})
		if !errors.Is(err, store.ErrReferenced) {
			t.Errorf("a key for another tenant's device: %v, want ErrReferenced", err)
		}
	})
}

func TestTable_withoutATenantPanics(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		for name, f := range map[string]func(*store.Tx){
			"a tenant's table as a global one": func(tx *store.Tx) { store.Global[store.Device](tx) },
			"a global table as a tenant's":     func(tx *store.Tx) { store.In[store.Account](tx.Tenant("x")) },
			"an empty account":                 func(tx *store.Tx) { tx.Tenant("") },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: no panic", name)
					}
				}()
				_ = s.Tx(ctx, func(tx *store.Tx) error { f(tx); return nil })
			}()
		}
		newAccount(t, s, "still works after the panics")
	})
}

func TestTable_updateOfAStaleRowIsRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		d := device("d")
		in(t, s, account, func(tn *store.Tenant) error { return store.In[store.Device](tn).Insert(&d) })
		first, second := d, d
		in(t, s, account, func(tn *store.Tenant) error {
			first.Name = "first"
			return store.In[store.Device](tn).Update(&first)
		})
		if first.Version != 2 {
			t.Errorf("version after the update = %d, want 2", first.Version)
		}
		in(t, s, account, func(tn *store.Tenant) error {
			second.Name = "second"
			if err := store.In[store.Device](tn).Update(&second); !errors.Is(err, store.ErrStale) {
				t.Errorf("update of a stale row: %v, want ErrStale", err)
			}
			if second.Version != 1 {
				t.Errorf("a refused row has version %d, want 1 as before", second.Version)
			}
			got, err := store.In[store.Device](tn).Get(d.ID)
			if got.Name != "first" || !got.CreatedAt.Equal(d.CreatedAt) {
				t.Errorf("stored row is %+v", got)
			}
			return err
		})
	})
}

func TestTable_updateWritesZeroValuesToo(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		now := time.Now()
		u := store.User{Name: "u", Role: api.RoleAuditor, FailedLogOns: 3, LockedUntil: &now, Email: "x"}
		in(t, s, account, func(tn *store.Tenant) error { return store.In[store.User](tn).Insert(&u) })
		u.FailedLogOns, u.LockedUntil, u.Email = 0, nil, ""
		in(t, s, account, func(tn *store.Tenant) error { return store.In[store.User](tn).Update(&u) })
		in(t, s, account, func(tn *store.Tenant) error { same(t, store.In[store.User](tn), u.ID, u); return nil })
	})
}

func TestTable_aDuplicateLeavesTheTransactionUsable(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		in(t, s, account, func(tn *store.Tenant) error {
			table := store.In[store.Device](tn)
			d, again, other := device("d"), device("d"), device("e")
			if err := table.Insert(&d); err != nil {
				return err
			}
			if err := table.Insert(&again); !errors.Is(err, store.ErrDuplicate) {
				t.Errorf("second insert: %v, want ErrDuplicate", err)
			}
			return table.Insert(&other)
		})
		in(t, s, account, func(tn *store.Tenant) error {
			n, err := store.In[store.Device](tn).Count()
			if n != 2 {
				t.Errorf("%d devices are stored, want 2", n)
			}
			return err
		})
		err := s.Tx(ctx, func(tx *store.Tx) error {
			return store.Global[store.Account](tx).Insert(&store.Account{Name: "ACME", WrappedKey: []byte("w")})
		})
		if !errors.Is(err, store.ErrDuplicate) {
			t.Errorf("a second account of the same name in capitals: %v, want ErrDuplicate", err)
		}
	})
}

func TestTable_renamingToATakenNameEndsTheTransaction(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		d, e := device("d"), device("e")
		in(t, s, account, func(tn *store.Tenant) error {
			return errors.Join(store.In[store.Device](tn).Insert(&d), store.In[store.Device](tn).Insert(&e))
		})
		err := s.Tx(ctx, func(tx *store.Tx) error {
			table := store.In[store.Device](tx.Tenant(account))
			f := device("f")
			if err := table.Insert(&f); err != nil {
				return err
			}
			e.Identity = "d"
			if err := table.Update(&e); !errors.Is(err, store.ErrDuplicate) {
				t.Errorf("update to a taken identity: %v, want ErrDuplicate", err)
			}
			return nil // swallowed: the transaction must fail all the same
		})
		if !errors.Is(err, store.ErrDuplicate) {
			t.Errorf("the transaction ended with %v, want ErrDuplicate", err)
		}
		in(t, s, account, func(tn *store.Tenant) error {
			n, err := store.In[store.Device](tn).Count()
			if n != 2 {
				t.Errorf("%d devices, want 2: nothing of the failed transaction", n)
			}
			return err
		})
	})
}

func TestTable_textThatOneDatabaseCannotStoreIsRefusedByBoth(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		for _, bad := range []string{"a\x00b", "\xff"} {
			in(t, s, account, func(tn *store.Tenant) error {
				d := device("d")
				d.Name = bad
				if err := store.In[store.Device](tn).Insert(&d); !errors.Is(err, store.ErrInvalid) {
					t.Errorf("name %q: %v, want ErrInvalid", bad, err)
				}
				return nil
			})
		}
	})
}

func TestFilters(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
		in(t, s, account, func(tn *store.Tenant) error {
			for i, name := range []string{"alpha_1", "Beta%2", `gam\ma`, "delta"} {
				u := store.User{Name: fmt.Sprint(i), DisplayName: name, Role: api.RoleAuditor, FailedLogOns: i}
				if i > 0 {
					// one with a fraction of a second: text times must still order right
					at := day(i).Add(time.Duration(i-1) * 500 * time.Millisecond)
					u.LastLogOnAt = &at
				}
				if err := store.In[store.User](tn).Insert(&u); err != nil {
					return err
				}
			}
			return nil
		})
		for name, c := range map[string]struct {
			filters []store.Filter
			want    string
		}{
			"eq":                    {[]store.Filter{store.Eq("display_name", "delta")}, "3"},
			"eq of a named type":    {[]store.Filter{store.Eq("role", api.RoleAuditor)}, "0123"},
			"ne":                    {[]store.Filter{store.Ne("name", "2")}, "013"},
			"one of":                {[]store.Filter{store.OneOf("name", []string{"1", "3", "9"})}, "13"},
			"one of nothing":        {[]store.Filter{store.OneOf("name", []string{})}, ""},
			"before":                {[]store.Filter{store.Before("last_log_on_at", day(2).Add(500*time.Millisecond))}, "1"},
			"after includes":        {[]store.Filter{store.After("last_log_on_at", day(2).Add(500*time.Millisecond))}, "23"},
			"a day":                 {[]store.Filter{store.After("last_log_on_at", day(3)), store.Before("last_log_on_at", day(4))}, "3"},
			"null":                  {[]store.Filter{store.IsNull("last_log_on_at")}, "0"},
			"not null":              {[]store.Filter{store.NotNull("last_log_on_at")}, "123"},
			"equal in any case":     {[]store.Filter{store.EqFold("display_name", "BETA%2")}, "1"},
			"like any case":         {[]store.Filter{store.Like("display_name", "ALPHA")}, "0"},
			"like a plain percent":  {[]store.Filter{store.Like("display_name", "%")}, "1"},
			"like a plain line":     {[]store.Filter{store.Like("display_name", "_")}, "0"},
			"like a plain stroke":   {[]store.Filter{store.Like("display_name", `\`)}, "2"},
			"at least":              {[]store.Filter{store.AtLeast("failed_log_ons", 2)}, "23"},
			"at most":               {[]store.Filter{store.AtMost("failed_log_ons", 2)}, "012"},
			"ascending":             {[]store.Filter{store.Asc("display_name")}, "1032"},
			"descending, two":       {[]store.Filter{store.Desc("failed_log_ons"), store.Limit(2)}, "32"},
			"second page":           {[]store.Filter{store.Asc("name"), store.Limit(2), store.Offset(2)}, "23"},
			"for update":            {[]store.Filter{store.ForUpdate(), store.Eq("name", "1")}, "1"},
			"a value that is SQL":   {[]store.Filter{store.Eq("name", "1' OR '1'='1")}, ""},
			"a value with NUL":      {[]store.Filter{store.Eq("name", "1\x00")}, ""},
			"a value in latin-1":    {[]store.Filter{store.Eq("display_name", "\xff")}, ""},
			"one of, one with NUL":  {[]store.Filter{store.OneOf("name", []string{"1", "3\x00"})}, "1"},
			"one of, all with NUL":  {[]store.Filter{store.OneOf("name", []string{"\x00"})}, ""},
			"like with NUL":         {[]store.Filter{store.Like("display_name", "a\x00")}, ""},
			"any case with NUL":     {[]store.Filter{store.EqFold("display_name", "delta\x00")}, ""},
			"only some columns":     {[]store.Filter{store.Only("id", "name"), store.Eq("display_name", "delta")}, "3"},
			"filters are conjoined": {[]store.Filter{store.Eq("name", "1"), store.Eq("name", "2")}, ""},
		} {
			in(t, s, account, func(tn *store.Tenant) error {
				users, err := store.In[store.User](tn).List(c.filters...)
				got := ""
				for _, u := range users {
					got += u.Name
				}
				if got != c.want {
					t.Errorf("%s: users %q, want %q", name, got, c.want)
				}
				return err
			})
		}
		in(t, s, account, func(tn *store.Tenant) error {
			for _, f := range []store.Filter{store.Eq("name = '' OR 1=1 --", 1), store.Asc("name; DROP TABLE users"), store.Eq("Name", "1"), store.Limit(0), store.Offset(-1)} {
				if _, err := store.In[store.User](tn).List(f); err == nil {
					t.Error("a filter on no column, or on no rows, was accepted")
				}
			}
			if n, err := store.In[store.User](tn).Count(store.Desc("name"), store.Limit(1)); n != 4 || err != nil {
				t.Errorf("Count with order and limit = %d (%v), want 4", n, err)
			}
			if _, err := store.In[store.User](tn).List(store.Ne("name", "\x00")); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("Ne of a text with NUL: %v, want ErrInvalid", err)
			}
			if _, err := store.In[store.User](tn).List(store.Only("id", "version")); err == nil {
				t.Error("a part of a row with its version was read")
			}
			part, err := store.In[store.User](tn).First(store.Only("id", "account_id", "name"), store.Eq("name", "3"))
			if err != nil || part.DisplayName != "" || part.Name != "3" {
				t.Errorf("a part of a row is %+v, %v", part, err)
			}
			if err := store.In[store.User](tn).Update(&part); !errors.Is(err, store.ErrStale) {
				t.Errorf("storing a part of a row: %v, want ErrStale", err)
			}
			if _, err := store.In[store.User](tn).DeleteWhere(); err == nil {
				t.Error("DeleteWhere without a filter was accepted")
			}
			return nil
		})
	})
}

func TestTx_keepsNothingOfAFailedTransaction(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		boom := errors.New("boom")
		committed := false
		err := s.Tx(ctx, func(tx *store.Tx) error {
			tx.AfterCommit(func() { committed = true })
			d := device("d")
			if err := store.In[store.Device](tx.Tenant(account)).Insert(&d); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) || committed {
			t.Errorf("Tx = %v, AfterCommit ran: %v; want boom and false", err, committed)
		}
		in(t, s, account, func(tn *store.Tenant) error {
			n, err := store.In[store.Device](tn).Count()
			if n != 0 {
				t.Errorf("%d devices are left of a failed transaction", n)
			}
			tn.AfterCommit(func() { committed = true })
			return err
		})
		if !committed {
			t.Error("AfterCommit did not run after a commit")
		}
	})
}

func TestView_cannotWrite(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		err := s.View(ctx, func(tx *store.Tx) error {
			d := device("d")
			return store.In[store.Device](tx.Tenant(account)).Insert(&d)
		})
		if err == nil {
			t.Error("a write inside View was accepted")
		}
	})
}

// Two brokers count up one row from many goroutines. Any lost update shows in the sum.
func TestTx_twoBrokersLoseNoUpdate(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		brokers := []*store.Store{storetest.Open(t, dsn, nil), storetest.Open(t, dsn, nil)}
		account := newAccount(t, brokers[0], "acme")
		u := store.User{Name: "u", Role: api.RoleAuditor}
		in(t, brokers[0], account, func(tn *store.Tenant) error { return store.In[store.User](tn).Insert(&u) })
		const workers, each = 8, 5
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for range each {
					if err := brokers[w%2].Tx(ctx, func(tx *store.Tx) error {
						table := store.In[store.User](tx.Tenant(account))
						row, err := table.Get(u.ID)
						if err != nil {
							return err
						}
						row.FailedLogOns++
						return table.Update(&row)
					}); err != nil {
						t.Errorf("counting up: %v", err)
					}
				}
			})
		}
		wg.Wait()
		in(t, brokers[1], account, func(tn *store.Tenant) error {
			row, err := store.In[store.User](tn).Get(u.ID)
			if row.FailedLogOns != workers*each {
				t.Errorf("counted to %d, want %d", row.FailedLogOns, workers*each)
			}
			return err
		})
	})
}

func TestEachTenant_visitsAllInOrder(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := storetest.Open(t, dsn, func() time.Time { at = at.Add(time.Second); return at })
		want := []string{newAccount(t, s, "z"), newAccount(t, s, "y"), newAccount(t, s, "x")}
		var got []string
		if err := s.View(ctx, func(tx *store.Tx) error {
			return tx.EachTenant(func(tn *store.Tenant) error { got = append(got, tn.AccountID()); return nil })
		}); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("visited %v, want %v", got, want)
		}
	})
}

func TestLookups_findTheTenant(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		newAccount(t, s, "other")
		account := newAccount(t, s, "Acme")
		hash := func(b byte) []byte { return []byte(strings.Repeat(string(rune(b)), 32)) }
		u := store.User{Name: "u", Role: api.RoleAuditor}
		token := store.EnrolToken{SecretHash: hash('t')}
		instance := store.Instance{Provider: "native", Identity: "m", CertFingerprint: hash('c')}
		in(t, s, account, func(tn *store.Tenant) error {
			if err := store.In[store.User](tn).Insert(&u); err != nil {
				return err
			}
			session := store.Session{UserID: u.ID, TokenHash: hash('s')}
			return errors.Join(store.In[store.Session](tn).Insert(&session), store.In[store.EnrolToken](tn).Insert(&token), store.In[store.Instance](tn).Insert(&instance))
		})
		if err := s.View(ctx, func(tx *store.Tx) error {
			session, err1 := tx.FindSession(hash('s'))
			found, err2 := tx.FindEnrolToken(token.ID)
			machine, err3 := tx.FindInstanceByCert(hash('c'))
			byName, err4 := tx.FindAccount("ACME")
			byID, err5 := tx.FindAccount(account)
			for _, got := range []string{session.AccountID, found.AccountID, machine.AccountID, byName.ID, byID.ID} {
				if got != account {
					t.Errorf("found account %q, want %q", got, account)
				}
			}
			for name, err := range map[string]error{
				"session":     second(tx.FindSession(hash('x'))),
				"token":       second(tx.FindEnrolToken("x")),
				"certificate": second(tx.FindInstanceByCert(hash('x'))),
				"no hash":     second(tx.FindInstanceByCert(nil)),
				"account":     second(tx.FindAccount("%")),
				"NUL":         second(tx.FindAccount("a\x00")),
				"latin-1":     second(tx.FindEnrolToken("\xff")),
			} {
				if !errors.Is(err, store.ErrNotFound) {
					t.Errorf("unknown %s: %v, want ErrNotFound", name, err)
				}
			}
			return errors.Join(err1, err2, err3, err4, err5)
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestOpen_keepsRowsAndRefusesANewerSchema(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		s := storetest.Open(t, dsn, nil)
		account := newAccount(t, s, "acme")
		again := storetest.Open(t, dsn, nil)
		in(t, again, account, func(tn *store.Tenant) error {
			_, err := tn.Tx().FindAccount("acme")
			return err
		})
		if err := again.Ping(ctx); err != nil {
			t.Errorf("Ping: %v", err)
		}
		if err := store.ExecForTest(again, "INSERT INTO schema_version (version_id, is_applied) VALUES (99999, true)"); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(ctx, store.Options{DSN: dsn}); err == nil || !strings.Contains(err.Error(), "newer keyward-broker") {
			t.Errorf("opening a newer database: %v, want a refusal that names the newer program", err)
		}
	})
}

func TestOpen_refusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte(strings.Repeat("not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dsn := range []string{"", "mysql://x", "sqlite:", "sqlite:" + dir + "/no/such/folder/x.db", "sqlite:" + dir + "/text", "postgres://user:hunter2@%zz/"} {
		s, err := store.Open(ctx, store.Options{DSN: dsn})
		if err == nil {
			s.Close()
			t.Errorf("address %q was accepted", dsn)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestOpen_sqliteFileIsPrivate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "odd ?#% name.db")
	s := storetest.Open(t, "sqlite:"+path, nil)
	newAccount(t, s, "acme")
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", filepath.Base(p), info.Mode().Perm())
		}
	}
}
