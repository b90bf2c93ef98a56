package consoletest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// Images lists all images.
func (b *Broker) Images(context.Context, tenant.Principal) ([]api.Image, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.images), nil
}

// Image finds one.
func (b *Broker) Image(_ context.Context, _ tenant.Principal, id string) (api.Image, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.images, func(i api.Image) bool { return i.ID == id }, "image")
	if err != nil {
		return api.Image{}, err
	}
	return b.images[i], nil
}

// RenameImage changes name and description.
func (b *Broker) RenameImage(_ context.Context, p tenant.Principal, id string, in api.ImageWrite) (api.Image, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.images, func(i api.Image) bool { return i.ID == id }, "image")
	if err == nil {
		err = b.write(p, "policy", "image.changed", in.Name)
	}
	if err != nil {
		return api.Image{}, err
	}
	b.images[i].Name, b.images[i].Description = in.Name, in.Description
	return b.images[i], nil
}

// Instances lists the machines of an image.
func (b *Broker) Instances(_ context.Context, _ tenant.Principal, q inventory.InstanceQuery) ([]api.Instance, int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(b.machines), func(i api.Instance) bool { return q.Image != "" && i.ImageID != q.Image })
	total := int64(len(list))
	if q.Size > 0 {
		from := min((max(q.Page, 1)-1)*q.Size, len(list))
		list = list[from:min(from+q.Size, len(list))]
	}
	return list, total, nil
}

// Instance finds a machine with its devices.
func (b *Broker) Instance(_ context.Context, _ tenant.Principal, id string) (api.Instance, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.machines, func(i api.Instance) bool { return i.ID == id }, "instance")
	if err != nil {
		return api.Instance{}, err
	}
	m := b.machines[i]
	for _, d := range b.devices {
		if d.InstanceID == id {
			m.Devices = append(m.Devices, d)
		}
	}
	return m, nil
}

// Devices lists devices and RAID sets.
func (b *Broker) Devices(_ context.Context, _ tenant.Principal, q inventory.DeviceQuery) ([]api.Device, int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(b.devices), func(d api.Device) bool {
		return len(q.Status) > 0 && !slices.Contains(q.Status, d.Status) ||
			!strings.Contains(strings.ToLower(d.Name+d.Identity), strings.ToLower(q.Search))
	})
	total := int64(len(all))
	if q.Size > 0 {
		from := min((max(q.Page, 1)-1)*q.Size, len(all))
		all = all[from:min(from+q.Size, len(all))]
	}
	return all, total, nil
}

// Device finds a device or RAID set.
func (b *Broker) Device(_ context.Context, _ tenant.Principal, id string) (api.Device, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.devices, func(d api.Device) bool { return d.ID == id }, "device")
	if err != nil {
		return api.Device{}, err
	}
	return b.devices[i], nil
}

// change applies do to one device and wakes the pages that show it.
func (b *Broker) change(p tenant.Principal, id, event string, do func(*api.Device) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.devices, func(d api.Device) bool { return d.ID == id }, "device")
	if err != nil {
		return err
	}
	if err := b.write(p, "key", event, id); err != nil {
		return err
	}
	if err := do(&b.devices[i]); err != nil {
		return err
	}
	b.devices[i].Version++
	b.Hub.Publish(b.account.ID, feed.TopicDevices)
	return nil
}

// Configure saves a device.
func (b *Broker) Configure(_ context.Context, p tenant.Principal, id string, in api.DeviceWrite) error {
	return b.change(p, id, "device.configured", func(d *api.Device) error {
		if in.Version != d.Version {
			return problem.Stale("device")
		}
		d.Name, d.Description, d.Platform, d.FileSystem, d.MountPoint = in.Name, in.Description, in.Platform, in.FileSystem, in.MountPoint
		d.Access, d.KeyBits, d.ImageID = in.Access, in.KeyBits, in.ImageID
		if d.Status == api.DeviceNotConfigured && d.MountPoint != "" {
			d.Status = api.DeviceConfigured
		}
		return nil
	})
}

// Encrypt orders encryption.
func (b *Broker) Encrypt(_ context.Context, p tenant.Principal, id string, in api.EncryptWrite) error {
	return b.change(p, id, "device.encrypt-asked", func(d *api.Device) error {
		if in.Confirm != d.Name {
			return problem.Invalid("confirm", "is not the device's name")
		}
		d.Status = api.DeviceEncryptionPending
		d.StatusDetail = fmt.Sprintf("Waiting for the machine to begin, for at most %dm.", cmp.Or(in.WaitSeconds, api.DefaultEncryptWait)/60)
		return nil
	})
}

// CancelEncryption takes it back.
func (b *Broker) CancelEncryption(_ context.Context, p tenant.Principal, id string) error {
	return b.change(p, id, "device.encryption-cancelled", func(d *api.Device) error { d.Status = api.DeviceConfigured; return nil })
}

// Unconfigure destroys the key.
func (b *Broker) Unconfigure(_ context.Context, p tenant.Principal, id string, in api.UnconfigureWrite) error {
	return b.change(p, id, "device.unconfigured", func(d *api.Device) error {
		if in.Confirm != d.Name {
			return problem.Invalid("confirm", "is not the name; type it exactly to say that you mean it")
		}
		d.Status, d.Key = api.DeviceNotConfigured, nil
		return nil
	})
}

