package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// The kind and the states of the jobs that give a device's data a new key. A rotation waits without an end: the key that the
// volume has stays the one that opens it until a machine has written the data anew.
const (
	JobRotateKey     = "rotate-key"
	rotationQueued   = "queued"
	rotationCanceled = "cancelled"
)

// openRotation are the filters of rotations that are not over.
func openRotation(more ...store.Filter) []store.Filter {
	return append([]store.Filter{store.Eq("kind", JobRotateKey), store.Eq("status", rotationQueued)}, more...)
}

// RotateKey makes a new key for the data of a device, beside the one that its volume has, and the job that writes the data
// anew. Nothing about unlocking changes until that job is done.
func (s *Service) RotateKey(ctx context.Context, p tenant.Principal, id string, in api.KeyRotationWrite) error {
	reason, err := approval.Reason(in.Reason)
	if err != nil {
		return err
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		d, err := device(t, id)
		if err != nil {
			return err
		}
		waiting, err := store.In[store.Job](t).Count(openRotation(store.Eq("device_id", d.ID))...)
		if err != nil {
			return err
		}
		if _, err := Move(t, p, &d, RotationAsked, Ctx{Single: d.RAIDSetID == "", NoRotation: waiting == 0}, ""); err != nil {
			return err
		}
		generation, err := s.pend(t, d)
		if err != nil {
			return err
		}
		j := store.Job{Kind: JobRotateKey, DeviceID: d.ID, InstanceID: d.InstanceID, Status: rotationQueued, ExpiresAt: t.Now(), Generation: generation, AskedBy: askedBy(p), Reason: reason}
		if err := store.In[store.Job](t).Insert(&j); err != nil {
			return fmt.Errorf("queueing the rotation of the key of device %q: %w", d.Name, err)
		}
		s.publish(t, feed.TopicDevices, feed.Instance(d.InstanceID))
		return rotationRecord(t, p, "device-key.pending", d, j)
	})
}

// askedBy is who people read that a rotation was asked for by.
func askedBy(p tenant.Principal) string {
	if p.UserName != "" {
		return p.UserName
	}
	return p.Actor()
}

// pend makes and stores the pending key of a device: of the cipher and size that its volume has.
func (s *Service) pend(t *store.Tenant, d store.Device) (int64, error) {
	now, err := CurrentKey(t, d.ID)
	if err != nil {
		return 0, fmt.Errorf("reading the key of device %q: %w", d.Name, err)
	}
	account, err := AccountKey(t)
	if err != nil {
		return 0, err
	}
	generation, err := nextGeneration(t, d.ID)
	if err != nil {
		return 0, err
	}
	k, err := keystore.NextDeviceKey(s.Root, account, WrappedKey(now), generation)
	if err != nil {
		return 0, fmt.Errorf("making a new key for device %q: %w", d.Name, err)
	}
	return generation, store.In[store.DeviceKey](t).Insert(&store.DeviceKey{DeviceID: d.ID, Bits: k.Bits, Cipher: k.Cipher, Generation: k.Generation,
		AccountGeneration: k.AccountGeneration, Wrapped: k.Wrapped, Pending: true})
}

// CancelRotation takes back a rotation that no machine has begun, and destroys its key: nothing is written with it.
func (s *Service) CancelRotation(ctx context.Context, p tenant.Principal, id string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		d, err := device(t, id)
		if err != nil {
			return err
		}
		waiting, err := store.In[store.Job](t).Count(openRotation(store.Eq("device_id", d.ID))...)
		if err != nil {
			return err
		}
		if _, err := Move(t, p, &d, RotationCancelled, Ctx{RotationQueued: waiting > 0}, ""); err != nil {
			return err
		}
		s.publish(t, feed.TopicDevices, feed.Instance(d.InstanceID))
		return nil
	})
}

// endRotation closes the rotation of a device, if one waits, and destroys its key.
func endRotation(t *store.Tenant, p tenant.Principal, d store.Device, why string) error {
	jobs := store.In[store.Job](t)
	rows, err := jobs.List(openRotation(store.Eq("device_id", d.ID))...)
	if err != nil {
		return err
	}
	for _, j := range rows {
		now := t.Now()
		j.Status, j.Error, j.EndedAt = rotationCanceled, why, &now
		if err := jobs.Update(&j); err != nil {
			return fmt.Errorf("ending the rotation of the key of device %q: %w", d.Name, err)
		}
		if err := rotationRecord(t, p, "device-key.pending-destroyed", d, j); err != nil {
			return err
		}
	}
	_, err = store.In[store.DeviceKey](t).DeleteWhere(store.Eq("device_id", d.ID), store.Eq("pending", true))
	return err
}

func rotationRecord(t *store.Tenant, p tenant.Principal, event string, d store.Device, j store.Job) error {
	return audit.Append(t, audit.Entry{Category: audit.Key, Event: event, Actor: p.Actor(), Subject: d.ID,
		Detail: filled(map[string]string{"name": d.Name, "job": j.ID, "generation": strconv.FormatInt(j.Generation, 10), "reason": j.Reason, "ended": j.Error})})
}

