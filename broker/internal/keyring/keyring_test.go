package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

var ctx = context.Background()

func fileRoot(t *testing.T) keystore.Root {
	t.Helper()
	r, err := keystore.CreateRootFile(filepath.Join(t.TempDir(), "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// site is a database with accounts that have devices, and the volume keys of those.
type site struct {
	st       *store.Store
	accounts []string
	keys     map[string][]byte
}

func newSite(t *testing.T, st *store.Store, root keystore.Root, accounts, devices int) *site {
	t.Helper()
	s := &site{st: st, keys: map[string][]byte{}}
	for i := range accounts {
		s.account(t, root, fmt.Sprintf("account-%d", i), devices)
	}
	return s
}

func (s *site) account(t *testing.T, root keystore.Root, name string, devices int) {
	t.Helper()
	a, err := keystore.NewAccountKey(root, name)
	if err != nil {
		t.Fatal(err)
	}
	s.accounts = append(s.accounts, name)
	if err := s.st.Tx(ctx, func(tx *store.Tx) error {
		if err := store.Global[store.Account](tx).Insert(&store.Account{ID: name, Name: name, TimeZone: "UTC", WrappedKey: a.Wrapped, RootKeyID: a.RootKeyID, KeyGeneration: 1}); err != nil {
			return err
		}
		tn := tx.Tenant(name)
		for i := range devices {
			d := store.Device{Provider: "native", Identity: fmt.Sprint(i), Name: "d", Size: 1, Status: api.DeviceConfigured, KeyBits: 256}
			if err := store.In[store.Device](tn).Insert(&d); err != nil {
				return err
			}
			now, err := inventory.NewKey(tn, root, d)
			if err != nil {
				return err
			}
			if i%3 == 0 { // its rotation waits: the pending key is carried as well
				next, err := keystore.NextDeviceKey(root, a, inventory.WrappedKey(now), 2)
				if err != nil {
					return err
				}
				if err := store.In[store.DeviceKey](tn).Insert(&store.DeviceKey{DeviceID: d.ID, Bits: next.Bits, Cipher: next.Cipher, Generation: 2,
					AccountGeneration: next.AccountGeneration, Wrapped: next.Wrapped, Pending: true}); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.look(t, root, func(id string, key []byte) { s.keys[id] = key })
}

// look opens every device's key with a root.
func (s *site) look(t *testing.T, root keystore.Root, f func(id string, key []byte)) {
	t.Helper()
	for _, name := range s.accounts {
		if err := s.st.View(ctx, func(tx *store.Tx) error {
			tn := tx.Tenant(name)
			account, err := inventory.AccountKey(tn)
			if err != nil {
				return err
			}
			rows, err := store.In[store.DeviceKey](tn).List()
			for _, r := range rows {
				k, err := keystore.OpenDeviceKey(root, account, inventory.WrappedKey(r))
				if err != nil {
					return err
				}
				id := r.DeviceID
				if r.Pending {
					id += ", pending"
				}
				f(id, k.Bytes())
			}
			return err
		}); err != nil {
			t.Fatalf("opening the keys of %s: %v", name, err)
		}
	}
}

// whole says that a root opens every volume key, and that each is the one that it was.
func (s *site) whole(t *testing.T, when string, root keystore.Root) {
	t.Helper()
	n := 0
	s.look(t, root, func(id string, key []byte) {
		n++
		if !bytes.Equal(s.keys[id], key) {
			t.Errorf("%s: device %s has another key", when, id)
		}
	})
	if n != len(s.keys) {
		t.Errorf("%s: %d of %d keys", when, n, len(s.keys))
	}
}

// secret gives a user of an account a second factor, and the account the key of a manager, and returns what looks whether
// they still open.
func (s *site) secret(t *testing.T, root keystore.Root, account string) func(when string) {
	t.Helper()
	const purpose, managerPurpose = "second factor", "Deep Security API key"
	m := store.DeepSecuritySettings{Port: 4119}
	u := store.User{Name: "ann", Role: api.RoleAccountAdmin}
	err := s.st.Tx(ctx, func(tx *store.Tx) error {
		users := store.In[store.User](tx.Tenant(account))
		if err := users.Insert(&u); err != nil {
			return err
		}
		key, err := inventory.AccountKey(tx.Tenant(account))
		if err != nil {
			return err
		}
		if u.FactorSecret, err = keystore.WrapAccountSecret(root, key, purpose, u.ID, keystore.KeyOf([]byte("seed"))); err != nil {
			return err
		}
		managers := store.In[store.DeepSecuritySettings](tx.Tenant(account))
		if err := managers.Insert(&m); err != nil {
			return err
		}
		if m.WrappedAPIKey, err = keystore.WrapAccountSecret(root, key, managerPurpose, m.ID, keystore.KeyOf([]byte("2:key"))); err != nil {
			return err
		}
		return errors.Join(users.Update(&u), managers.Update(&m))
	})
	if err != nil {
		t.Fatal(err)
	}
	return func(when string) {
		t.Helper()
		if err := s.st.View(ctx, func(tx *store.Tx) error {
			row, err := store.In[store.User](tx.Tenant(account)).Get(u.ID)
			if err != nil {
				return err
			}
			key, err := inventory.AccountKey(tx.Tenant(account))
			if err != nil {
				return err
			}
			got, err := keystore.OpenAccountSecret(root, key, purpose, u.ID, row.FactorSecret)
			if err == nil && string(got.Bytes()) != "seed" {
				err = errors.New("it is another one")
			}
			if err != nil {
				return fmt.Errorf("the second factor: %w", err)
			}
			manager, err := store.In[store.DeepSecuritySettings](tx.Tenant(account)).Get(m.ID)
			if err != nil {
				return err
			}
			if got, err = keystore.OpenAccountSecret(root, key, managerPurpose, m.ID, manager.WrappedAPIKey); err == nil && string(got.Bytes()) != "2:key" {
				err = errors.New("it is another one")
			}
			if err != nil {
				return fmt.Errorf("the manager's key: %w", err)
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

func (s *site) events(t *testing.T, account, event string) int {
	t.Helper()
	var n int64
	if err := s.st.View(ctx, func(tx *store.Tx) (err error) {
		n, err = store.In[store.AuditRecord](tx.Tenant(account)).Count(store.Eq("event", event))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return int(n)
}

func settled(t *testing.T, st *store.Store, ring *keystore.Ring) *Service {
	t.Helper()
	s := New(st, ring)
	if err := s.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

var errCrash = errors.New("the test ends the rotation here")

// crashAt ends a rotation at its n-th step.
func crashAt(n int) func(string) error {
	return func(string) error {
		if n--; n == 0 {
			return errCrash
		}
		return nil
	}
}

func nothing() error { return nil }

// Wherever a rotation of the root is cut off, both roots together open every key, and repeating it ends it.
func TestRotateRoot_cutOffAtEveryStep(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		old, next := fileRoot(t), fileRoot(t)
		st := storetest.Open(t, dsn, nil)
		site := newSite(t, st, old, 3, 2)
		settled(t, st, keystore.NewRing(old))
		cut := 0
		for step := 1; ; step++ {
			s := settled(t, st, keystore.NewRing(old, next))
			s.step = crashAt(step)
			err := s.RotateRoot(ctx, next, nothing, nil)
			site.whole(t, fmt.Sprintf("cut off at step %d", step), keystore.NewRing(old, next))
			if err == nil {
				break
			}
			if !errors.Is(err, errCrash) {
				t.Fatalf("step %d: %v", step, err)
			}
			cut++
			// A new account of meanwhile is wrapped by the one that takes over.
			running := settled(t, st, keystore.NewRing(old, next))
			if running.ring.ID() != next.ID() {
				t.Errorf("step %d: a broker that starts wraps with %s", step, running.ring.ID())
			}
			if step == 2 {
				site.account(t, running.ring, "newcomer", 1)
			}
			// A broker without the new root does not start.
			if err := New(st, keystore.NewRing(old)).Settle(ctx); step >= 2 && (err == nil || !strings.Contains(err.Error(), next.ID())) {
				t.Errorf("step %d: a broker without the new root key: %v", step, err)
			}
		}
		if cut < 2 {
			t.Errorf("the rotation was cut off %d times only", cut)
		}
		site.whole(t, "afterwards", next)
		settled(t, st, keystore.NewRing(next))
		for _, a := range site.accounts {
			if n, want := site.events(t, a, "account-key.root-changed"), 1; a != "newcomer" && n != want {
				t.Errorf("%s has %d records of the change, want %d", a, n, want)
			}
		}
		keys, err := New(st, keystore.NewRing(next)).List(ctx)
		if err != nil || len(keys) != 2 || keys[0].ID != old.ID() || keys[0].RetiredAt == nil || keys[0].Accounts != 0 || keys[0].Here ||
			!keys[1].Active || keys[1].Accounts != 4 || !keys[1].Here {
			t.Errorf("%+v, %v", keys, err)
		}
		if err := New(st, keystore.NewRing(old)).Settle(ctx); err == nil || !strings.Contains(err.Error(), "--root-key-next") {
			t.Errorf("a broker with the retired root key only: %v", err)
		}
	})
}

// Brokers that run and do not have the new root would be left behind: the rotation waits for them.
func TestRotateRoot_waitsForEveryRunningBroker(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		now := time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)
		st := storetest.Open(t, dsn, func() time.Time { return now })
		old, next := fileRoot(t), fileRoot(t)
		site := newSite(t, st, old, 1, 1)
		behind, ready := settled(t, st, keystore.NewRing(old)), settled(t, st, keystore.NewRing(old, next))
		for _, s := range []*Service{behind, ready, ready} {
			if err := s.Hold(ctx); err != nil {
				t.Fatal(err)
			}
		}
		operator := settled(t, st, keystore.NewRing(old, next))
		if err := operator.RotateRoot(ctx, next, nothing, nil); err == nil || !strings.Contains(err.Error(), behind.host) {
			t.Errorf("with a broker that lacks the new root key: %v", err)
		}
		site.whole(t, "refused", old)
		if err := behind.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		if err := operator.RotateRoot(ctx, next, nothing, nil); err != nil {
			t.Fatal(err)
		}
		if err := ready.Hold(ctx); err != nil || ready.ring.ID() != next.ID() {
			t.Errorf("the running broker wraps with %s: %v", ready.ring.ID(), err)
		}
		// One that was killed is not waited for for ever.
		third := fileRoot(t)
		if err := operator.RotateRoot(ctx, third, nothing, nil); err == nil {
			t.Error("the running broker lacks the third root key")
		}
		now = now.Add(silentAfter + time.Second)
		if err := operator.RotateRoot(ctx, third, nothing, nil); err != nil {
			t.Errorf("with a broker that fell silent: %v", err)
		}
		site.whole(t, "afterwards", third)
	})
}

// broken gives back something else than it took.
type broken struct{ keystore.Root }

func (broken) Unwrap(_, _ []byte) (keystore.Key, error) {
	return keystore.KeyOf(make([]byte, 52)), nil
}

func TestRotateRoot_toWhatDoesNotGiveBackChangesNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		old := fileRoot(t)
		site := newSite(t, st, old, 1, 1)
		s := settled(t, st, keystore.NewRing(old))
		if err := s.RotateRoot(ctx, broken{fileRoot(t)}, nothing, nil); err == nil || !strings.Contains(err.Error(), "do not use it") {
			t.Errorf("got %v", err)
		}
		site.whole(t, "refused", old)
		settled(t, st, keystore.NewRing(old))
	})
}

// Wherever a rotation of an account's key is cut off, every device's key opens, new ones too, and repeating it ends it.
func TestRotateAccount_cutOffAtEveryStep(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		root := fileRoot(t)
		site := newSite(t, st, root, 2, rewrapBatch+5)
		p := tenant.Principal{AccountID: site.accounts[0], Operator: true}
		generation := int64(1)
		secret := site.secret(t, root, p.AccountID)
		for step := 1; step <= 4; step++ {
			s := settled(t, st, keystore.NewRing(root))
			s.step = crashAt(step)
			got, err := s.RotateAccount(ctx, p, nil)
			site.whole(t, fmt.Sprintf("cut off at step %d", step), root)
			secret(fmt.Sprintf("cut off at step %d", step))
			if err == nil {
				generation = got
				continue
			}
			if !errors.Is(err, errCrash) {
				t.Fatalf("step %d: %v", step, err)
			}
			// A device that gets its key meanwhile.
			if err := st.Tx(ctx, func(tx *store.Tx) error {
				tn := tx.Tenant(p.AccountID)
				d := store.Device{Provider: "native", Identity: fmt.Sprint("late", step), Name: "d", Size: 1, Status: api.DeviceConfigured, KeyBits: 128}
				if err := store.In[store.Device](tn).Insert(&d); err != nil {
					return err
				}
				_, err := inventory.NewKey(tn, root, d)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			site.look(t, root, func(id string, key []byte) {
				if site.keys[id] == nil {
					site.keys[id] = key
				}
			})
		}
		if generation < 2 {
			t.Errorf("generation %d", generation)
		}
		site.whole(t, "afterwards", root)
		secret("afterwards")
		var row, other store.Account
		var behind int64
		if err := st.View(ctx, func(tx *store.Tx) (err error) {
			if row, err = store.Global[store.Account](tx).Get(p.AccountID); err != nil {
				return err
			}
			if other, err = store.Global[store.Account](tx).Get(site.accounts[1]); err != nil {
				return err
			}
			behind, err = store.In[store.DeviceKey](tx.Tenant(p.AccountID)).Count(store.Ne("account_generation", row.KeyGeneration))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if len(row.EarlierKeys) != 0 || behind != 0 || row.KeyGeneration != generation {
			t.Errorf("%d earlier keys, %d device keys behind, generation %d of %d", len(row.EarlierKeys), behind, row.KeyGeneration, generation)
		}
		if other.KeyGeneration != 1 {
			t.Error("another account's key was rotated")
		}
		if began, ended := site.events(t, p.AccountID, "account-key.rotation-began"), site.events(t, p.AccountID, "account-key.rotated"); began != ended || int64(ended) != generation-1 {
			t.Errorf("%d rotations began and %d ended, generation %d", began, ended, generation)
		}
	})
}

// The root may change while an account's key does.
func TestRotateRoot_inTheMiddleOfAnAccountsRotation(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		old, next := fileRoot(t), fileRoot(t)
		site := newSite(t, st, old, 1, rewrapBatch+5)
		p := tenant.Principal{AccountID: site.accounts[0], Operator: true}
		s := settled(t, st, keystore.NewRing(old))
		s.step = crashAt(2)
		if _, err := s.RotateAccount(ctx, p, nil); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		s.step = crashAt(0)
		if err := s.RotateRoot(ctx, next, nothing, nil); err != nil {
			t.Fatal(err)
		}
		site.whole(t, "both unfinished", next)
		if _, err := settled(t, st, keystore.NewRing(next)).RotateAccount(ctx, p, nil); err != nil {
			t.Fatal(err)
		}
		site.whole(t, "afterwards", next)
	})
}
