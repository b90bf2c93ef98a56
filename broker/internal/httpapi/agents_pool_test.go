package httpapi_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/store"
)

// pool makes a resource pool of shared disks, each encrypted by one machine and seen by all of them.
func (o *org) pool(disks int, machines ...*box) (api.Policy, []api.Device, []api.InventoryDevice) {
	o.t.Helper()
	ctx := o.t.Context()
	var all []api.InventoryDevice
	var devices []api.Device
	for i := range disks {
		all = append(all, disk(fmt.Sprintf("shared%d", i)))
	}
	first := machines[0]
	list := first.publish(all...)
	for _, in := range all {
		id := list[in.Name].ID
		o.configured(id, "/mnt/"+in.Name)
		if _, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: in.Name}); err != nil {
			o.t.Fatalf("encrypt: %v", err)
		}
		c := first.command(api.CommandEncrypt)
		if err := first.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: first.record(*c.Device, first.take(c))}); err != nil {
			o.t.Fatal(err)
		}
		devices = append(devices, must[api.Device](o.t)(o.admin.Device(ctx, id)))
	}
	p := noPort80("pool")
	p.ResourcePool, p.RevokeMode, p.LeaseSeconds, p.HeartbeatSeconds = true, api.RevokeUnmount, 600, 300
	for _, d := range devices {
		p.DeviceIDs = append(p.DeviceIDs, d.ID)
	}
	err := o.store.View(ctx, func(tx *store.Tx) error {
		images, err := store.In[store.Image](tx.Tenant(o.id)).List()
		for _, i := range images {
			p.ImageIDs = append(p.ImageIDs, i.ID)
		}
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	p = must[api.Policy](o.t)(o.admin.CreatePolicy(ctx, p))
	for _, m := range machines[1:] {
		m.publish(all...)
	}
	return p, devices, all
}

func TestPool_givesAFreeDeviceInPlaceOfOneInUse(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		a, b, c := o.machine("app1"), o.machine("app2"), o.machine("app3")
		_, d, all := o.pool(2, a, b, c)
		first := a.ask(d[0].ID, "22")
		eq(t, "status of the first", first.Status, api.KeyApproved)
		eq(t, "device of the first", first.DeviceID, d[0].ID)
		first.mounted()

		second := b.ask(d[0].ID, "22")
		eq(t, "device of the second", second.DeviceID, d[1].ID)
		eq(t, "what the second asked for", second.is(second.Status).RequestedDeviceName, "shared0")
		// The agent asks for the device that it was given, which is kept for it.
		again := b.ask(d[1].ID, "22")
		eq(t, "status of the device that was given", again.Status, api.KeyApproved)
		again.mounted()

		// A machine gets one device of a pool.
		in, _ := a.prepare(d[1].ID, "22")
		_, err := a.Request(ctx, in)
		wantProblem(t, err, 409, "pool-served")

		// With none free the request waits, and says why.
		third := c.ask(d[0].ID, "22")
		eq(t, "status of the third", third.Status, api.KeyPending)
		if !strings.Contains(third.Reason, `resource pool "pool" is free`) || !strings.Contains(third.Reason, "2 are in use") {
			t.Errorf("reason %q", third.Reason)
		}
		_, err = o.approver.Approve(ctx, third.ID, api.Decision{})
		wantProblem(t, err, 409, "device-in-use")

		// It goes on by itself once one is free.
		again.report(api.EventUnmounted)
		r.later(time.Second)
		now := third.is(api.KeyApproved)
		eq(t, "device of the third", now.DeviceID, d[1].ID)
		eq(t, "status of the device", c.ask(d[1].ID, "22").Status, api.KeyApproved)

		// What the machine does not see it cannot be given: no provider attaches devices yet.
		b.publish(all[0])
		lost := b.ask(d[0].ID, "22")
		eq(t, "status without a reachable device", lost.Status, api.KeyPending)
		first.report(api.EventUnmounted)
		x := a.ask(d[0].ID, "22")
		eq(t, "status of the machine that asks next", x.Status, api.KeyApproved)
		r.later(time.Second)
		if reason := lost.is(api.KeyPending).Reason; !strings.Contains(reason, "is free") {
			t.Errorf("reason %q", reason)
		}
	})
}

func TestPool_unreachableDevicesAreNamed(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		a, b := o.machine("app1"), o.machine("app2")
		_, d, all := o.pool(2, a, b)
		a.ask(d[0].ID, "22").mounted()
		b.publish(all[0])
		w := b.ask(d[0].ID, "22")
		eq(t, "status", w.Status, api.KeyPending)
		if !strings.Contains(w.Reason, "1 is free but not attached to it (provider native cannot attach devices") {
			t.Errorf("reason %q does not say what is in the way", w.Reason)
		}
		b.publish(all...)
		r.later(time.Second)
		eq(t, "device once it is attached", w.is(api.KeyApproved).DeviceID, d[1].ID)
	})
}

