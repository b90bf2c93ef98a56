package inventory

import (
	"context"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// byName is what lists are ordered by.
func byName(name, id string) string { return store.Fold(name) + "\x00" + id }

// where are the query's conditions on devices.
func (q DeviceQuery) where() []store.Filter {
	var out []store.Filter
	if len(q.Status) > 0 {
		out = append(out, store.OneOf("status", q.Status))
	}
	for column, v := range map[string]string{"instance_id": q.Instance, "policy_id": q.Policy, "image_id": q.Image} {
		if v != "" {
			out = append(out, store.Eq(column, v))
		}
	}
	if q.Search != "" {
		out = append(out, store.AnyLike([]string{"name", "identity", "mount_point"}, q.Search))
	}
	return out
}

// maxPage is the last page that can be asked for, so that no offset overflows.
const maxPage = 1_000_000

// devicePage reads one page of devices and RAID sets. Sets are few and read whole. With k sets that match, the device at
// place i of the devices stands between i and i+k in the list, so devices from k places before the page to its end are
// enough to lay both together.
func (s *Service) devicePage(ctx context.Context, p tenant.Principal, q DeviceQuery) (out []api.Device, total int64, err error) {
	from := (min(max(q.Page, 1), maxPage) - 1) * q.Size
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		sets, err := matchingSets(t, q)
		if err != nil {
			return err
		}
		n, err := store.In[store.Device](t).Count(q.where()...)
		if err != nil {
			return err
		}
		total = n + int64(len(sets))
		skipped := max(from-len(sets), 0)
		rows, err := store.In[store.Device](t).List(append(q.where(), store.AscFold("name"), store.Offset(skipped), store.Limit(q.Size+len(sets)))...)
		if err != nil {
			return err
		}
		devices, err := views(t, rows)
		if err != nil {
			return err
		}
		out = window(sets, devices, skipped, from, q.Size)
		return nil
	})
	return out, total, err
}

// window lays sets and devices, both in order, together and cuts from to from+size out; devices[0] stands at place skipped
// among all devices.
func window(sets, devices []api.Device, skipped, from, size int) []api.Device {
	out := []api.Device{}
	place, d := skipped, 0
	for _, set := range sets {
		at := byName(set.Name, set.ID)
		for ; d < len(devices) && byName(devices[d].Name, devices[d].ID) < at; d, place = d+1, place+1 {
			if place >= from && place < from+size {
				out = append(out, devices[d])
			}
		}
		if place >= from && place < from+size {
			out = append(out, set)
		}
		place++
	}
	for ; d < len(devices); d, place = d+1, place+1 {
		if place >= from && place < from+size {
			out = append(out, devices[d])
		}
	}
	return out
}

// matchingSets are the RAID sets that a query selects, by name.
func matchingSets(t *store.Tenant, q DeviceQuery) ([]api.Device, error) {
	rows, err := store.In[store.RAIDSet](t).List(store.AscFold("name"))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	parts, err := store.In[store.Device](t).List(store.Ne("raid_set_id", ""), store.Asc("raid_index"))
	if err != nil {
		return nil, err
	}
	n, err := namesFor(t, parts, rows)
	if err != nil {
		return nil, err
	}
	of := map[string][]store.Device{}
	for _, d := range parts {
		of[d.RAIDSetID] = append(of[d.RAIDSetID], d)
	}
	var out []api.Device
	for _, r := range rows {
		if d := n.set(r, of[r.ID]); q.matches(d) {
			out = append(out, d)
		}
	}
	return out, nil
}

// views are devices as people see them.
func views(t *store.Tenant, rows []store.Device) ([]api.Device, error) {
	n, err := namesFor(t, rows, nil)
	if err != nil {
		return nil, err
	}
	keys, err := keysOf(t, rows)
	if err != nil {
		return nil, err
	}
	waiting, err := rotationsOf(t, rows)
	if err != nil {
		return nil, err
	}
	out := make([]api.Device, 0, len(rows))
	for _, d := range rows {
		view := n.device(d, keys[d.ID])
		view.Rotation = waiting[d.ID]
		out = append(out, view)
	}
	return out, nil
}

// someIDs is how many values one statement is given.
const someIDs = 1000

// keysOf are the newest keys of devices, without the keys.
func keysOf(t *store.Tenant, rows []store.Device) (map[string]*store.DeviceKey, error) {
	out := make(map[string]*store.DeviceKey, len(rows))
	for some := range slices.Chunk(rows, someIDs) {
		ids := make([]string, len(some))
		for i, d := range some {
			ids[i] = d.ID
		}
		keys, err := store.In[store.DeviceKey](t).List(store.OneOf("device_id", ids), store.Eq("pending", false), store.Asc("generation"), store.Only("device_id", "bits", "generation", "created_at"))
		if err != nil {
			return nil, err
		}
		for i := range keys {
			out[keys[i].DeviceID] = &keys[i]
		}
	}
	return out, nil
}

// namesFor reads the names that some devices and sets are shown with.
func namesFor(t *store.Tenant, devices []store.Device, sets []store.RAIDSet) (names, error) {
	n, err := noNames(t)
	if err != nil {
		return n, err
	}
	for _, d := range devices {
		n.policies[d.PolicyID], n.instances[d.InstanceID] = "", ""
	}
	for _, r := range sets {
		n.policies[r.PolicyID] = ""
	}
	for ids := range slices.Chunk(keysIn(n.policies), someIDs) {
		rows, err := store.In[store.Policy](t).List(store.OneOf("id", ids), store.Only("id", "name"))
		if err != nil {
			return n, err
		}
		for _, p := range rows {
			n.policies[p.ID] = p.Name
		}
	}
	for ids := range slices.Chunk(keysIn(n.instances), someIDs) {
		rows, err := store.In[store.Instance](t).List(store.OneOf("id", ids), store.Only("id", "host_name"))
		if err != nil {
			return n, err
		}
		for _, i := range rows {
			n.instances[i.ID] = i.HostName
		}
	}
	return n, nil
}

func keysIn(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		if k != "" {
			out = append(out, k)
		}
	}
	return out
}
