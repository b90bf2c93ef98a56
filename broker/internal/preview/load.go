package preview

import (
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/store"
)

// volumes lists the devices that have a volume, as only they have a key, and that pass want. A RAID set stands there by its
// first member.
func volumes(t *store.Tenant, want func(deviceID string) bool) ([]string, error) {
	rows, err := store.In[store.Device](t).List(store.NotNull("volume"), store.Eq("raid_index", 0), store.Asc("name"), store.Only("id", "name"))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, d := range rows {
		if want(d.ID) {
			ids = append(ids, d.ID)
		}
	}
	return ids, nil
}

// subjects reads devices with the machines that see them, or that have a request for them which is not over.
func subjects(t *store.Tenant, deviceIDs []string) ([]Subject, error) {
	devices, err := store.In[store.Device](t).List(store.OneOf("id", deviceIDs))
	if err != nil {
		return nil, err
	}
	sets, err := inventory.SetNames(t, devices)
	if err != nil {
		return nil, err
	}
	for i, d := range devices {
		if name, ok := sets[d.ID]; ok {
			devices[i].Name = name
		}
	}
	slices.SortFunc(devices, func(a, b store.Device) int { return strings.Compare(a.Name, b.Name) })
	open, err := store.In[store.KeyRequest](t).List(store.OneOf("device_id", deviceIDs), store.OneOf("status", openStatuses()),
		store.Only("id", "device_id", "instance_id", "status"))
	if err != nil {
		return nil, err
	}
	machines := map[string][]string{}
	for _, d := range devices {
		if d.Volume != nil && d.InstanceID != "" {
			machines[d.ID] = []string{d.InstanceID}
		}
	}
	for _, r := range open {
		if !slices.Contains(machines[r.DeviceID], r.InstanceID) {
			machines[r.DeviceID] = append(machines[r.DeviceID], r.InstanceID)
		}
	}
	instances, err := instancesOf(t, machines)
	if err != nil {
		return nil, err
	}
	var out []Subject
	for _, d := range devices {
		for _, id := range machines[d.ID] {
			inst, ok := instances[id]
			if !ok {
				continue // the machine was removed
			}
			sub := Subject{Device: d, Instance: inst}
			if sub.Request, sub.AskPerson, err = keyrequest.Standing(t, d, inst, false); err != nil {
				return nil, err
			}
			if sub.AskPerson != "" {
				if _, sub.AskPersonPool, err = keyrequest.Standing(t, d, inst, true); err != nil {
					return nil, err
				}
			}
			for _, r := range open {
				if r.DeviceID == d.ID && r.InstanceID != id && keyrequest.KeyOut(r.Status) {
					sub.InUse = instances[r.InstanceID].HostName
				}
			}
			out = append(out, sub)
		}
	}
	return out, nil
}

// openStatuses are those of requests that are not over.
func openStatuses() []api.KeyStatus {
	all := []api.KeyStatus{api.KeyPending, api.KeyApproved, api.KeyDelivered, api.KeyDenied, api.KeyRevokePending, api.KeyRevokeIgnored,
		api.KeyRevoking, api.KeyRevoked, api.KeyExpired, api.KeyFailure}
	return slices.DeleteFunc(all, keyrequest.Ended)
}

func instancesOf(t *store.Tenant, machines map[string][]string) (map[string]store.Instance, error) {
	var ids []string
	for _, of := range machines {
		ids = append(ids, of...)
	}
	slices.SortFunc(ids, strings.Compare)
	out := map[string]store.Instance{}
	for part := range slices.Chunk(slices.Compact(ids), batch) {
		rows, err := store.In[store.Instance](t).List(store.OneOf("id", part))
		if err != nil {
			return nil, err
		}
		for _, i := range rows {
			out[i.ID] = i
		}
	}
	return out, nil
}
