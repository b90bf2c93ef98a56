package daemon

import (
	"context"
	"fmt"
	"slices"

	"keyward/agent/internal/adopt"
	"keyward/agent/internal/config"
	"keyward/agent/provider"
	"keyward/broker/api"
)

// Import brings an existing volume under the broker. name is the disk's path, name or identity; j has all but what this
// machine and its broker know.
func Import(ctx context.Context, cfg config.Config, version, name string, j adopt.Job) (api.AssignedDevice, error) {
	store, err := OpenStore(cfg, nil)
	if err != nil {
		return api.AssignedDevice{}, err
	}
	id, err := store.Load()
	if err != nil {
		return api.AssignedDevice{}, fmt.Errorf("load the machine's identity: %w", err)
	}
	machine, err := openProvider(cfg)
	if err != nil {
		return api.AssignedDevice{}, err
	}
	devices, err := machine.Devices(ctx)
	if err != nil {
		return api.AssignedDevice{}, fmt.Errorf("look for devices: %w", err)
	}
	at := slices.IndexFunc(devices, func(d provider.Device) bool { return d.Path == name || d.Name == name || d.ID == name })
	if at < 0 {
		return api.AssignedDevice{}, fmt.Errorf("no device %q is here; keyward-agent config -k lists the devices, and native.images in the configuration adds image files", name)
	}
	list, err := Publish(ctx, cfg, version)
	if err != nil {
		return api.AssignedDevice{}, err
	}
	known := slices.IndexFunc(list.Devices, func(d api.AssignedDevice) bool { return d.Identity == devices[at].ID })
	if known < 0 {
		return api.AssignedDevice{}, fmt.Errorf("the broker has not recorded %s; look at the machine's page in the console", devices[at].Name)
	}
	agent, err := connect(cfg, id)
	if err != nil {
		return api.AssignedDevice{}, err
	}
	defer agent.Close()
	j.Broker, j.InstanceID, j.Device, j.DeviceID = agent, id.InstanceID, devices[at], list.Devices[known].ID
	return j.Run(ctx)
}
