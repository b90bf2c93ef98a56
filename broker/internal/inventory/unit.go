package inventory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Unit is what is encrypted, unlocked and taken back as one: a device that stands alone, or all members of a RAID set.
type Unit struct {
	// Set is nil for a device that stands alone.
	Set *store.RAIDSet
	// Members are the devices in the order of their places. The first is the one that requests, jobs and reports name.
	Members []store.Device
}

// UnitOf is the unit that a device belongs to.
func UnitOf(t *store.Tenant, d store.Device) (Unit, error) {
	if d.RAIDSetID == "" {
		return Unit{Members: []store.Device{d}}, nil
	}
	r, err := store.In[store.RAIDSet](t).Get(d.RAIDSetID)
	if err != nil {
		return Unit{}, fmt.Errorf("reading the RAID set of device %q: %w", d.Name, err)
	}
	return unitOfSet(t, r)
}

func unitOfSet(t *store.Tenant, r store.RAIDSet) (Unit, error) {
	all, err := members(t, r.ID)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("RAID set %q has no members", r.Name)
	}
	return Unit{Set: &r, Members: all}, err
}

// UnitByID is the unit that a person means: a RAID set, or a device that is in none.
func UnitByID(t *store.Tenant, id string) (Unit, error) {
	d, err := store.In[store.Device](t).Get(id)
	if errors.Is(err, store.ErrNotFound) {
		r, err := set(t, id)
		if err != nil {
			return Unit{}, err
		}
		return unitOfSet(t, r)
	}
	if err != nil {
		return Unit{}, err
	}
	u, err := UnitOf(t, d)
	if err == nil && u.Set != nil {
		return Unit{}, problem.Conflict(fmt.Sprintf("Device %q is a member of RAID set %q.", d.Name, u.Set.Name), "Choose the RAID set: its members are used together.")
	}
	return u, err
}

// First is the device that requests, jobs and reports of the unit name.
func (u *Unit) First() *store.Device { return &u.Members[0] }

// Name is what people call it.
func (u *Unit) Name() string {
	if u.Set != nil {
		return u.Set.Name
	}
	return u.First().Name
}

// Status is where it stands.
func (u *Unit) Status() api.DeviceStatus {
	if u.Set != nil {
		return u.Set.Status
	}
	return u.First().Status
}

// Complete says that everything encryption needs is set.
func (u *Unit) Complete() bool {
	return !slices.ContainsFunc(u.Members, func(d store.Device) bool { return !Complete(d) })
}

// Contents says in words what it holds; "empty" when no member holds anything.
func (u *Unit) Contents() string { return contentsOf(u.Members) }

func contentsOf(devices []store.Device) string {
	var out []string
	for _, d := range devices {
		if d.Contents != "empty" {
			out = append(out, d.Contents)
		}
	}
	switch {
	case len(out) == 0:
		return "empty"
	case len(devices) == 1:
		return out[0]
	}
	return cut(strings.Join(out, "; "), maxLongText)
}

// Place is where a member stands in the set, as its volume record has it; nil for a device that stands alone.
func (u *Unit) Place(i int) *api.RAIDMember {
	if u.Set == nil {
		return nil
	}
	return &api.RAIDMember{Set: u.Set.ID, Index: i, Count: len(u.Members), Chunk: setChunk}
}

// Move is the function Move for a device, or for a set and all of its members. The result is the first member's.
func (u *Unit) Move(t *store.Tenant, p tenant.Principal, e Event, c Ctx, detail string) (Result, error) {
	if u.Set == nil {
		return Move(t, p, u.First(), e, c, detail)
	}
	c.AllMembers, c.Single = true, true
	whole, err := MoveSet(t, p, u.Set, e, c, detail)
	if err == nil {
		err = tell(t, whole, *u.First(), fmt.Sprintf("RAID set %q: %s", u.Set.Name, detail))
	}
	if err != nil {
		return Result{}, err
	}
	var first Result
	for i := range u.Members {
		res, err := Move(t, p, &u.Members[i], e, c, detail)
		if err != nil {
			return res, err
		}
		if i == 0 {
			first = res
		}
	}
	return first, nil
}

// Assigned is the unit as its machine needs it.
func (u *Unit) Assigned() api.AssignedDevice {
	out := AssignedView(*u.First())
	if u.Set == nil {
		return out
	}
	out.Set = &api.AssignedSet{ID: u.Set.ID, Name: u.Set.Name, Chunk: setChunk}
	for _, m := range u.Members {
		out.Set.Members = append(out.Set.Members, api.AssignedMember{ID: m.ID, Identity: m.Identity, Name: m.Name, Volume: m.Volume})
	}
	return out
}

// Missing are the names of the members that are not in the last inventory of a machine.
func (u *Unit) Missing(t *store.Tenant, instanceID string) ([]string, error) {
	var out []string
	for _, m := range u.Members {
		sees, err := Sees(t, m.ID, instanceID)
		if err != nil {
			return nil, err
		}
		if !sees {
			out = append(out, m.Name)
		}
	}
	return out, nil
}

// Keys are the current keys of all members in their order.
func (u *Unit) Keys(t *store.Tenant) ([]keystore.DeviceKey, error) {
	out := make([]keystore.DeviceKey, 0, len(u.Members))
	for _, m := range u.Members {
		key, err := CurrentKey(t, m.ID)
		if err != nil {
			return nil, fmt.Errorf("reading the key of device %q: %w", m.Name, err)
		}
		out = append(out, WrappedKey(key))
	}
	return out, nil
}

// SetNames are the names of the RAID sets whose first members are among some devices, by the ID of that member.
func SetNames(t *store.Tenant, devices []store.Device) (map[string]string, error) {
	firsts := map[string]string{} // by set
	for _, d := range devices {
		if d.RAIDSetID != "" && d.RAIDIndex == 0 {
			firsts[d.RAIDSetID] = d.ID
		}
	}
	out := map[string]string{}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(firsts)), someIDs) {
		sets, err := store.In[store.RAIDSet](t).List(store.OneOf("id", ids), store.Only("id", "name"))
		if err != nil {
			return nil, err
		}
		for _, r := range sets {
			out[firsts[r.ID]] = r.Name
		}
	}
	return out, nil
}

// FirstMembers are the IDs of the account's RAID sets, by the ID of their first members.
func FirstMembers(t *store.Tenant) (map[string]string, error) {
	rows, err := store.In[store.Device](t).List(store.Ne("raid_set_id", ""), store.Eq("raid_index", 0), store.Only("id", "raid_set_id"))
	out := make(map[string]string, len(rows))
	for _, d := range rows {
		out[d.ID] = d.RAIDSetID
	}
	return out, err
}

// UnitView is a device, or the RAID set that it is the first member of, as people see it.
func UnitView(t *store.Tenant, d store.Device) (api.Device, error) {
	if d.RAIDSetID == "" {
		return View(t, d)
	}
	return readSet(t, d.RAIDSetID)
}
