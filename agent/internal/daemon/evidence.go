package daemon

import (
	"context"

	"keyward/agent/facts"
	"keyward/broker/api"
)

// evidence is what the machine says of itself: for a key request with the broker's nonce and what will be done with the
// device, for a heartbeat with neither. Heartbeats of a machine with one volume in use describe that one.
func (d *Daemon) evidence(ctx context.Context, nonce, deviceID string) api.Evidence {
	src := facts.Sources{Clock: d.o.Now, AgentVersion: d.o.Version, Location: d.cfg.Location, UserData: d.cfg.UserData,
		Provider: d.provider.Name(), Device: d.device(deviceID)}
	if i, err := d.provider.Instance(ctx); err == nil {
		src.Location, src.UserData = i.Location, i.UserData
	}
	return facts.Collect(ctx, src, nonce)
}

// device is the configuration of a device, by default of the only one whose key is held.
func (d *Daemon) device(id string) *facts.Device {
	if id == "" {
		held := d.held()
		if len(held) != 1 {
			return nil
		}
		id = held[0].DeviceID
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.assigned {
		if a.ID == id {
			return &facts.Device{MountPoint: a.MountPoint, ReadOnly: a.Access == api.AccessReadOnly}
		}
	}
	return nil
}
