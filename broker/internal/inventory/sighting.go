package inventory

import (
	"maps"
	"slices"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Sees says whether a device is in a machine's last inventory. A shared disk is in that of several machines.
func Sees(t *store.Tenant, deviceID, instanceID string) (bool, error) {
	n, err := store.In[store.DeviceSighting](t).Count(store.Eq("device_id", deviceID), store.Eq("instance_id", instanceID))
	return n > 0, err
}

// Seeing foresees what Sees reads.
func Seeing(deviceID, instanceID string) store.Read {
	return store.Number[store.DeviceSighting](store.Eq("device_id", deviceID), store.Eq("instance_id", instanceID))
}

// Sighted are the IDs of the devices in a machine's last inventory.
func Sighted(t *store.Tenant, instanceID string) (map[string]bool, error) {
	rows, err := store.In[store.DeviceSighting](t).List(sightingsOf(instanceID)...)
	ids := make(map[string]bool, len(rows))
	for _, r := range rows {
		ids[r.DeviceID] = true
	}
	return ids, err
}

// SightedDevices are the devices in a machine's last inventory, and those that it published last though they are missing.
func SightedDevices(t *store.Tenant, instanceID string) ([]store.Device, error) {
	return sightedDevices(t, instanceID)
}

// SightedPolicies are the IDs of the policies of those devices, each once. Every heartbeat asks for them, so nothing else
// is read.
func SightedPolicies(t *store.Tenant, instanceID string) ([]string, error) {
	devices, err := sightedDevices(t, instanceID, policyPart())
	var out []string
	for _, d := range devices {
		if !slices.Contains(out, d.PolicyID) {
			out = append(out, d.PolicyID)
		}
	}
	return out, err
}

// SightedPoliciesOf is SightedPolicies of many machines by a few statements. A machine that sees no device is left out.
func SightedPoliciesOf(t *store.Tenant, instanceIDs []string) (map[string][]string, error) {
	out := map[string][]string{}
	add := func(instanceID, policyID string) {
		if !slices.Contains(out[instanceID], policyID) {
			out[instanceID] = append(out[instanceID], policyID)
		}
	}
	devices := store.In[store.Device](t)
	seers := map[string][]string{} // by device
	for some := range slices.Chunk(instanceIDs, someIDs) {
		own, err := devices.List(store.OneOf("instance_id", some), store.Only("id", "policy_id", "instance_id"))
		if err != nil {
			return nil, err
		}
		home := make(map[string]string, len(own))
		for _, d := range own {
			home[d.ID] = d.InstanceID
			add(d.InstanceID, d.PolicyID)
		}
		sightings, err := store.In[store.DeviceSighting](t).List(store.OneOf("instance_id", some), store.Only("device_id", "instance_id"))
		if err != nil {
			return nil, err
		}
		for _, seen := range sightings {
			if home[seen.DeviceID] != seen.InstanceID {
				seers[seen.DeviceID] = append(seers[seen.DeviceID], seen.InstanceID)
			}
		}
	}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(seers)), someIDs) {
		more, err := devices.List(store.OneOf("id", ids), policyPart())
		if err != nil {
			return nil, err
		}
		for _, d := range more {
			for _, instanceID := range seers[d.ID] {
				add(instanceID, d.PolicyID)
			}
		}
	}
	return out, nil
}

// SightedReads is what SightedPolicies reads in any case.
func SightedReads(instanceID string) []store.Read {
	return []store.Read{store.Rows[store.Device](policyPart(), store.Eq("instance_id", instanceID)), store.Rows[store.DeviceSighting](sightingsOf(instanceID)...)}
}

func policyPart() store.Filter { return store.Only("id", "policy_id") }

func sightingsOf(instanceID string) []store.Filter {
	return []store.Filter{store.Eq("instance_id", instanceID), store.Only("device_id")}
}

func sightedDevices(t *store.Tenant, instanceID string, columns ...store.Filter) ([]store.Device, error) {
	devices := store.In[store.Device](t)
	out, err := devices.List(append(columns, store.Eq("instance_id", instanceID))...)
	if err != nil {
		return nil, err
	}
	sighted, err := Sighted(t, instanceID)
	if err != nil {
		return nil, err
	}
	for _, d := range out {
		delete(sighted, d.ID)
	}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(sighted)), someIDs) { // a statement has a limited number of values
		more, err := devices.List(append(columns, store.OneOf("id", ids))...)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// sight notes that a machine sees a device, and says whether it is to be the device's machine, which gets its jobs: one
// that sees it for the first time, or takes it over from one that no longer does.
func sight(t *store.Tenant, d store.Device, instanceID string, sighted map[string]bool) (takes bool, err error) {
	if !sighted[d.ID] {
		sighted[d.ID] = true
		return true, store.In[store.DeviceSighting](t).Insert(&store.DeviceSighting{DeviceID: d.ID, InstanceID: instanceID})
	}
	if d.InstanceID == instanceID {
		return true, nil
	}
	still, err := Sees(t, d.ID, d.InstanceID)
	return !still, err
}

// forget ends a machine's sightings of devices that its inventory no longer has. A device that another machine sees too
// goes over to that one.
func forget(t *store.Tenant, p tenant.Principal, inst store.Instance, ids []string) error {
	sightings := store.In[store.DeviceSighting](t)
	for _, id := range ids {
		if _, err := sightings.DeleteWhere(store.Eq("device_id", id), store.Eq("instance_id", inst.ID)); err != nil {
			return err
		}
		d, err := store.In[store.Device](t).Get(id)
		if err != nil || d.InstanceID != inst.ID {
			if err != nil {
				return err
			}
			continue
		}
		others, err := sightings.List(store.Eq("device_id", id), store.Asc("created_at"), store.Limit(1))
		if err != nil {
			return err
		}
		if len(others) == 0 {
			continue
		}
		d.InstanceID = others[0].InstanceID
		if err := store.In[store.Device](t).Update(&d); err != nil {
			return err
		}
		if err := audit.Append(t, audit.Entry{Category: "agent", Event: "device.moved", Actor: p.Actor(), Subject: d.ID,
			Detail: map[string]string{"name": d.Name, "from": inst.ID, "to": d.InstanceID}}); err != nil {
			return err
		}
	}
	return nil
}
