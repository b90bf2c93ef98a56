package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/agent/volume"
	"keyward/broker/api"
)

// inventoryLoop publishes the machine's devices at the start and whenever they change.
func (d *Daemon) inventoryLoop(ctx context.Context) {
	failures := 0
	published := false
	for ctx.Err() == nil {
		changed, err := d.scan(ctx)
		if err == nil && (changed || !published) {
			err = d.publish(ctx)
			published = err == nil
		}
		if err != nil {
			failures++
			d.log.Warn("publishing the inventory", "error", err)
			pause(ctx, d.o.Backoff(failures))
			continue
		}
		failures = 0
		pause(ctx, d.o.DeviceCheck)
	}
}

// scan looks at the machine's devices and reports whether they differ from the last look.
func (d *Daemon) scan(ctx context.Context) (changed bool, err error) {
	for _, v := range d.all() {
		if s := v.Snapshot().State; s == volume.Suspended || s == volume.Locking {
			return false, nil // its block device would hold up whoever reads it
		}
	}
	devices, err := d.devices(ctx)
	if err != nil {
		return false, fmt.Errorf("look for devices: %w", err)
	}
	now := map[string]found{}
	for _, dev := range devices {
		f := asFound(dev)
		now[f.identity] = f
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	changed = len(now) != len(d.found)
	for id, f := range now {
		changed = changed || d.found[id].differs(f)
	}
	d.found = now
	return changed, nil
}

// publish sends the inventory and takes the broker's list in return.
func (d *Daemon) publish(ctx context.Context) error {
	d.inventory.Lock()
	defer d.inventory.Unlock()
	instance, err := instanceInfo(ctx, d.provider, d.o.Version)
	if err != nil {
		return err
	}
	d.mu.Lock()
	report := api.InventoryReport{Provider: d.provider.Name(), Instance: instance, Devices: []api.InventoryDevice{}}
	for _, f := range d.found {
		report.Devices = append(report.Devices, f.published())
	}
	d.mu.Unlock()
	slices.SortFunc(report.Devices, func(a, b api.InventoryDevice) int { return compare(a.Identity, b.Identity) })
	list, err := d.broker.PublishInventory(ctx, report)
	if d.link.saw(err) != nil {
		return err
	}
	d.apply(list)
	return nil
}

// refresh asks what the broker has recorded now.
func (d *Daemon) refresh(ctx context.Context) error {
	list, err := d.broker.Devices(ctx)
	if d.link.saw(err) != nil {
		return err
	}
	d.apply(list)
	return nil
}

// refreshSoon refreshes in the background; a failure is made good by the next command, which the broker repeats.
func (d *Daemon) refreshSoon() {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.refresh(ctx); err != nil {
			d.log.Warn("asking for this machine's devices", "error", err)
		}
	}()
}

// apply makes a volume of every encrypted device that is here, and lets go of those that are no longer the machine's.
func (d *Daemon) apply(list api.DeviceList) {
	type start struct {
		v    *volume.Volume
		disk string
	}
	var asks []start
	var gone []*volume.Volume
	d.mu.Lock()
	if d.stopping {
		d.mu.Unlock()
		return
	}
	before := map[string]string{}
	for _, a := range d.assigned {
		if a.Volume != nil {
			before[a.ID] = a.Volume.UUID
		}
	}
	d.assigned = list.Devices
	select {
	case d.listed <- struct{}{}:
	default:
	}
	known := map[string]bool{}
	for _, a := range list.Devices {
		disk, here := d.diskOf(a)
		known[a.ID] = usable(a)
		if v := d.volumes[a.ID]; v != nil || !usable(a) || !here {
			// It came back under another name, or its key was destroyed and it was encrypted anew.
			other := v != nil && here && (v.Snapshot().Disk != disk || usable(a) && a.Volume.UUID != before[a.ID])
			if other && v.Snapshot().State == volume.Locked {
				asks = append(asks, start{v, disk})
			}
			continue
		}
		v := volume.New(a, disk, d.volumeOptions())
		d.volumes[a.ID] = v
		asks = append(asks, start{v, disk})
	}
	for id, v := range d.volumes {
		if !known[id] && !v.Snapshot().State.HoldsKey() && v.Snapshot().State != volume.Suspended {
			delete(d.volumes, id)
			gone = append(gone, v)
		}
	}
	d.mu.Unlock()
	for _, a := range asks {
		a.v.Ask("found on this machine", a.disk)
	}
	for _, v := range gone {
		go func() { _ = v.Close(context.Background(), "the device is no longer assigned to this machine") }()
	}
}

// usable says whether the broker has a volume of the device. A RAID set stands there as its first member, and is asked for
// while one of its members is lost, too: the broker says which.
func usable(a api.AssignedDevice) bool {
	if a.Set != nil {
		return a.Volume != nil && !slices.ContainsFunc(a.Set.Members, func(m api.AssignedMember) bool { return m.Volume == nil })
	}
	return a.SetID == "" && a.Volume != nil && (a.Status == api.DeviceEncrypted || a.Status == api.DeviceInUse)
}

// diskOf is where a device is, or those members of a RAID set that are here. The caller holds d.mu.
func (d *Daemon) diskOf(a api.AssignedDevice) (disk string, here bool) {
	if a.Set == nil {
		f, here := d.found[a.Identity]
		return f.path, here
	}
	var paths []string
	for _, m := range a.Set.Members {
		if f, here := d.found[m.Identity]; here {
			paths = append(paths, f.path)
		}
	}
	return strings.Join(paths, ", "), len(paths) > 0
}

// whereIs is the disk with an identity.
func (d *Daemon) whereIs(identity string) (disk string, here bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, here := d.found[identity]
	return f.path, here
}

// called is what people call a device, or the RAID set that it stands for.
func called(a api.AssignedDevice) string {
	if a.Set != nil {
		return a.Set.Name
	}
	return a.Name
}

func (d *Daemon) volumeOptions() volume.Options {
	return volume.Options{Courier: d.courier, Platform: d.platform, Boottime: d.o.Boottime, Now: d.o.Now,
		LeaseCheck: d.o.LeaseCheck, LeaseMode: api.RevokeMode(d.cfg.LeaseEnd), Backoff: d.o.Backoff, Changed: d.changed, Logger: d.log}
}

func (d *Daemon) all() []*volume.Volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*volume.Volume, 0, len(d.volumes))
	for _, v := range d.volumes {
		out = append(out, v)
	}
	return out
}

// changed is called by volumes at every change of state.
func (d *Daemon) changed(volume.Snapshot) {
	select {
	case d.settled <- struct{}{}:
	default:
	}
}
