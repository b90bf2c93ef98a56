package provider

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"keyward/agent/internal/discover"
)

// NativeName is Native's Name.
const NativeName = "Native"

// machineSpace separates our machine identifiers from those that other programs derive from the same machine ID.
var machineSpace = uuid.MustParse("5d0f7a0e-6f3b-4a4b-9a57-3f2f1a8c9e41")

// ImageFile is a raw disk in a regular file.
type ImageFile struct {
	Path string // absolute
}

// NativeConfig is what the owner says of a native machine.
type NativeConfig struct {
	Location string
	UserData string
	Images   []ImageFile
	// Sources are the trees that are read; empty means those of this machine.
	Sources discover.Sources
	// Etc is the folder of machine-id; empty means /etc.
	Etc string
	// HostName overrides the running system's, for tests.
	HostName string
}

// Native is a machine that is asked itself.
type Native struct {
	c NativeConfig
}

// NewNative checks the configuration.
func NewNative(c NativeConfig) (*Native, error) {
	for _, img := range c.Images {
		if !filepath.IsAbs(img.Path) || filepath.Clean(img.Path) != img.Path {
			return nil, fmt.Errorf("image file %q: give a clean absolute path", img.Path)
		}
	}
	if c.Etc == "" {
		c.Etc = "/etc"
	}
	if c.Sources.Sys == "" {
		c.Sources.Sys = "/sys"
	}
	return &Native{c: c}, nil
}

// Name implements Provider.
func (n *Native) Name() string { return NativeName }

// Instance implements Provider. The ID is a SHA-256 of /etc/machine-id and, where firmware has one, the DMI product UUID:
// the first tells copies of one virtual machine's firmware apart, the second copies of one disk. Neither is disclosed.
func (n *Native) Instance(context.Context) (Instance, error) {
	id, err := n.machine()
	if err != nil {
		return Instance{}, err
	}
	host := n.c.HostName
	if host == "" {
		if host, err = os.Hostname(); err != nil {
			return Instance{}, fmt.Errorf("read the host name: %w", err)
		}
	}
	return Instance{ID: id, ImageID: id, HostName: host, Location: n.c.Location, UserData: n.c.UserData}, nil
}

func (n *Native) machine() (string, error) {
	file := filepath.Join(n.c.Etc, "machine-id")
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the machine ID: %w; make one with systemd-machine-id-setup", err)
	}
	machine := strings.TrimSpace(string(b))
	if id, err := uuid.Parse(machine); err != nil || len(machine) != 32 || id == uuid.Nil {
		return "", fmt.Errorf("%s does not hold a machine ID (32 hexadecimal digits); make one with systemd-machine-id-setup", file)
	}
	product, err := os.ReadFile(filepath.Join(n.c.Sources.Sys, "class/dmi/id/product_uuid"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the DMI product UUID: %w; the agent runs as root", err)
	}
	name := strings.ToLower(machine + "\n" + strings.TrimSpace(string(product)))
	return uuid.NewHash(sha256.New(), machineSpace, []byte(name), 8).String(), nil
}

// Devices implements Provider: whole disks, then the configured image files.
func (n *Native) Devices(ctx context.Context) ([]Device, error) {
	found, err := discover.Devices(ctx, n.c.Sources)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var out []Device
	for _, d := range found {
		if d.Kind != discover.KindDisk || d.Root {
			continue
		}
		out = append(out, Device{ID: d.Identity, StableID: d.StableIdentity(), Name: d.Name, Path: d.Path, Kind: KindDisk, Size: d.Size,
			Description: strings.Join(strings.Fields(d.Model+" "+d.Serial), " "), ReadOnly: d.ReadOnly, InUse: d.InUse,
			Empty: d.Contents.Empty, Contents: contents(d)})
	}
	if len(n.c.Images) == 0 {
		return out, nil
	}
	machine, err := n.machine()
	if err != nil {
		return nil, err
	}
	for _, img := range n.c.Images {
		d, err := image(img, machine)
		if errors.Is(err, fs.ErrNotExist) {
			continue // like a disk that was taken out: it becomes undetected
		}
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(out, func(o Device) bool { return o.ID == d.ID }); i >= 0 {
			return nil, fmt.Errorf("image file %s is the same as %s; name it once", d.Path, out[i].Path)
		}
		out = append(out, d)
	}
	return out, nil
}

func contents(d discover.Device) string {
	if d.ProbeError != "" {
		return "could not be read: " + d.ProbeError
	}
	return d.Contents.String()
}
