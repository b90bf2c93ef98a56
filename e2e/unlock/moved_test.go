package unlock

import (
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// A machine waits for a disk of a resource pool, and the administrator takes the disk out of the pool, or the machine's image
// too. Once the disk is free no policy can judge who waits for it: the request is rated so, and a person assigns the policy.
func TestPool_deviceTakenOutWhileItsMachineWaits(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		a := newAccount(t, s)
		m := a.machine(2, "")
		disks := []api.Device{m.device(0), m.device(1)}
		var pools []api.Policy
		for i, d := range disks {
			p := auto()
			p.Name, p.ResourcePool, p.LeaseSeconds, p.HeartbeatSeconds, p.MissingAfterSeconds = "pool of "+d.Name, true, 600, 2, 600
			p.RevokeMode, p.ImageIDs, p.DeviceIDs = api.RevokeUnmount, []string{d.ImageID}, []string{d.ID}
			p, err := a.CreatePolicy(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			pools = append(pools, p)
			m.encrypt(i, api.DeviceWrite{})
			m.mounted(i)
		}
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		other := a.peer(machineInfo("other"))
		var held, waiting [2]string
		for i, d := range disks {
			a.becomes(d.ID, api.DeviceEncrypted)
			other.join(a, pools[i].ID, disks...)
			r, err := other.ask(d.ID)
			if err != nil || r.Status != api.KeyApproved {
				t.Fatalf("the other machine's request: %+v, %v", r, err)
			}
			if n := other.collect(r); n == 0 {
				t.Fatal("the other machine got no key")
			}
			held[i] = r.ID
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		for i, d := range disks {
			r := a.request(d.ID, api.KeyPending)
			if !strings.Contains(r.Reason, "1 is in use") || r.Integrity != api.IntegrityGood {
				t.Errorf("%s is rated %s and waits because: %s", d.Name, r.Integrity, r.Reason)
			}
			waiting[i] = r.RequestID
			p, err := a.Policy(ctx, pools[i].ID)
			if err != nil {
				t.Fatal(err)
			}
			if p.DeviceIDs = []string{}; i == 1 {
				p.ImageIDs = []string{}
			}
			if _, err := a.UpdatePolicy(ctx, p); err != nil {
				t.Fatal(err)
			}
			if err := other.Report(ctx, held[i], api.RequestEvent{Event: api.EventUnmounted}); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []api.Integrity{api.IntegrityUnknownDevPolicy, api.IntegrityUnknownMismatch} {
			a.rated(disks[i].ID, want)
			_, err := a.Approve(ctx, waiting[i], api.Decision{Reason: "known machine"})
			refusedAs(t, "approve what is in no policy", err, "conflict")
			if lab.Mounted(m.mountPoint(i)) {
				t.Errorf("%s is mounted, rated %s", disks[i].Name, want)
			}
		}
		a.look() // what comes next is judged anew
		for i, id := range waiting {
			if _, err := a.AssignPolicy(ctx, id, api.PolicyAssignment{PolicyID: pools[i].ID}); err != nil {
				t.Fatal(err)
			}
			m.mounted(i)
			if r := a.requestBecomes(id, api.KeyDelivered); r.Integrity != api.IntegrityGood || !went(r, "policy-assigned", api.KeyApproved) {
				t.Errorf("%s was judged %s, and its request went %+v", disks[i].Name, r.Integrity, r.History)
			}
		}
	})
}
