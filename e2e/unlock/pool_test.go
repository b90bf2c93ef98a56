package unlock

import (
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// join puts another machine's image into a policy and shows it the disks.
func (p *peer) join(a *account, policy string, disks ...api.Device) {
	p.t.Helper()
	var list []api.InventoryDevice
	for _, d := range disks {
		list = append(list, api.InventoryDevice{Identity: d.Identity, Name: d.Name, Size: d.Size, Contents: "LUKS2"})
	}
	if _, err := p.PublishInventory(p.t.Context(), api.InventoryReport{Provider: "Native", Instance: p.info, Devices: list}); err != nil {
		p.t.Fatal(err)
	}
	pool, err := a.Policy(p.t.Context(), policy)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, i := range a.instances() {
		if i.ID == p.id.InstanceID {
			pool.ImageIDs = append(pool.ImageIDs, i.ImageID)
		}
	}
	if _, err := a.UpdatePolicy(p.t.Context(), pool); err != nil {
		p.t.Fatal(err)
	}
}

// K-02, K-05, K-06: three machines share a pool of two disks. Each gets one that no other has, an agent that asked for a
// disk in use follows to the one that it is given, and who finds none waits until one is free.
func TestPool_eachMachineHasADiskOfItsOwn(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		a := newAccount(t, s)
		m := a.machine(2, "")
		d0, d1 := m.device(0), m.device(1)
		p := auto()
		p.ResourcePool, p.LeaseSeconds, p.HeartbeatSeconds, p.MissingAfterSeconds, p.RevokeMode = true, 600, 2, 600, api.RevokeUnmount
		p.ImageIDs, p.DeviceIDs = []string{d0.ImageID}, []string{d0.ID, d1.ID}
		p, err := a.CreatePolicy(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		m.encrypt(1, api.DeviceWrite{})
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		a.becomes(d0.ID, api.DeviceEncrypted)

		second, third := a.peer(machineInfo("second")), a.peer(machineInfo("third"))
		second.join(a, p.ID, d0, d1)
		third.join(a, p.ID, d0, d1)
		r, err := second.ask(d0.ID)
		if err != nil || r.Status != api.KeyApproved || r.DeviceID != d0.ID {
			t.Fatalf("the second machine's request: %+v, %v", r, err)
		}
		if n := second.collect(r); n == 0 {
			t.Error("the second machine got no key")
		}

		// The agent wants what it had; the pool gives it the other.
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		m.mounted(1)
		if lab.Mounted(m.mountPoint(0)) {
			t.Error("the agent opened the disk that another machine has")
		}
		if now := a.request(d1.ID, api.KeyDelivered); now.InstanceID != m.instanceID() {
			t.Errorf("the other disk went to %s", now.InstanceName)
		}
		_, err = second.ask(d1.ID)
		refusedAs(t, "a machine asks for a second disk of the pool", err, "pool-served")

		none, err := third.ask(d0.ID)
		if err != nil || none.Status != api.KeyPending || !strings.Contains(none.Reason, "2 are in use") {
			t.Fatalf("the third machine's request: %+v, %v", none, err)
		}
		_, err = a.Approve(t.Context(), none.ID, api.Decision{Reason: "try"})
		refusedAs(t, "a person gives away a disk in use", err, "device-in-use")
		if err := second.Report(t.Context(), r.ID, api.RequestEvent{Event: api.EventUnmounted}); err != nil {
			t.Fatal(err)
		}
		a.requestBecomes(none.ID, api.KeyApproved)
		if n := third.collect(none); n == 0 {
			t.Error("the third machine got no key")
		}
		if !lab.Mounted(m.mountPoint(1)) {
			t.Error("the agent lost its disk")
		}
	})
}