// moveRotation gives the waiting rotation of a device to the machine that has it now.
func moveRotation(t *store.Tenant, deviceID, instanceID string) error {
	jobs := store.In[store.Job](t)
	j, err := jobs.First(openRotation(store.Eq("device_id", deviceID))...)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	j.InstanceID, j.Waits, j.WaitsAgent = instanceID, "", ""
	return jobs.Update(&j)
}

// Refuses keeps why a machine has not begun a rotation, by its own word. It is recorded when it says something new.
func Refuses(t *store.Tenant, p tenant.Principal, j *store.Job, why string) error {
	inst, err := store.In[store.Instance](t).Get(p.Instance)
	if err != nil {
		return err
	}
	if j.Waits == why && j.WaitsAgent == inst.AgentVersion {
		return nil
	}
	j.Waits, j.WaitsAgent = why, inst.AgentVersion
	if err := store.In[store.Job](t).Update(j); err != nil {
		return err
	}
	return audit.Append(t, audit.Entry{Category: audit.Key, Event: "job.waits", Actor: p.Actor(), Subject: j.ID,
		Detail: map[string]string{"device": j.DeviceID, "reason": why, "agent": inst.AgentVersion}})
}

// RotationCommands are the rotations that a machine's agent is asked to begin. One that has said that it cannot is asked
// again when it is of another version.
func RotationCommands(t *store.Tenant, rows []store.Job) ([]api.Command, error) {
	var out []api.Command
	for _, j := range rows {
		inst, err := store.In[store.Instance](t).Get(j.InstanceID)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if j.Waits == "" || j.WaitsAgent != inst.AgentVersion {
			out = append(out, api.Command{Kind: api.CommandRotateKey, JobID: j.ID, DeviceID: j.DeviceID})
		}
	}
	return out, nil
}

// rotations are the waiting rotations that filters select, by device.
func rotations(t *store.Tenant, more ...store.Filter) (map[string]*api.KeyRotation, error) {
	rows, err := store.In[store.Job](t).List(openRotation(more...)...)
	out := make(map[string]*api.KeyRotation, len(rows))
	for _, j := range rows {
		out[j.DeviceID] = &api.KeyRotation{JobID: j.ID, Status: j.Status, Generation: j.Generation, AskedBy: j.AskedBy, AskedAt: j.CreatedAt, Reason: j.Reason, Waits: j.Waits}
	}
	return out, err
}

// rotationsOf are the waiting rotations of devices.
func rotationsOf(t *store.Tenant, rows []store.Device) (map[string]*api.KeyRotation, error) {
	out := map[string]*api.KeyRotation{}
	for some := range slices.Chunk(rows, someIDs) {
		ids := make([]string, len(some))
		for i, d := range some {
			ids[i] = d.ID
		}
		found, err := rotations(t, store.OneOf("device_id", ids))
		if err != nil {
			return nil, err
		}
		for id, r := range found {
			out[id] = r
		}
	}
	return out, nil
}

// maxJobs is how many jobs a list has; older ones are in the audit log.
const maxJobs = 200

// JobList lists the account's jobs, newest first: of one device, or of all.
func (s *Service) JobList(ctx context.Context, p tenant.Principal, deviceID string) ([]api.Job, error) {
	out := []api.Job{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		filters := []store.Filter{store.Desc("created_at"), store.Limit(maxJobs)}
		if deviceID != "" {
			if _, err := device(t, deviceID); err != nil {
				return err
			}
			filters = append(filters, store.Eq("device_id", deviceID))
		}
		rows, err := store.In[store.Job](t).List(filters...)
		if err != nil {
			return err
		}
		out, err = jobViews(t, rows)
		return err
	})
	return out, err
}

func jobViews(t *store.Tenant, rows []store.Job) ([]api.Job, error) {
	devices, machines := map[string]string{}, map[string]string{}
	for _, j := range rows {
		devices[j.DeviceID], machines[j.InstanceID] = "", ""
	}
	found, err := store.In[store.Device](t).List(store.OneOf("id", keysIn(devices)), store.Only("id", "name"))
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		devices[d.ID] = d.Name
	}
	hosts, err := store.In[store.Instance](t).List(store.OneOf("id", keysIn(machines)), store.Only("id", "host_name"))
	if err != nil {
		return nil, err
	}
	for _, i := range hosts {
		machines[i.ID] = i.HostName
	}
	out := make([]api.Job, len(rows))
	for i, j := range rows {
		out[i] = api.Job{ID: j.ID, Kind: j.Kind, Status: j.Status, DeviceID: j.DeviceID, DeviceName: devices[j.DeviceID], InstanceID: j.InstanceID, InstanceName: machines[j.InstanceID],
			Phase: j.Phase, Percent: j.Percent, Error: j.Error, Waits: j.Waits, AskedBy: j.AskedBy, Reason: j.Reason, CreatedAt: j.CreatedAt, UpdatedAt: j.UpdatedAt, EndedAt: j.EndedAt}
	}
	return out, nil
}
