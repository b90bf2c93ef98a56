package inventory

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// Pages of every size, put together, are the list that is read whole, whatever is searched for.
func TestDevices_pagesTogetherAreTheWholeList(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		ctx := context.Background()
		a := store.Account{Name: "acme", WrappedKey: []byte("w")}
		if err := s.Tx(ctx, func(tx *store.Tx) error { return store.Global[store.Account](tx).Insert(&a) }); err != nil {
			t.Fatal(err)
		}
		p := tenant.Principal{AccountID: a.ID}
		if err := s.Tx(ctx, func(tx *store.Tx) error {
			tn := tx.Tenant(a.ID)
			inst := store.Instance{Provider: "native", Identity: "m", HostName: "machine"}
			if err := store.In[store.Instance](tn).Insert(&inst); err != nil {
				return err
			}
			var sets []string
			for _, name := range []string{"aaa", "Disk-05", "disk-5", "Émile", "zzz"} {
				r := store.RAIDSet{Name: name, Status: api.DeviceConfigured}
				if err := store.In[store.RAIDSet](tn).Insert(&r); err != nil {
					return err
				}
				sets = append(sets, r.ID)
			}
			for i := range 23 {
				d := store.Device{Provider: "native", Identity: fmt.Sprint(i), Name: fmt.Sprintf([]string{"disk-%d", "DISK-%02d", "Ärger %d", "x_%d"}[i%4], i),
					Status: []api.DeviceStatus{api.DeviceNotConfigured, api.DeviceConfigured}[i%2], InstanceID: inst.ID, MountPoint: fmt.Sprintf("/Data/%d", i)}
				if i < len(sets) {
					d.RAIDSetID = sets[i]
				}
				if err := store.In[store.Device](tn).Insert(&d); err != nil {
					return err
				}
				if err := store.In[store.DeviceKey](tn).Insert(&store.DeviceKey{DeviceID: d.ID, Bits: 256, Generation: 1, Wrapped: []byte("w")}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		svc := &Service{Deps: Deps{Store: s}}
		for name, q := range map[string]DeviceQuery{
			"everything": {}, "a status": {Status: []api.DeviceStatus{api.DeviceConfigured}}, "words": {Search: "DISK-"}, "a mount point": {Search: "/data/1"},
			"a wildcard": {Search: "x_"}, "nothing": {Search: "%"},
		} {
			whole, total, err := svc.Devices(ctx, p, q)
			if err != nil {
				t.Fatal(err)
			}
			for size := 1; size <= 30; size += 3 {
				var got []api.Device
				for page := 1; ; page++ {
					q.Page, q.Size = page, size
					rows, n, err := svc.Devices(ctx, p, q)
					if err != nil || n != total || len(rows) > size {
						t.Fatalf("%s: page %d of %d: %d rows of %d (%v), want %d in all", name, page, size, len(rows), n, err, total)
					}
					if len(rows) == 0 {
						break
					}
					got = append(got, rows...)
				}
				if len(got) != len(whole) || len(whole) > 0 && !reflect.DeepEqual(got, whole) {
					t.Errorf("%s in pages of %d: %s\nwhole: %s", name, size, namesIn(got), namesIn(whole))
				}
			}
		}
		if rows, total, err := svc.Devices(ctx, p, DeviceQuery{Page: 1 << 40, Size: 25}); err != nil || len(rows) != 0 || total != 28 {
			t.Errorf("beyond the end: %d rows of %d, %v", len(rows), total, err)
		}
	})
}

func namesIn(list []api.Device) (out []string) {
	for _, d := range list {
		out = append(out, d.Name)
	}
	return out
}
