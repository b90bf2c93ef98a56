package keyrequest

import (
	"fmt"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
)

// exclusive refuses a key that another machine holds, or may still hold; with the ID of a request of its own, also one
// that another boot of the machine holds by another request. A read-only volume may be shared.
func exclusive(t *store.Tenant, d store.Device, instanceID, requestID string) error {
	if d.Access == api.AccessReadOnly {
		return nil
	}
	rows, err := store.In[store.KeyRequest](t).List(heldOf(d.ID)...)
	if err != nil {
		return err
	}
	for _, r := range rows {
		switch {
		case r.ID == requestID:
		case r.InstanceID == instanceID && (requestID == "" || !KeyOut(r.Status)):
		case KeyOut(r.Status):
			return inUse(t, d, r, r.InstanceID == instanceID)
		case r.InstanceID != instanceID:
			held, err := suspended(t, r)
			if err != nil {
				return err
			}
			if held {
				return inUse(t, d, r, false)
			}
		}
	}
	return nil
}

// heldOf selects the requests by which machines hold a device's key, or may have its volume suspended.
func heldOf(deviceID string) []store.Filter {
	return []store.Filter{store.Eq("device_id", deviceID), store.OneOf("status", append(keyOut(), api.KeyRevoked)), store.Asc("number"),
		store.Only("id", "number", "status", "device_id", "instance_id", "revoke_mode")}
}

// suspended says whether a machine still has the volume of a revoked request mounted, without its key and with its
// requests waiting. Another machine that wrote to the volume would damage what the first goes on with. A machine that
// fell silent does not count.
func suspended(t *store.Tenant, r store.KeyRequest) (bool, error) {
	if r.Status != api.KeyRevoked || r.RevokeMode != api.RevokeSuspend {
		return false, nil
	}
	newer, err := newest(t, r.DeviceID, r.InstanceID)
	if err != nil || newer == nil || newer.ID != r.ID {
		return false, err
	}
	inst, err := store.In[store.Instance](t).Get(r.InstanceID)
	if err != nil {
		return false, ignoreMissing(err)
	}
	return !inst.Missing, nil
}

func inUse(t *store.Tenant, d store.Device, r store.KeyRequest, same bool) error {
	name := r.InstanceID
	if other, err := store.In[store.Instance](t).Get(name); err == nil {
		name = other.HostName
	}
	who, does := fmt.Sprintf("Machine %q", name), "holds the key of"
	if same {
		who = fmt.Sprintf("Another boot of machine %q", name)
	}
	if r.Status == api.KeyRevoked {
		does = "has suspended, and not unmounted,"
	}
	return problem.New(409, "device-in-use", "The device is in use by another machine",
		fmt.Sprintf("%s %s %q read-write (request %d, %s).", who, does, d.Name, r.Number, r.Status),
		"Stop its use there, or revoke that key, and ask again.")
}
