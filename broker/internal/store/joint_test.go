package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// foreseen is what claim reads.
func foreseen(deviceID string) []store.Read {
	return []store.Read{store.Row[store.Device](store.Eq("id", deviceID), store.ForUpdate()),
		store.Rows[store.DeviceSighting](store.Eq("device_id", deviceID)),
		store.Number[store.DeviceSighting](store.Eq("device_id", deviceID))}
}

var errClaimed = errors.New("somebody has it")

// claim notes an instance with a device that nobody has, and fails for a device that somebody has: what two that run at the
// same time must never both do, and nothing but what they read keeps them from it. With counts it also changes the device.
func claim(t *store.Tenant, deviceID, instanceID string, counts bool) error {
	d, err := store.In[store.Device](t).First(store.Eq("id", deviceID), store.ForUpdate())
	if err != nil {
		return err
	}
	held, err := store.In[store.DeviceSighting](t).List(store.Eq("device_id", deviceID))
	if err != nil {
		return err
	}
	n, err := store.In[store.DeviceSighting](t).Count(store.Eq("device_id", deviceID))
	if err != nil {
		return err
	}
	if int(n) != len(held) {
		return fmt.Errorf("%d rows are counted and %d read", n, len(held))
	}
	if counts {
		d.Description += "x"
		if err := store.In[store.Device](t).UpdateLater(&d); err != nil {
			return err
		}
	}
	if len(held) > 0 {
		return errClaimed
	}
	return store.In[store.DeviceSighting](t).InsertLater(&store.DeviceSighting{DeviceID: deviceID, InstanceID: instanceID})
}

// estate stores machines and devices.
func estate(t *testing.T, s *store.Store, account string, machines, devices int) (instanceIDs, deviceIDs []string) {
	t.Helper()
	in(t, s, account, func(tn *store.Tenant) error {
		image := store.Image{Provider: "native", Identity: "image", Name: "image"}
		if err := store.In[store.Image](tn).Insert(&image); err != nil {
			return err
		}
		for i := range machines {
			now := tn.Now()
			m := store.Instance{Provider: "native", Identity: fmt.Sprint("m", i), HostName: "h", ImageID: image.ID, CertFingerprint: []byte(uuid.NewString()[:32]),
				CertExpiresAt: now, FirstSeenAt: now, LastSeenAt: &now}
			if err := store.In[store.Instance](tn).Insert(&m); err != nil {
				return err
			}
			instanceIDs = append(instanceIDs, m.ID)
		}
		for i := range devices {
			d := device(fmt.Sprint("d", i))
			if err := store.In[store.Device](tn).Insert(&d); err != nil {
				return err
			}
			deviceIDs = append(deviceIDs, d.ID)
		}
		return nil
	})
	return instanceIDs, deviceIDs
}

// What is read for those that wait must not be what the ones before them have changed meanwhile.
func TestTxAhead_whoWaitsSeesWhatTheOthersWrote(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		machines, devices := estate(t, s, account, 12, 2)
		var parts []func() error
		for i, m := range machines {
			id := devices[min(i/6, 1)]
			parts = append(parts, func() error {
				return s.TxAhead(ctx, account, foreseen(id), func(tx *store.Tx) error { return claim(tx.Tenant(account), id, m, false) })
			})
		}
		got := 0
		for _, err := range crowded(t, s, parts...) {
			if err == nil {
				got++
			} else if !errors.Is(err, errClaimed) {
				t.Error(err)
			}
		}
		if got != 2 {
			t.Errorf("%d of two devices were claimed", got)
		}
	})
}

