package keyrequest

import (
	"cmp"
	"fmt"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// waitsForPool marks a pending request of a resource pool in which no device was free.
const waitsForPool = "pool"

// allotment is what a resource pool has for a machine: a device, or why there is none now.
type allotment struct {
	device store.Device
	none   string
}

// allot chooses the device of a resource pool that a machine gets: the one it asked for, or, where another machine has
// that, a free one that it sees too. Providers attach nothing yet, so a machine can only be given what its own inventory
// lists. A device counts as taken from the moment a request for it waits, and transactions are serialised, so two
// machines never get the same one.
func allot(t *store.Tenant, pol store.Policy, asked store.Device, inst store.Instance) (allotment, error) {
	devices, err := store.In[store.Device](t).List(store.Eq("policy_id", pol.ID))
	if err != nil {
		return allotment{}, err
	}
	sighted, err := inventory.Sighted(t, inst.ID)
	if err != nil {
		return allotment{}, err
	}
	taken, err := allocations(t, pol.ID)
	if err != nil {
		return allotment{}, err
	}
	if err := served(taken, devices, sighted, pol, asked, inst); err != nil {
		return allotment{}, err
	}
	slices.SortFunc(devices, func(a, b store.Device) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	elsewhere := func(d store.Device) bool {
		return slices.ContainsFunc(taken[d.ID], func(r store.KeyRequest) bool { return r.InstanceID != inst.ID })
	}
	if !elsewhere(asked) {
		return allotment{device: asked}, nil
	}
	used, apart := 0, 0
	for _, d := range devices {
		switch {
		case d.Volume == nil || d.RAIDSetID != "":
		case elsewhere(d):
			used++
		case !sighted[d.ID]:
			apart++
		case d.Status == api.DeviceEncrypted:
			return allotment{device: d}, nil
		}
	}
	return allotment{device: asked, none: fmt.Sprintf("No device of resource pool %q is free for this machine: %s in use by other machines%s.",
		pol.Name, count(used), reachable(apart, inst.Provider))}, nil
}

func count(n int) string {
	if n == 1 {
		return "1 is"
	}
	return fmt.Sprintf("%d are", n)
}

// reachable says what stands in the way of the free devices that the machine does not see.
func reachable(apart int, provider string) string {
	if apart == 0 {
		return ""
	}
	return fmt.Sprintf(", and %s free but not attached to it (provider %s cannot attach devices: attach one by hand)", count(apart), provider)
}

// served refuses a second device of a pool to a machine that has one or waits for one.
func served(taken map[string][]store.KeyRequest, devices []store.Device, sighted map[string]bool, pol store.Policy, asked store.Device, inst store.Instance) error {
	for _, d := range devices {
		for _, r := range taken[d.ID] {
			if r.InstanceID != inst.ID || d.ID == asked.ID || !sighted[d.ID] && !KeyOut(r.Status) {
				continue
			}
			return poolServed(pol, d, r)
		}
	}
	for _, r := range taken[waitsForPool] {
		if i := slices.IndexFunc(devices, func(d store.Device) bool { return d.ID == r.DeviceID }); r.InstanceID == inst.ID && r.DeviceID != asked.ID && i >= 0 {
			return poolServed(pol, devices[i], r)
		}
	}
	return nil
}

func poolServed(pol store.Policy, d store.Device, r store.KeyRequest) error {
	return problem.New(409, "pool-served", "The machine has its device of the resource pool",
		fmt.Sprintf("Resource pool %q gives each machine one device: this one has %q, or waits for it (request %d, %s).", pol.Name, d.Name, r.Number, r.Status),
		"Use that device; to use this one instead, stop the use of the other first.")
}

// allocations are the requests that take a device of a pool, by device; under waitsForPool those that wait for any.
func allocations(t *store.Tenant, policyID string) (map[string][]store.KeyRequest, error) {
	statuses := append(keyOut(), api.KeyPending, api.KeyApproved, api.KeyRevoked)
	rows, err := store.In[store.KeyRequest](t).List(store.Eq("policy_id", policyID), store.OneOf("status", statuses),
		store.Only("id", "number", "status", "device_id", "instance_id", "revoke_mode", "waits_for"))
	if err != nil {
		return nil, err
	}
	out := map[string][]store.KeyRequest{}
	for _, r := range rows {
		switch {
		case r.Status == api.KeyPending && r.WaitsFor == waitsForPool:
			out[waitsForPool] = append(out[waitsForPool], r)
		case r.Status != api.KeyRevoked:
			out[r.DeviceID] = append(out[r.DeviceID], r)
		default:
			held, err := suspended(t, r)
			if err != nil {
				return nil, err
			}
			if held {
				out[r.DeviceID] = append(out[r.DeviceID], r)
			}
		}
	}
	return out, nil
}

// fromPool gives a waiting request the device that has become free, and judges it with that one.
func (s *Service) fromPool(t *store.Tenant, r store.KeyRequest) error {
	pol, err := policyOf(t, r.PolicyID)
	if err != nil {
		return err
	}
	asked, err := store.In[store.Device](t).Get(r.DeviceID)
	if err != nil {
		return ignoreMissing(err)
	}
	inst, err := store.In[store.Instance](t).Get(r.InstanceID)
	if err != nil {
		return ignoreMissing(err)
	}
	got := allotment{device: asked}
	if pol.ResourcePool {
		if got, err = allot(t, pol, asked, inst); err != nil || got.none != "" {
			return err
		}
	}
	if got.device.ID != r.DeviceID {
		r.RequestedDeviceID, r.DeviceID = r.DeviceID, got.device.ID
	}
	r.WaitsFor = ""
	return s.judgeAgain(t, tenant.Broker(t.AccountID()), &r, pol, got.device, inst, nil)
}

// judgeAgain judges a waiting request anew on the evidence that came with it.
func (s *Service) judgeAgain(t *store.Tenant, p tenant.Principal, r *store.KeyRequest, pol store.Policy, d store.Device, inst store.Instance, former *State) error {
	verdict, err := appraise(t, pol, d, inst, r.Evidence, r.SourceIP, r.CreatedAt)
	if err != nil {
		return err
	}
	why, _, err := askPerson(t, pol, d, inst, r)
	if err != nil {
		return err
	}
	r.Verdict = verdict
	c := change{event: EventReappraised, reason: verdict.Reason, ctx: Ctx{Verdict: verdict, PolicyDecides: why == "", Former: former}}
	if why != "" {
		c.reason = why + " " + verdict.Reason
	}
	res, err := s.move(t, p, r, c)
	if err != nil {
		return err
	}
	return explainWithinLease(t, r, res)
}
