package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// What is read of many machines at once is what is read of each: devices at home, devices seen elsewhere, both, and none.
func TestSightedPoliciesOf_isThatOfEachMachine(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		ctx := context.Background()
		a := store.Account{Name: "acme", WrappedKey: []byte("w")}
		if err := s.Tx(ctx, func(tx *store.Tx) error { return store.Global[store.Account](tx).Insert(&a) }); err != nil {
			t.Fatal(err)
		}
		if err := s.Tx(ctx, func(tx *store.Tx) error {
			tn := tx.Tenant(a.ID)
			var policies, machines []string
			for i := range 3 {
				p := store.Policy{Name: fmt.Sprint("p", i), LeaseSeconds: 10, HeartbeatSeconds: 1, OnMatch: api.ActionApprove, OnFailure: api.ActionDeny, RevokeMode: api.RevokeUnmount}
				if err := store.In[store.Policy](tn).Insert(&p); err != nil {
					return err
				}
				policies = append(policies, p.ID)
			}
			for i := range 20 {
				m := store.Instance{Provider: "native", Identity: fmt.Sprint("m", i), HostName: "h"}
				if err := store.In[store.Instance](tn).Insert(&m); err != nil {
					return err
				}
				machines = append(machines, m.ID)
			}
			for i := range 40 { // machines from 15 have none of their own, and the last see none
				d := store.Device{Provider: "native", Identity: fmt.Sprint(i), Name: fmt.Sprint("d", i), Status: api.DeviceNotConfigured,
					PolicyID: policies[i*7%3], InstanceID: machines[i%15]}
				if err := store.In[store.Device](tn).Insert(&d); err != nil {
					return err
				}
				seers := []string{machines[i%15]}
				if i%2 == 0 {
					seers = append(seers, machines[(i*5+3)%18])
				}
				for _, m := range slices.Compact(seers) {
					if err := store.In[store.DeviceSighting](tn).Insert(&store.DeviceSighting{DeviceID: d.ID, InstanceID: m}); err != nil {
						return err
					}
				}
			}
			all, err := SightedPoliciesOf(tn, machines)
			if err != nil {
				return err
			}
			several := 0
			for i, m := range machines {
				want, err := SightedPolicies(tn, m)
				if err != nil {
					return err
				}
				got := slices.Sorted(slices.Values(all[m]))
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("machine %d: %v, alone %v", i, got, want)
				}
				if len(got) > 1 {
					several++
				}
			}
			if several == 0 || len(all) < 16 || len(all) == len(machines) {
				return errors.New("the machines of this test are all alike")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