// Transactions of several kinds on few rows, of two brokers on PostgreSQL: each device is claimed once, and every change
// that was acknowledged is there.
func TestTxAhead_mixedWithOthersLosesNothing(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		brokers := []*store.Store{storetest.Open(t, dsn, nil)}
		if s := brokers[0]; store.IsPostgresForTest(s) {
			brokers = append(brokers, storetest.Open(t, dsn, nil))
		}
		account := newAccount(t, brokers[0], "acme")
		machines, devices := estate(t, brokers[0], account, 8, 12)
		var mu sync.Mutex
		changed := map[string]int{}
		var wg sync.WaitGroup
		for i, m := range machines {
			wg.Go(func() {
				s := brokers[i%len(brokers)]
				random := rand.New(rand.NewPCG(1, uint64(i)))
				for range 25 {
					id := devices[random.IntN(len(devices))]
					reads := foreseen(id)
					var err error
					kind := random.IntN(4)
					switch kind {
					case 0: // changes a row at once
						err = s.Tx(ctx, func(tx *store.Tx) error {
							d, err := store.In[store.Device](tx.Tenant(account)).Get(id)
							if err != nil {
								return err
							}
							d.Description += "x"
							return store.In[store.Device](tx.Tenant(account)).Update(&d)
						})
					case 1: // takes a claim back
						err = s.TxAhead(ctx, account, reads[:1], func(tx *store.Tx) error {
							_, err := store.In[store.DeviceSighting](tx.Tenant(account)).DeleteWhere(store.Eq("device_id", id), store.Eq("instance_id", m))
							return err
						})
					default:
						err = s.TxAhead(ctx, account, reads, func(tx *store.Tx) error { return claim(tx.Tenant(account), id, m, kind == 2) })
					}
					mu.Lock()
					switch {
					case err == nil && kind == 0:
						changed[id]++
					case err == nil && kind == 2:
						changed[id]++
					case err != nil && !errors.Is(err, errClaimed):
						t.Errorf("kind %d: %v", kind, err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		in(t, brokers[0], account, func(tn *store.Tenant) error {
			for _, id := range devices {
				d, err := store.In[store.Device](tn).Get(id)
				if err != nil {
					return err
				}
				if len(d.Description) != changed[id] || d.Version != int64(changed[id])+1 {
					t.Errorf("device %s was changed %d times and shows %d, version %d", d.Name, changed[id], len(d.Description), d.Version)
				}
				n, err := store.In[store.DeviceSighting](tn).Count(store.Eq("device_id", id))
				if err != nil {
					return err
				}
				if n > 1 {
					t.Errorf("device %s is claimed %d times at once", d.Name, n)
				}
			}
			return nil
		})
	})
}

// A part that cannot be stored takes nothing of the others with it, and neither does one that fails.
func TestTxAhead_whoFailsFailsAlone(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		machines, devices := estate(t, s, account, 1, 8)
		refused := errors.New("refused")
		var parts []func() error
		for i, id := range devices {
			parts = append(parts, func() error {
				return s.TxAhead(ctx, account, foreseen(id), func(tx *store.Tx) error {
					tn := tx.Tenant(account)
					switch i {
					case 2: // after it has put rows off
						return errors.Join(claim(tn, id, machines[0], true), refused)
					case 5: // a machine that there is not
						return claim(tn, id, "nobody", true)
					}
					return claim(tn, id, machines[0], true)
				})
			})
		}
		for i, err := range crowded(t, s, parts...) {
			switch {
			case i == 2 && !errors.Is(err, refused), i == 5 && !errors.Is(err, store.ErrReferenced), i != 2 && i != 5 && err != nil:
				t.Errorf("part %d: %v", i, err)
			}
		}
		in(t, s, account, func(tn *store.Tenant) error {
			n, err := store.In[store.DeviceSighting](tn).Count()
			if n != 6 {
				t.Errorf("%d claims, want 6", n)
			}
			return err
		})
	})
}

// On PostgreSQL those that wait cost the round trips of one: reading for all, and storing for all.
func TestTxAhead_isReadAndStoredTogether(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.Postgres(t), nil)
	account := newAccount(t, s, "acme")
	machines, devices := estate(t, s, account, 1, 10)
	var parts []func() error
	for _, id := range devices {
		parts = append(parts, func() error {
			return s.TxAhead(ctx, account, foreseen(id), func(tx *store.Tx) error { return claim(tx.Tenant(account), id, machines[0], true) })
		})
	}
	before, commits := store.BatchesForTest(s), store.CommitsForTest(s)
	for i, err := range crowded(t, s, parts...) {
		if err != nil {
			t.Errorf("part %d: %v", i, err)
		}
	}
	// On a slow machine the group may end before all had their turn.
	groups := store.CommitsForTest(s) - commits
	if n := store.BatchesForTest(s) - before; n > 2*groups {
		t.Errorf("%d round trips for %d parts in %d commits", n, len(parts), groups)
	}
	in(t, s, account, func(tn *store.Tenant) error {
		rows, err := store.In[store.Device](tn).List(store.Eq("description", "x"))
		if len(rows) != len(devices) {
			t.Errorf("%d of %d devices were changed", len(rows), len(devices))
		}
		for _, d := range rows {
			if d.Version != 2 || d.Status != api.DeviceNotConfigured || d.Provider != "native" {
				t.Errorf("stored with others: %+v", d)
			}
		}
		return err
	})
}

// Every kind of row survives being stored with another of its kind, column by column.
func TestJoint_rowsAreStoredAsAlone(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.Postgres(t), nil)
	account := newAccount(t, s, "acme")
	machines, devices := estate(t, s, account, 2, 2)
	var stored [2]store.KeyRequest
	var parts []func() error
	for i := range stored {
		parts = append(parts, func() error {
			return s.TxAhead(ctx, account, foreseen(devices[i]), func(tx *store.Tx) error {
				now := tx.Now()
				r := store.KeyRequest{Number: int64(i + 1), DeviceID: devices[i], InstanceID: machines[i], PolicyID: "p", Status: api.KeyPending,
					Integrity: api.IntegrityGood, Nonce: uuid.NewString(), Reason: "it's \"quoted\", \\ and {braced}, NULL",
					Verdict: api.Verdict{Reason: "r", Findings: []api.Finding{{Fact: "host_name", Condition: `a,b {} NULL "`}}}, PublicKey: []byte{0, 1, 2, byte(i)}}
				if i == 1 {
					r.ApproveAt, r.Mounted, r.PublicKey = &now, true, nil
				}
				if err := store.In[store.KeyRequest](tx.Tenant(account)).InsertLater(&r); err != nil {
					return err
				}
				stored[i] = r
				e := store.KeyRequestEvent{RequestID: r.ID, ToStatus: r.Status, Event: "asked", Actor: "a"}
				return store.In[store.KeyRequestEvent](tx.Tenant(account)).InsertLater(&e)
			})
		})
	}
	for _, err := range crowded(t, s, parts...) {
		if err != nil {
			t.Fatal(err)
		}
	}
	in(t, s, account, func(tn *store.Tenant) error {
		for _, want := range stored {
			got, err := store.In[store.KeyRequest](tn).Get(want.ID)
			if err != nil {
				return err
			}
			if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); len(a) != len(b) || got.Reason != want.Reason ||
				string(got.PublicKey) != string(want.PublicKey) || (got.PublicKey == nil) != (want.PublicKey == nil) || got.Mounted != want.Mounted ||
				(got.ApproveAt == nil) != (want.ApproveAt == nil) || fmt.Sprint(got.Verdict) != fmt.Sprint(want.Verdict) {
				t.Errorf("stored together:\n%+v\nwant\n%+v", got, want)
			}
		}
		return nil
	})
}

