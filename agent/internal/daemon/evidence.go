package daemon

import (
	"context"
	"time"

	"keyward/agent/facts"
	"keyward/agent/internal/config"
	"keyward/agent/provider"
	"keyward/broker/api"
)

// evidence is what the machine says of itself: for a key request with the broker's nonce and what will be done with the
// device, for a heartbeat of the machine alone.
func (d *Daemon) evidence(ctx context.Context, nonce, deviceID string) api.Evidence {
	src := sources(ctx, d.cfg, d.provider, d.o.Version)
	src.Clock, src.Device, src.Memory = d.o.Now, d.device(deviceID), d.memory
	e := facts.Collect(ctx, src, nonce)
	e.Cloud = d.cloud.document(ctx)
	return e
}

// Evidence collects the facts of this machine as its agent would, for people who write rules. It needs no running agent.
func Evidence(ctx context.Context, cfg config.Config, version string) (api.Evidence, error) {
	machine, err := openProvider(cfg)
	if err != nil {
		return api.Evidence{}, err
	}
	return facts.Collect(ctx, sources(ctx, cfg, machine, version), ""), nil
}

// sources of the machine's facts, without a device.
func sources(ctx context.Context, cfg config.Config, machine provider.Provider, version string) facts.Sources {
	src := facts.Sources{AgentVersion: version, Location: cfg.Location, UserData: cfg.UserData, Provider: machine.Name(), Configured: configured(cfg.Facts)}
	if i, err := machine.Instance(ctx); err == nil {
		src.Location, src.UserData = i.Location, i.UserData
	}
	return src
}

// scriptTime is how long a script that gives a fact may run unless its configuration says so.
const scriptTime = 5 * time.Second

// configured are the facts that the machine's configuration names.
func configured(c config.Facts) facts.Configured {
	out := facts.Configured{Packages: c.Packages, Files: c.Files, ClamdSocket: c.ClamdSocket}
	for _, s := range c.Scripts {
		timeout := time.Duration(s.TimeoutSeconds) * time.Second
		if timeout == 0 {
			timeout = scriptTime
		}
		out.Scripts = append(out.Scripts, facts.Script{Name: s.Name, Path: s.Path, Number: s.Result == "number", Timeout: timeout})
	}
	return out
}

// device is the configuration of a device; nil where none is meant or none is known.
func (d *Daemon) device(id string) *facts.Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.assigned {
		if a.ID == id && id != "" {
			return asDevice(a)
		}
	}
	return nil
}

func asDevice(a api.AssignedDevice) *facts.Device {
	return &facts.Device{MountPoint: a.MountPoint, ReadOnly: a.Access == api.AccessReadOnly}
}

// deviceFacts are the facts of every volume of this machine, so that a heartbeat can be judged for each.
func (d *Daemon) deviceFacts(ctx context.Context) []api.DeviceFacts {
	d.mu.Lock()
	var volumes []api.AssignedDevice
	for _, a := range d.assigned {
		if d.volumes[a.ID] != nil {
			volumes = append(volumes, a)
		}
	}
	d.mu.Unlock()
	var out []api.DeviceFacts
	for _, a := range volumes {
		out = append(out, api.DeviceFacts{DeviceID: a.ID, Facts: facts.OfDevice(ctx, facts.Sources{Clock: d.o.Now, Device: asDevice(a)})})
	}
	return out
}
