package keyrequest

import (
	"fmt"
	"strings"

	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
)

// wholeUnit is what a request for a device is about: the device, or the RAID set whose first member it is. A set is opened
// whole or not at all, so one with a member that the machine does not see is refused, by that member's name.
func wholeUnit(t *store.Tenant, d store.Device, instanceID string) (inventory.Unit, error) {
	u, err := inventory.UnitOf(t, d)
	if err != nil || u.Set == nil {
		return u, err
	}
	if first := u.First(); first.ID != d.ID {
		return u, problem.New(409, "device-in-raid-set", "The device belongs to a RAID set",
			fmt.Sprintf("Device %q is one part of RAID set %q and is never opened alone.", d.Name, u.Name()),
			fmt.Sprintf("Ask for device %q, the first member: the keys of all members are delivered together.", first.Name))
	}
	missing, err := u.Missing(t, instanceID)
	if err != nil || len(missing) == 0 {
		return u, err
	}
	return u, problem.New(409, "raid-set-incomplete", "The RAID set is not complete",
		fmt.Sprintf("This machine does not see %s of RAID set %q, and a stripe has no copy of what is there.", quoted(missing), u.Name()),
		"Attach what is missing and publish the inventory again.")
}

// seesAny says whether a machine sees any member of the RAID set that a device is in.
func seesAny(t *store.Tenant, d store.Device, instanceID string) (bool, error) {
	u, err := inventory.UnitOf(t, d)
	if err != nil {
		return false, err
	}
	missing, err := u.Missing(t, instanceID)
	return len(missing) < len(u.Members), err
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = fmt.Sprintf("device %q", name)
	}
	return strings.Join(out, ", ")
}