// What is stored with others and with the commit fails as a whole when one row cannot be stored, and then each part alone.
func TestJoint_whatCannotBeStoredIsNotCommitted(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		_, devices := estate(t, s, account, 1, 12)
		var parts []func() error
		for i, id := range devices {
			parts = append(parts, func() error {
				return s.TxAhead(ctx, account, foreseen(id), func(tx *store.Tx) error {
					tn := tx.Tenant(account)
					d, err := store.In[store.Device](tn).First(store.Eq("id", id), store.ForUpdate())
					if err != nil {
						return err
					}
					d.Description = "changed"
					if err := store.In[store.Device](tn).UpdateLater(&d); err != nil {
						return err
					}
					image := store.Image{Provider: "native", Identity: fmt.Sprint("same ", i/6), Name: "n"}
					return store.In[store.Image](tn).InsertLater(&image)
				})
			})
		}
		stored := 0
		for _, err := range crowded(t, s, parts...) {
			if err == nil {
				stored++
			} else if !errors.Is(err, store.ErrDuplicate) {
				t.Error(err)
			}
		}
		in(t, s, account, func(tn *store.Tenant) error {
			rows, err := store.In[store.Device](tn).List(store.Eq("description", "changed"))
			if stored != 2 || len(rows) != stored {
				t.Errorf("%d parts were acknowledged and %d devices changed, want 2", stored, len(rows))
			}
			return err
		})
	})
}

