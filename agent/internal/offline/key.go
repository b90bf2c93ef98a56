// Package offline opens encrypted volumes with keys that are at hand, without asking a broker: exported keys, and those of
// a recovery envelope. What is opened lives as long as the process that opened it, which other processes find by a folder
// below the runtime folder.
package offline

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/nbdcrypt/keymem"
)

// Key is the key of one volume with the record that the volume is opened by.
type Key struct {
	DeviceID string
	Name     string
	Volume   api.VolumeRecord
	// Secret is the volume key. Open takes it over.
	Secret *keymem.Key
}

// Wipe wipes every key of a list.
func Wipe(keys []Key) {
	for _, k := range keys {
		k.Secret.Wipe()
	}
}

// ErrChoose says that more than one volume is at hand and none was named.
var ErrChoose = errors.New("more than one volume is at hand")

// Choose picks from a list the indices of the volumes to open: all members of a stripe, in their order, or one that
// stands alone. name is a device's ID or name, or empty where there is no choice; any member names its stripe.
func Choose(volumes []Volume, name string) ([]int, error) {
	groups := map[string][]int{}
	var order []string
	for i, v := range volumes {
		id := v.Record.UUID
		if v.Record.RAID != nil {
			id = v.Record.RAID.Set
		}
		if groups[id] == nil {
			order = append(order, id)
		}
		groups[id] = append(groups[id], i)
	}
	var chosen []string
	for _, id := range order {
		if name == "" || id == name || slices.ContainsFunc(groups[id], func(i int) bool { return volumes[i].named(name) }) {
			chosen = append(chosen, id)
		}
	}
	switch len(chosen) {
	case 1:
		return inOrder(volumes, groups[chosen[0]])
	case 0:
		return nil, fmt.Errorf("no key for a device %q is here; there are: %s", name, list(volumes))
	}
	return nil, fmt.Errorf("%w: %s; name one with --device", ErrChoose, list(volumes))
}

// Volume names a volume whose key is at hand, before the key is opened.
type Volume struct {
	DeviceID, Name string
	Record         api.VolumeRecord
}

func (v Volume) named(name string) bool {
	return v.DeviceID == name || v.Name == name || v.Record.UUID == name
}

func list(volumes []Volume) string {
	var names []string
	for _, v := range volumes {
		names = append(names, fmt.Sprintf("%s (%s)", v.DeviceID, v.Name))
	}
	return strings.Join(names, ", ")
}

// inOrder sorts the members of a stripe, and refuses one that is not complete.
func inOrder(volumes []Volume, group []int) ([]int, error) {
	first := volumes[group[0]].Record.RAID
	if first == nil {
		if len(group) > 1 {
			return nil, fmt.Errorf("volume %s is here %d times, of devices %s: it was cloned; name one file", volumes[group[0]].Record.UUID, len(group),
				list([]Volume{volumes[group[0]], volumes[group[1]]}))
		}
		return group, nil
	}
	slices.SortFunc(group, func(a, b int) int { return cmp.Compare(volumes[a].Record.RAID.Index, volumes[b].Record.RAID.Index) })
	for i, at := range group {
		if volumes[at].Record.RAID.Index != i {
			return nil, fmt.Errorf("RAID set %s: the key of member %d of %d is missing; add its file", first.Set, i, first.Count)
		}
	}
	if len(group) != first.Count {
		return nil, fmt.Errorf("RAID set %s: %d keys for %d members; add the files of the others", first.Set, len(group), first.Count)
	}
	return group, nil
}
