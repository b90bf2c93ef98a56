// Package preview says what policies would do before they are saved: with the machines of today, from what they last
// reported, and with the requests of the last days. It has no rules of its own: package policy judges, and the machine of
// package keyrequest says where a verdict leads, so that a preview cannot differ from the real thing.
//
// World, Subject and what they judge are pure; Service feeds them from the store, in small transactions.
package preview

import (
	"maps"

	"keyward/broker/api"
)

// World is what an account's policies say, and who belongs to which.
type World struct {
	policies map[string]api.Policy
	devices  map[string]string          // the policy of each device that stands alone, and of each RAID set
	sets     map[string]string          // the RAID set of each device that is the first member of one
	images   map[string]map[string]bool // the images of each policy
	home     string                     // the default policy
	changed  map[string]bool            // policies that were saved since NewWorld
}

// NewWorld is the world of policies with their members.
func NewWorld(policies []api.Policy) World {
	w := World{policies: map[string]api.Policy{}, devices: map[string]string{}, images: map[string]map[string]bool{}, changed: map[string]bool{}}
	for _, p := range policies {
		w.policies[p.ID], w.images[p.ID] = p, setOf(p.ImageIDs)
		if p.Default {
			w.home = p.ID
		}
		for _, d := range p.DeviceIDs {
			w.devices[d] = p.ID
		}
	}
	return w
}

// With is the world after a policy was saved. As when it is saved, a nil list leaves its members as they are, the lists
// of the default policy do not count, and a device that leaves goes to the default policy.
func (w World) With(p api.Policy) World {
	out := w.clone()
	out.policies[p.ID], out.changed[p.ID] = p, true
	switch {
	case p.ID == w.home || p.Default:
		return out
	case p.ImageIDs != nil:
		out.images[p.ID] = setOf(p.ImageIDs)
	}
	if p.DeviceIDs == nil {
		return out
	}
	for d, in := range out.devices {
		if in == p.ID {
			out.devices[d] = w.home
		}
	}
	for _, d := range p.DeviceIDs {
		out.devices[d] = p.ID
	}
	return out
}

// Without is the world after a policy was deleted.
func (w World) Without(id string) World {
	out := w.clone()
	delete(out.policies, id)
	delete(out.images, id)
	for d, policy := range out.devices {
		if policy == id {
			out.devices[d] = w.home
		}
	}
	return out
}

func (w World) clone() World {
	return World{policies: maps.Clone(w.policies), devices: maps.Clone(w.devices), images: maps.Clone(w.images), sets: w.sets, home: w.home, changed: maps.Clone(w.changed)}
}

// Affects says whether a device of an earlier world could be judged otherwise in this one: it is in another policy, or
// its policy was saved.
func (w World) Affects(earlier World, deviceID string) bool {
	from, to := earlier.of(deviceID), w.of(deviceID)
	return from != to || w.changed[to]
}

func (w World) of(deviceID string) string {
	if id, ok := w.holds(deviceID); ok {
		return id
	}
	return w.home
}

// holds is the policy that a device, or the RAID set that it stands for, is in.
func (w World) holds(deviceID string) (policyID string, known bool) {
	if set, ok := w.sets[deviceID]; ok {
		deviceID = set
	}
	policyID, known = w.devices[deviceID]
	return policyID, known
}

// Striped is the world with RAID sets, by the IDs of their first members: a request for a set names that device.
func (w World) Striped(sets map[string]string) World {
	w.sets = sets
	return w
}

func setOf(ids []string) map[string]bool {
	out := make(map[string]bool, len(ids))
	for _, id := range ids {
		out[id] = true
	}
	return out
}
