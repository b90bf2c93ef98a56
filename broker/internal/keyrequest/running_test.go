package keyrequest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

var allStatuses = []api.KeyStatus{api.KeyPending, api.KeyApproved, api.KeyDelivered, api.KeyDenied, api.KeyRevokePending, api.KeyRevokeIgnored,
	api.KeyRevoking, api.KeyRevoked, api.KeyExpired, api.KeyFailure}

// crowd is an account with machines, devices and requests in any order of states.
type crowd struct {
	t         *testing.T
	s         *store.Store
	p         tenant.Principal
	instances []store.Instance
	devices   []store.Device
	requests  []store.KeyRequest
}

func newCrowd(t *testing.T, s *store.Store, name string) *crowd {
	t.Helper()
	a := store.Account{Name: name, WrappedKey: []byte("w")}
	if err := s.Tx(context.Background(), func(tx *store.Tx) error { return store.Global[store.Account](tx).Insert(&a) }); err != nil {
		t.Fatal(err)
	}
	return &crowd{t: t, s: s, p: tenant.Principal{AccountID: a.ID}}
}

// add makes machines of two devices each, and requests of random pairs and states.
func (c *crowd) add(machines, requests int, r *rand.Rand) {
	c.t.Helper()
	for machines > 0 || requests > 0 {
		err := c.s.Tx(context.Background(), func(tx *store.Tx) error {
			t := tx.Tenant(c.p.AccountID)
			for range min(machines, 30) {
				machines--
				n := len(c.instances)
				i := store.Instance{Provider: "native", Identity: fmt.Sprint("m", n), HostName: fmt.Sprintf("Host-%03d", n), Missing: n%7 == 3}
				if err := store.In[store.Instance](t).Insert(&i); err != nil {
					return err
				}
				c.instances = append(c.instances, i)
				for k := range 2 {
					d := store.Device{Provider: "native", Identity: fmt.Sprint("d", n, "-", k), Name: fmt.Sprintf("disk %d%%_%d", n, k), Status: api.DeviceEncrypted, InstanceID: i.ID}
					if err := store.In[store.Device](t).Insert(&d); err != nil {
						return err
					}
					c.devices = append(c.devices, d)
				}
			}
			for range min(requests, 100) {
				requests--
				n := r.IntN(len(c.instances))
				k := store.KeyRequest{Number: int64(len(c.requests) + 1), InstanceID: c.instances[n].ID, DeviceID: c.devices[2*n+r.IntN(2)].ID,
					Status: allStatuses[r.IntN(len(allStatuses))], PublicKey: []byte{1}, Integrity: api.IntegrityGood, StatusAt: tx.Now()}
				if err := store.In[store.KeyRequest](t).Insert(&k); err != nil {
					return err
				}
				c.requests = append(c.requests, k)
			}
			return nil
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// shown is what a page shows, said once more in plain words over all rows.
func (c *crowd) shown(expired bool) []store.KeyRequest {
	missing := map[string]bool{}
	for _, i := range c.instances {
		missing[i.ID] = i.Missing
	}
	var out []store.KeyRequest
	for n, r := range slices.Backward(c.requests) {
		followed, onlyByExpired := false, true
		for _, later := range c.requests[n+1:] {
			if later.DeviceID == r.DeviceID && later.InstanceID == r.InstanceID {
				followed = true
				onlyByExpired = onlyByExpired && later.Status == api.KeyExpired
			}
		}
		switch {
		case missing[r.InstanceID], r.Status == api.KeyExpired && !expired:
		case KeyOut(r.Status), !followed:
			out = append(out, r)
		case !expired && onlyByExpired && (r.Status == api.KeyPending || r.Status == api.KeyApproved):
			out = append(out, r)
		}
	}
	return out
}

func TestRunning_pagesAndCountersAreThoseOfAllRows(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		r := rand.New(rand.NewPCG(1, 2))
		c, other := newCrowd(t, s, "acme"), newCrowd(t, s, "other")
		c.add(12, 160, r)
		other.add(3, 20, r)
		svc := New(Deps{Store: s})
		names := map[string]string{}
		for _, i := range c.instances {
			names[i.ID] = i.HostName
		}
		for _, d := range c.devices {
			names[d.ID] = d.Name
		}
		for what, f := range map[string]Filter{
			"everything": {}, "waiting": {Statuses: []api.KeyStatus{api.KeyPending}}, "closed": {Statuses: []api.KeyStatus{api.KeyDenied, api.KeyRevoked, api.KeyExpired, api.KeyFailure}},
			"words of a machine": {Query: "host-00"}, "words of a device": {Query: "DISK 1"}, "wildcards are plain": {Query: "%_1"}, "nothing": {Query: "nobody"},
			"both": {Query: "host-01", Statuses: []api.KeyStatus{api.KeyDelivered, api.KeyApproved}},
		} {
			all := c.shown(slices.Contains(f.Statuses, api.KeyExpired))
			var want []string
			machines, pending, approved := map[string]bool{}, int64(0), int64(0)
			for _, k := range all {
				if k.Status != api.KeyExpired {
					machines[k.InstanceID] = true
				}
				switch k.Status {
				case api.KeyPending:
					pending++
				case api.KeyApproved, api.KeyDelivered:
					approved++
				}
				text := strings.ToLower(names[k.DeviceID] + "\x00" + names[k.InstanceID])
				if (len(f.Statuses) == 0 || slices.Contains(f.Statuses, k.Status)) && strings.Contains(text, strings.ToLower(f.Query)) {
					want = append(want, k.ID)
				}
			}
			for _, size := range []int{0, 1, 7, 100} {
				var got []string
				for page := 1; ; page++ {
					f.Page, f.Size = page, size
					list, err := svc.List(context.Background(), c.p, f)
					if err != nil {
						t.Fatal(err)
					}
					if list.Total != int64(len(want)) || list.Instances != int64(len(machines)) || list.Pending != pending || list.Approved != approved {
						t.Fatalf("%s: total %d, counters %d %d %d; want %d, %d %d %d", what, list.Total, list.Instances, list.Pending, list.Approved, len(want), len(machines), pending, approved)
					}
					for _, row := range list.Rows {
						got = append(got, row.RequestID)
						if row.DeviceName != names[row.DeviceID] || row.InstanceName != names[row.InstanceID] {
							t.Errorf("%s: row %+v has other names", what, row)
						}
					}
					if size == 0 || len(list.Rows) == 0 {
						break
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s in pages of %d: %d rows in another order or number than %d", what, size, len(got), len(want))
				}
			}
		}
	})
}

// A page costs what it shows, not what the account has: counted in rows, because time says nothing on a busy machine.
func TestRunning_aPageReadsNoMoreInALargeAccount(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		r := rand.New(rand.NewPCG(3, 4))
		c := newCrowd(t, s, "acme")
		svc := New(Deps{Store: s})
		cost := func() store.Reads {
			before := s.Reads()
			list, err := svc.List(context.Background(), c.p, Filter{Query: "host", Page: 1, Size: 25})
			if err != nil || len(list.Rows) != 25 {
				t.Fatalf("%d rows, %v", len(list.Rows), err)
			}
			after := s.Reads()
			return store.Reads{Statements: after.Statements - before.Statements, Rows: after.Rows - before.Rows}
		}
		c.add(60, 200, r)
		small := cost()
		c.add(600, 2500, r)
		if large := cost(); large.Statements != small.Statements || large.Rows > 25*6+20 {
			t.Errorf("a page reads %+v, and %+v of an account ten times as large", small, large)
		}
	})
}