// Fifty machines ask at the same time for the same device of a pool of twenty: each device goes to one of them.
func TestPool_fiftyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const machines, disks = 50, 20
		o := r.org("acme")
		boxes := make([]*box, machines)
		for i := range boxes {
			boxes[i] = o.machine(fmt.Sprintf("app%d", i))
		}
		_, d, _ := o.pool(disks, boxes...)
		asks := make([]*asked, machines)
		errs := make([]error, machines)
		var wg sync.WaitGroup
		for i, b := range boxes {
			in, private := b.prepare(d[0].ID, "22")
			wg.Go(func() {
				var s api.KeyRequestStatus
				for range 20 { // a busy database says so, and agents try again
					if s, errs[i] = b.Request(t.Context(), in); client.StatusOf(errs[i]) != 503 {
						break
					}
				}
				asks[i] = &asked{b, s, private, in.Nonce}
			})
		}
		wg.Wait()
		got := map[string]int{}
		waiting := 0
		for i, a := range asks {
			if errs[i] != nil {
				t.Fatalf("machine %d: %v", i, errs[i])
			}
			switch a.Status {
			case api.KeyApproved:
				got[a.DeviceID]++
			case api.KeyPending:
				waiting++
			default:
				t.Fatalf("machine %d: %s (%s)", i, a.Status, a.Reason)
			}
		}
		if len(got) != disks || waiting != machines-disks {
			t.Fatalf("%d devices were given and %d machines wait", len(got), waiting)
		}
		for id, n := range got {
			if n != 1 {
				t.Errorf("device %s went to %d machines", id, n)
			}
		}
		// As many as become free are given out, no more.
		for _, a := range slices.DeleteFunc(slices.Clone(asks), func(a *asked) bool { return a.Status != api.KeyApproved })[:3] {
			if _, err := o.admin.Deny(t.Context(), a.ID, api.Decision{}); err != nil {
				t.Fatal(err)
			}
		}
		r.later(time.Second)
		taken := map[string]int{}
		err := r.store.View(t.Context(), func(tx *store.Tx) error {
			rows, err := store.In[store.KeyRequest](tx.Tenant(o.id)).List(store.Eq("status", api.KeyApproved))
			for _, row := range rows {
				taken[row.DeviceID]++
			}
			return err
		})
		if err != nil || len(taken) != disks {
			t.Fatalf("%d devices are taken: %v", len(taken), err)
		}
		for id, n := range taken {
			if n != 1 {
				t.Errorf("device %s went to %d machines", id, n)
			}
		}
	})
}

// One device is read-write on one machine, whoever collects first; read-only it may be on many.
func TestShared_readWriteOnOneMachineReadOnlyOnMany(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		boxes := []*box{o.machine("app1"), o.machine("app2"), o.machine("app3"), o.machine("app4")}
		pol, d, _ := o.pool(1, boxes...)
		pol.ResourcePool = false
		if _, err := o.admin.UpdatePolicy(ctx, pol); err != nil {
			t.Fatal(err)
		}
		race := func(device api.Device) (keys int) {
			asks := make([]*asked, len(boxes))
			for i, b := range boxes {
				asks[i] = b.ask(device.ID, "22")
				if asks[i].Status == api.KeyPending {
					if asks[i].Integrity != api.IntegrityGood {
						must[api.KeyRequestDetail](t)(o.admin.AssignPolicy(ctx, asks[i].ID, api.PolicyAssignment{PolicyID: pol.ID}))
					}
					if mustStatus(t, asks[i]) == api.KeyPending {
						asks[i].approve()
					}
				}
			}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for _, a := range asks {
				wg.Go(func() {
					var err error
					for range 20 {
						if _, err = a.box.Delivery(ctx, a.ID, api.DeliveryRequest{PublicKey: a.private.PublicKey()}); client.StatusOf(err) != 503 {
							break
						}
					}
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						keys++
					} else if !client.Is(err, "device-in-use") {
						t.Errorf("delivery: %v", err)
					}
				})
			}
			wg.Wait()
			return keys
		}
		eq(t, "keys of a device that is read-write", race(d[0]), 1)
		r.later(20 * time.Minute) // the lease ends
		now := must[api.Device](t)(o.admin.Device(ctx, d[0].ID))
		must[api.Device](t)(o.admin.ConfigureDevice(ctx, now.ID, api.DeviceWrite{Name: now.Name, Access: api.AccessReadOnly, Version: now.Version}))
		eq(t, "keys of a device that is read-only", race(now), len(boxes))
	})
}

// A machine learns from its delivery whether another one may have written since it had the key.
func TestShared_deliveriesCountTheWriters(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		first, second := o.machine("app1"), o.machine("app2")
		pol, d, _ := o.pool(1, first, second)
		pol.ResourcePool = false
		if _, err := o.admin.UpdatePolicy(ctx, pol); err != nil {
			t.Fatal(err)
		}
		var base int64
		for i, turn := range []struct {
			b    *box
			want int64
		}{{first, 0}, {first, 0}, {second, 1}, {second, 1}, {first, 2}} {
			a := turn.b.ask(d[0].ID, "22")
			if mustStatus(t, a) == api.KeyPending {
				if a.Integrity != api.IntegrityGood {
					must[api.KeyRequestDetail](t)(o.admin.AssignPolicy(ctx, a.ID, api.PolicyAssignment{PolicyID: pol.ID}))
				}
				if mustStatus(t, a) == api.KeyPending {
					a.approve()
				}
			}
			got := must[api.KeyDelivery](t)(a.box.Delivery(ctx, a.ID, api.DeliveryRequest{PublicKey: a.private.PublicKey()}))
			if i == 0 {
				base = got.Device.Writers // whoever encrypted it wrote first
			}
			eq(t, fmt.Sprintf("writers at turn %d", i), got.Device.Writers-base, turn.want)
			a.report(api.EventMounted)
			a.report(api.EventUnmounted)
		}
	})
}

func mustStatus(t *testing.T, a *asked) api.KeyStatus {
	t.Helper()
	return must[api.KeyRequestDetail](t)(a.admin.KeyRequest(t.Context(), a.ID)).Status
}