// UnconfigureRAIDSet is Unconfigure.
func (b *Broker) UnconfigureRAIDSet(ctx context.Context, p tenant.Principal, id string, in api.UnconfigureWrite) error {
	return b.Unconfigure(ctx, p, id, in)
}

// DeleteDevice removes a device.
func (b *Broker) DeleteDevice(_ context.Context, p tenant.Principal, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.write(p, "key", "device.deleted", id); err != nil {
		return err
	}
	b.devices = slices.DeleteFunc(b.devices, func(d api.Device) bool { return d.ID == id })
	return nil
}

// DeleteRAIDSet is DeleteDevice.
func (b *Broker) DeleteRAIDSet(ctx context.Context, p tenant.Principal, id string) error {
	return b.DeleteDevice(ctx, p, id)
}

// CopyConfiguration copies what a clone takes over.
func (b *Broker) CopyConfiguration(_ context.Context, p tenant.Principal, id, sourceID string) error {
	source, err := b.Device(context.Background(), p, sourceID)
	if err != nil {
		return err
	}
	return b.change(p, id, "device.cloned", func(d *api.Device) error {
		d.Platform, d.FileSystem, d.MountPoint, d.Key, d.Status = source.Platform, source.FileSystem, source.MountPoint, source.Key, api.DeviceEncrypted
		return nil
	})
}

// RotateKey makes a rotation that waits.
func (b *Broker) RotateKey(_ context.Context, p tenant.Principal, id string, in api.KeyRotationWrite) error {
	return b.change(p, id, "device.key-rotation-asked", func(d *api.Device) error {
		if d.Key == nil || d.Rotation != nil {
			return problem.Conflict("The device has no key to replace, or a rotation waits.", "Nothing was changed.")
		}
		d.Rotation = &api.KeyRotation{JobID: "job-new", Status: "queued", Generation: 2, AskedBy: p.UserName, AskedAt: b.Clock(), Reason: in.Reason}
		return nil
	})
}

// CancelRotation takes it back.
func (b *Broker) CancelRotation(_ context.Context, p tenant.Principal, id string) error {
	return b.change(p, id, "device.key-rotation-cancelled", func(d *api.Device) error {
		if d.Rotation == nil {
			return problem.Conflict("No rotation waits.", "Nothing was changed.")
		}
		d.Rotation = nil
		return nil
	})
}

// JobList tells of one job of each kind.
func (b *Broker) JobList(context.Context, tenant.Principal, string) ([]api.Job, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []api.Job
	for _, d := range b.devices {
		j := api.Job{DeviceID: d.ID, DeviceName: d.Name, InstanceID: d.InstanceID, InstanceName: d.InstanceName, CreatedAt: b.Clock().Add(-time.Hour), UpdatedAt: b.Clock().Add(-time.Minute)}
		switch {
		case d.Rotation != nil:
			j.ID, j.Kind, j.Status, j.AskedBy, j.Waits = d.Rotation.JobID, "rotate-key", d.Rotation.Status, d.Rotation.AskedBy, d.Rotation.Waits
		case d.Status == api.DeviceEncrypting:
			j.ID, j.Kind, j.Status, j.Phase, j.Percent = "job-"+d.ID, "encrypt", "running", "file system", 40
		case d.Status == api.DeviceEncryptionError:
			j.ID, j.Kind, j.Status, j.Error, j.EndedAt = "job-"+d.ID, "encrypt", "failed", d.StatusDetail, &d.UpdatedAt
		default:
			continue
		}
		out = append(out, j)
	}
	return out, nil
}

// Export writes something that is no archive.
func (b *Broker) Export(_ context.Context, p tenant.Principal, in api.ExportWrite, w io.Writer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.write(p, "key", "device-key.exported", strings.Join(in.DeviceIDs, ",")); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "archive of %d keys", len(in.DeviceIDs))
	return err
}

// CreateRAIDSet joins devices.
func (b *Broker) CreateRAIDSet(_ context.Context, p tenant.Principal, in api.RAIDSetWrite) (api.Device, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(in.MemberIDs) < 2 {
		return api.Device{}, problem.Invalid("member_ids", "choose at least two devices")
	}
	if err := b.write(p, "key", "raid-set.created", in.Name); err != nil {
		return api.Device{}, err
	}
	d := api.Device{ID: uuid.NewString(), Identity: in.Name, Name: in.Name, Description: in.Description, Status: api.DeviceConfigured, Platform: in.Platform,
		FileSystem: in.FileSystem, MountPoint: in.MountPoint, KeyBits: in.KeyBits, MemberIDs: in.MemberIDs, Version: 1}
	b.devices = append(b.devices, d)
	return d, nil
}

// UpdateRAIDSet changes a set.
func (b *Broker) UpdateRAIDSet(_ context.Context, p tenant.Principal, id string, in api.RAIDSetWrite) error {
	return b.change(p, id, "raid-set.changed", func(d *api.Device) error {
		d.Name, d.Description, d.MountPoint, d.MemberIDs = in.Name, in.Description, in.MountPoint, in.MemberIDs
		return nil
	})
}
