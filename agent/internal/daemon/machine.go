package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"keyward/agent/internal/config"
	"keyward/agent/provider"
	"keyward/broker/api"
)

// scanWait bounds one look at the machine's devices: a disk that no longer answers, or a volume that is suspended while it
// is looked at, must not hold up everything else.
const scanWait = 30 * time.Second

// Providers are the names of the plug-ins that this agent has.
func Providers() []string { return []string{provider.NativeName} }

// openProvider makes the plug-in that the configuration names.
func openProvider(cfg config.Config) (provider.Provider, error) {
	if !strings.EqualFold(cfg.Provider, provider.NativeName) {
		return nil, fmt.Errorf("provider %q is not known; this agent has: %s", cfg.Provider, strings.Join(Providers(), ", "))
	}
	native := provider.NativeConfig{Location: cfg.Location, UserData: cfg.UserData}
	for _, i := range cfg.Native.Images {
		native.Images = append(native.Images, provider.ImageFile{Path: i.Path})
	}
	p, err := provider.NewNative(native)
	if err != nil {
		return nil, fmt.Errorf("provider %s: %w", provider.NativeName, err)
	}
	return p, nil
}

// instanceInfo is the machine as the broker records it.
func instanceInfo(ctx context.Context, p provider.Provider, version string) (api.InstanceInfo, error) {
	i, err := p.Instance(ctx)
	if err != nil {
		return api.InstanceInfo{}, fmt.Errorf("ask provider %s for this machine: %w", p.Name(), err)
	}
	return api.InstanceInfo{Identity: i.ID, HostName: i.HostName, Location: i.Location, ImageIdentity: i.ImageID, AgentVersion: version}, nil
}

// found is a device of this machine.
type found struct {
	identity, name, path, information, contents, inUse string
	size                                               int64
	readOnly                                           bool
}

func asFound(d provider.Device) found {
	f := found{identity: d.ID, name: d.Name, path: d.Path, contents: d.Contents, inUse: d.InUse, size: d.Size, readOnly: d.ReadOnly}
	f.information = strings.TrimSpace(string(d.Kind) + " " + d.Path + " " + d.Description)
	if d.Empty {
		f.contents = "empty"
	}
	return f
}

// published is the device as the broker sees it.
func (f found) published() api.InventoryDevice {
	return api.InventoryDevice{Identity: f.identity, Name: f.name, Size: f.size, Information: f.information, Contents: f.contents}
}

// differs reports a change that the broker should know of. Who uses a device now is not one.
func (f found) differs(o found) bool { return f.published() != o.published() || f.path != o.path }

func compare(a, b string) int { return cmp.Compare(a, b) }

// errScanHangs is returned when a look at the devices, or the one before it, does not come back.
var errScanHangs = errors.New("looking for devices takes too long: a disk does not answer, or a volume is suspended")

// devices asks the provider, but not for longer than scanWait, and never twice at a time: who comes while another looks
// waits for its turn.
func (d *Daemon) devices(ctx context.Context) ([]provider.Device, error) {
	type answer struct {
		devices []provider.Device
		err     error
	}
	t := time.NewTimer(scanWait)
	defer t.Stop()
	select {
	case d.scanning <- struct{}{}:
	case <-t.C:
		return nil, errScanHangs
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	got := make(chan answer, 1)
	go func() {
		defer func() { <-d.scanning }()
		devices, err := d.provider.Devices(ctx)
		got <- answer{devices, err}
	}()
	select {
	case a := <-got:
		return a.devices, a.err
	case <-t.C:
		return nil, errScanHangs
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
