package keyrequest

import (
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/store"
)

// Circumstances are what a policy judges of a device on a machine: a request, and a preview of one, which must not
// differ. p is the policy that judges, listed says whether the machine's image is in it, seen are the facts that
// the broker vouches for.
func Circumstances(p api.Policy, listed bool, d store.Device, inst store.Instance, e api.Evidence, seen []api.Fact, now time.Time) policy.Context {
	return policy.Context{
		Evidence: e, Observed: slices.Concat(seen, e.Verified), Unused: e.Unused, DeviceInPolicy: d.PolicyID == p.ID,
		// A device that is assigned to an image belongs to machines of that image only, unless it is one to read from:
		// that may be shared, and Native machines have an image each. The devices of a resource pool are for any machine of
		// the policy.
		ImageInPolicy: listed && (d.ImageID == "" || d.ImageID == inst.ImageID || d.Access == api.AccessReadOnly || p.ResourcePool),
		Now:           now,
	}
}

// Observed are the facts that the broker itself vouches for when a machine asks at a time from an address.
func Observed(inst store.Instance, address string, asked time.Time) []api.Fact {
	return observed(inst, address, asked)
}

// Standing is a machine's newest request for a device, nil when it never asked, and why no policy would give it the key
// now without a person; empty when one may. pool says whether the policy is a resource pool.
func Standing(t *store.Tenant, d store.Device, inst store.Instance, pool bool) (last *store.KeyRequest, why string, err error) {
	if last, err = newest(t, d.ID, inst.ID); err != nil {
		return nil, "", err
	}
	why, _, err = askPerson(t, store.Policy{ResourcePool: pool}, d, inst, last)
	return last, why, err
}
