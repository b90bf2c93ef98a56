package httpapi_test

import (
	"fmt"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/store"
)

// crowded gives an account machines of no part in the test, each with devices of its own.
func crowded(t *testing.T, o *org, machines, devices int) {
	t.Helper()
	for i := range machines { // a transaction each: one with all of them takes too long on a busy machine
		if err := o.store.Tx(t.Context(), func(tx *store.Tx) error { return crowdMachine(tx.Tenant(o.id), i, devices) }); err != nil {
			t.Fatal(err)
		}
	}
}

func crowdMachine(tn *store.Tenant, n, devices int) error {
	p, err := store.In[store.Policy](tn).First()
	if err != nil {
		return err
	}
	inst := store.Instance{Provider: "native", Identity: fmt.Sprint("crowd-", n), HostName: fmt.Sprint("crowd-", n)}
	if err := store.In[store.Instance](tn).Insert(&inst); err != nil {
		return err
	}
	for k := range devices {
		d := store.Device{Provider: "native", Identity: fmt.Sprint("crowd-", n, "-", k), Name: "disk", Status: api.DeviceEncrypted, InstanceID: inst.ID, PolicyID: p.ID}
		if err := store.In[store.Device](tn).Insert(&d); err != nil {
			return err
		}
		if err := store.In[store.DeviceSighting](tn).Insert(&store.DeviceSighting{DeviceID: d.ID, InstanceID: inst.ID}); err != nil {
			return err
		}
	}
	return nil
}

// What a heartbeat reads is that of its own machine, whatever else the account has: counted, not timed.
func TestHeartbeat_costsTheSameInALargeAccount(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID).mounted()
		cost := func() store.Reads {
			before := r.store.Reads()
			if out := b.beat(a); len(out.Leases) != 1 {
				t.Fatalf("the heartbeat renewed %d leases", len(out.Leases))
			}
			after := r.store.Reads()
			return store.Reads{Statements: after.Statements - before.Statements, Rows: after.Rows - before.Rows}
		}
		cost() // the first one notes what the later ones find
		small := cost()
		crowded(t, o, 40, 10)
		if large := cost(); large != small {
			t.Errorf("a heartbeat reads %+v, and %+v among 400 devices of others", small, large)
		}
	})
}
