package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Publish takes a machine's complete list of devices and returns what the broker has recorded of them.
func (s *Service) Publish(ctx context.Context, p tenant.Principal, call idempotency.Call, in api.InventoryReport) (api.DeviceList, error) {
	if err := checkReport(in); err != nil {
		return api.DeviceList{}, err
	}
	return idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (api.DeviceList, error) {
		inst, err := store.In[store.Instance](t).Get(p.Instance)
		if err != nil {
			return api.DeviceList{}, fmt.Errorf("reading the machine: %w", err)
		}
		if inst.Provider != in.Provider || inst.Identity != in.Instance.Identity {
			return api.DeviceList{}, problem.New(403, "identity-changed", "The machine is not the one that enrolled",
				"The inventory names another provider or identity than the certificate's machine has.",
				"Enrol this machine anew with a token of its own.")
		}
		imageID := inst.ImageID
		if !inst.FromImage { // else the image is that of the certificate it enrolled by, whatever its provider knows
			image, err := s.image(t, p, in.Provider, in.Instance)
			if err != nil {
				return api.DeviceList{}, err
			}
			imageID = image.ID
		}
		describe(&inst, imageID, in.Instance)
		if err := Seen(t, p, &inst); err != nil {
			return api.DeviceList{}, err
		}
		if err := s.reconcile(t, p, inst, in.Devices); err != nil {
			return api.DeviceList{}, err
		}
		s.publish(t, feed.TopicInstances, feed.TopicDevices, feed.TopicKeyRequests) // where notices are shown
		return assigned(t, inst.ID)
	})
}

// Seen notes that the machine was in contact now and stores its row.
func Seen(t *store.Tenant, p tenant.Principal, inst *store.Instance) error {
	now := t.Now()
	inst.LastSeenAt, inst.SourceIP = &now, p.Address
	if inst.Missing {
		inst.Missing = false
		if err := audit.Append(t, audit.Entry{Category: "agent", Event: "instance.returned", Actor: p.Actor(), Subject: inst.ID,
			Detail: map[string]string{"host_name": inst.HostName}}); err != nil {
			return err
		}
	}
	return store.In[store.Instance](t).UpdateLater(inst)
}

// reconcile makes the rows of a machine's devices what the machine sees.
func (s *Service) reconcile(t *store.Tenant, p tenant.Principal, inst store.Instance, found []api.InventoryDevice) error {
	sighted, err := Sighted(t, inst.ID)
	if err != nil {
		return err
	}
	present := make(map[string]bool, len(found))
	here := make(map[string]bool, len(found))
	for _, d := range found {
		present[d.Identity] = true
		id, err := s.saw(t, p, inst, d, sighted)
		if err != nil {
			return err
		}
		here[id] = true
	}
	maps.DeleteFunc(sighted, func(id string, _ bool) bool { return here[id] })
	if err := forget(t, p, inst, slices.Sorted(maps.Keys(sighted))); err != nil {
		return err
	}
	mine, err := store.In[store.Device](t).List(store.Eq("instance_id", inst.ID))
	if err != nil {
		return err
	}
	for _, d := range mine {
		if present[d.Identity] || d.Status == api.DeviceUndetected {
			continue
		}
		if d.Status == api.DeviceInUse && d.StatusDetail == textMissing {
			continue
		}
		if _, err := Move(t, p, &d, Vanished, Ctx{}, ""); err != nil {
			return err
		}
	}
	return settleSets(t, p)
}

// saw records one device of a report and returns its ID.
func (s *Service) saw(t *store.Tenant, p tenant.Principal, inst store.Instance, in api.InventoryDevice, sighted map[string]bool) (string, error) {
	d, err := store.In[store.Device](t).First(store.Eq("provider", inst.Provider), store.Eq("identity", in.Identity))
	if errors.Is(err, store.ErrNotFound) {
		return s.discovered(t, p, inst, in, sighted)
	}
	if err != nil {
		return "", err
	}
	takes, err := sight(t, d, inst.ID, sighted)
	if err != nil {
		return "", err
	}
	return d.ID, s.update(t, p, inst, d, in, takes || d.Status == api.DeviceUndetected)
}

