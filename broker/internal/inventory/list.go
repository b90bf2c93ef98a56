package inventory

import (
	"context"
	"errors"
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// DeviceQuery selects devices and RAID sets. Empty members select everything; Page counts from 1, and a Size of 0
// returns all.
type DeviceQuery struct {
	Status   []api.DeviceStatus
	Instance string
	Policy   string
	Image    string
	// Search is found in name, identity or mount point, whatever the case.
	Search string
	Page   int
	Size   int
}

// Devices lists devices and RAID sets by name, and counts all that match. A page is read as a page.
func (s *Service) Devices(ctx context.Context, p tenant.Principal, q DeviceQuery) ([]api.Device, int64, error) {
	if q.Size > 0 {
		return s.devicePage(ctx, p, q)
	}
	var all []api.Device
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		var err error
		all, err = everything(t)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	all = slices.DeleteFunc(all, func(d api.Device) bool { return !q.matches(d) })
	slices.SortFunc(all, func(a, b api.Device) int {
		return strings.Compare(byName(a.Name, a.ID), byName(b.Name, b.ID))
	})
	return all, int64(len(all)), nil
}

func (q DeviceQuery) matches(d api.Device) bool {
	search := strings.ToLower(q.Search)
	return (len(q.Status) == 0 || slices.Contains(q.Status, d.Status)) &&
		(q.Instance == "" || q.Instance == d.InstanceID) &&
		(q.Policy == "" || q.Policy == d.PolicyID) &&
		(q.Image == "" || q.Image == d.ImageID) &&
		(search == "" || strings.Contains(strings.ToLower(d.Name+"\x00"+d.Identity+"\x00"+d.MountPoint), search))
}

// everything reads all devices and sets of an account; an account has thousands at most.
func everything(t *store.Tenant) ([]api.Device, error) {
	n, err := namesOf(t)
	if err != nil {
		return nil, err
	}
	keys, err := store.In[store.DeviceKey](t).List(store.Eq("pending", false), store.Asc("generation"), store.Only("device_id", "bits", "generation", "created_at"))
	if err != nil {
		return nil, err
	}
	newest := make(map[string]*store.DeviceKey, len(keys))
	for i := range keys {
		newest[keys[i].DeviceID] = &keys[i]
	}
	devices, err := store.In[store.Device](t).List(store.Asc("raid_index"))
	if err != nil {
		return nil, err
	}
	waiting, err := rotations(t)
	if err != nil {
		return nil, err
	}
	of := map[string][]store.Device{}
	out := make([]api.Device, 0, len(devices))
	for _, d := range devices {
		view := n.device(d, newest[d.ID])
		view.Rotation = waiting[d.ID]
		out = append(out, view)
		if d.RAIDSetID != "" {
			of[d.RAIDSetID] = append(of[d.RAIDSetID], d)
		}
	}
	sets, err := store.In[store.RAIDSet](t).List()
	if err != nil {
		return nil, err
	}
	for _, r := range sets {
		out = append(out, n.set(r, of[r.ID]))
	}
	return out, nil
}

// Device returns one device or RAID set.
func (s *Service) Device(ctx context.Context, p tenant.Principal, id string) (api.Device, error) {
	var out api.Device
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		d, err := store.In[store.Device](t).Get(id)
		if errors.Is(err, store.ErrNotFound) {
			out, err = readSet(t, id)
			return err
		}
		if err != nil {
			return err
		}
		out, err = View(t, d)
		return err
	})
	return out, err
}

// device reads one device, not a RAID set.
func device(t *store.Tenant, id string) (store.Device, error) {
	d, err := store.In[store.Device](t).Get(id)
	if errors.Is(err, store.ErrNotFound) {
		return d, problem.NotFound("device")
	}
	return d, err
}