// A connection that broke while nobody used it is replaced, also where the transaction begins with what it reads.
func TestTxAhead_aBrokenConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.Postgres(t), nil)
	account := newAccount(t, s, "acme")
	machines, devices := estate(t, s, account, 1, 3)
	for _, id := range devices {
		if err := store.ExecForTest(s, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
		if err := s.TxAhead(ctx, account, foreseen(id), func(tx *store.Tx) error { return claim(tx.Tenant(account), id, machines[0], true) }); err != nil {
			t.Errorf("after the connection broke: %v", err)
		}
	}
	in(t, s, account, func(tn *store.Tenant) error {
		n, err := store.In[store.DeviceSighting](tn).Count()
		if int(n) != len(devices) {
			t.Errorf("%d of %d claims are stored", n, len(devices))
		}
		return err
	})
}

// What groups read in common is read anew by each: only which rows those are is remembered.
func TestSteady_isReadAnewByEveryGroup(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		s, other := storetest.Open(t, dsn, nil), storetest.Open(t, dsn, nil)
		account := newAccount(t, s, "acme")
		_, devices := estate(t, s, account, 1, 1)
		policy := store.Policy{Name: "p", LeaseSeconds: 10, HeartbeatSeconds: 1, OnMatch: "approve", OnFailure: "deny", RevokeMode: "unmount"}
		in(t, s, account, func(tn *store.Tenant) error { return store.In[store.Policy](tn).Insert(&policy) })
		seen := func(tx *store.Tx) (lease, images int64) {
			t.Helper()
			tn := tx.Tenant(account)
			row, err := store.In[store.Policy](tn).Steady(policy.ID)
			if err == nil {
				images, err = store.In[store.PolicyImage](tn).SteadyCount(policy.ID, store.Eq("policy_id", policy.ID))
			}
			if err != nil {
				t.Error(err)
			}
			return row.LeaseSeconds, images
		}
		for round := 1; round <= 4; round++ {
			in(t, other, account, func(tn *store.Tenant) error { // another broker, as far as PostgreSQL knows
				row, err := store.In[store.Policy](tn).Get(policy.ID)
				if err != nil {
					return err
				}
				row.LeaseSeconds = int64(round)
				image := store.Image{Provider: "native", Identity: fmt.Sprint("image", round), Name: "n"}
				if err := errors.Join(store.In[store.Policy](tn).Update(&row), store.In[store.Image](tn).Insert(&image)); err != nil {
					return err
				}
				return store.In[store.PolicyImage](tn).Insert(&store.PolicyImage{PolicyID: policy.ID, ImageID: image.ID})
			})
			if err := s.TxAhead(ctx, account, foreseen(devices[0]), func(tx *store.Tx) error {
				if lease, images := seen(tx); lease != int64(round) || images != int64(round) {
					t.Errorf("round %d: a lease of %d s and %d images", round, lease, images)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if n := store.UsualForTest(s); store.IsPostgresForTest(s) && n != 2 {
			t.Errorf("%d reads are made with the first of a group, want the policy and its images", n)
		}
		in(t, s, account, func(tn *store.Tenant) error { return store.In[store.Policy](tn).Delete(policy.ID) })
		if err := s.TxAhead(ctx, account, foreseen(devices[0]), func(tx *store.Tx) error {
			if _, err := store.In[store.Policy](tx.Tenant(account)).Steady(policy.ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a policy that was deleted: %v", err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