// update brings the row of a known device up to date. takes makes it the reporting machine's.
func (s *Service) update(t *store.Tenant, p tenant.Principal, inst store.Instance, d store.Device, in api.InventoryDevice, takes bool) error {
	before := d
	d.Size, d.Information, d.Contents = in.Size, in.Information, in.Contents
	if takes {
		d.InstanceID = inst.ID
	}
	if d.Status == api.DeviceNotConfigured && takes {
		d.ImageID = inst.ImageID
	}
	if d.StatusDetail == textMissing {
		d.StatusDetail = ""
	}
	if before.InstanceID != d.InstanceID {
		if err := audit.Append(t, audit.Entry{Category: "agent", Event: "device.moved", Actor: p.Actor(), Subject: d.ID,
			Detail: map[string]string{"name": d.Name, "from": before.InstanceID, "to": inst.ID}}); err != nil {
			return err
		}
		if err := moveRotation(t, d.ID, inst.ID); err != nil {
			return err
		}
	}
	if d.Status == api.DeviceUndetected {
		_, err := Move(t, p, &d, Published, Ctx{NotRoot: true}, "")
		return err
	}
	// A report that says nothing new must not make the version stale that a person has open.
	if reflect.DeepEqual(before, d) {
		return nil
	}
	return store.In[store.Device](t).Update(&d)
}

func (s *Service) discovered(t *store.Tenant, p tenant.Principal, inst store.Instance, in api.InventoryDevice, sighted map[string]bool) (string, error) {
	home, err := policyset.Default(t)
	if err != nil {
		return "", err
	}
	d := store.Device{Provider: inst.Provider, Identity: in.Identity, Name: cut(in.Name, maxName), Information: in.Information,
		Contents: in.Contents, Size: in.Size, Status: api.DeviceNotConfigured, PolicyID: home.ID, InstanceID: inst.ID, ImageID: inst.ImageID}
	if err := store.In[store.Device](t).Insert(&d); err != nil {
		return "", fmt.Errorf("recording device %q: %w", in.Identity, err)
	}
	if _, err := sight(t, d, inst.ID, sighted); err != nil {
		return "", err
	}
	return d.ID, audit.Append(t, audit.Entry{Category: "agent", Event: "device.added", Actor: p.Actor(), Subject: d.ID,
		Detail: map[string]string{"name": d.Name, "identity": d.Identity, "size": fmt.Sprint(d.Size), "contents": d.Contents, "instance": inst.ID}})
}

// Assigned lists what the broker has recorded of a machine's devices.
func (s *Service) Assigned(ctx context.Context, p tenant.Principal) (api.DeviceList, error) {
	var out api.DeviceList
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		out, err = assigned(tx.Tenant(p.AccountID), p.Instance)
		return err
	})
	return out, err
}

func assigned(t *store.Tenant, instanceID string) (api.DeviceList, error) {
	rows, err := SightedDevices(t, instanceID)
	if err != nil {
		return api.DeviceList{}, err
	}
	out := api.DeviceList{Devices: make([]api.AssignedDevice, 0, len(rows))}
	for _, d := range rows {
		view := AssignedView(d)
		if d.RAIDSetID != "" && d.RAIDIndex == 0 {
			u, err := UnitOf(t, d)
			if err != nil {
				return api.DeviceList{}, err
			}
			view = u.Assigned()
		}
		out.Devices = append(out.Devices, view)
	}
	return out, nil
}

// AssignedView is a device as its machine needs it.
func AssignedView(d store.Device) api.AssignedDevice {
	return api.AssignedDevice{ID: d.ID, Identity: d.Identity, Name: d.Name, Status: d.Status, FileSystem: d.FileSystem,
		MountPoint: d.MountPoint, Access: d.Access, KeyBits: d.KeyBits, Volume: d.Volume, Writers: d.Writers, SetID: d.RAIDSetID}
}
