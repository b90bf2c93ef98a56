package discover

import (
	"context"
	"path/filepath"
	"strings"
)

// Kinds of block device.
const (
	KindDisk      = "disk"
	KindPartition = "partition"
	KindLoop      = "loop"
	KindDM        = "device-mapper"
	KindMD        = "md"
	KindNBD       = "nbd"
	KindOptical   = "optical"
)

// Device is one block device of this machine: a whole disk, a partition, or something stacked on those.
type Device struct {
	Name string // as in sysfs: "sda", "nvme0n1p2", "dm-3"
	Path string // device node
	Kind string
	// Parent is the disk of a partition.
	Parent string
	// Identity is as stable as the device allows. Its prefix says where it is from: "wwn:", "serial:", "uuid:" and "by-id:"
	// stay with the medium, "bus:" with the slot, "name:" with nothing.
	Identity          string
	Serial, Model     string
	Size              int64 // bytes
	SectorSize        int   // logical, bytes
	Rotational        bool
	ReadOnly          bool
	Removable         bool
	Holders, Children []string // devices stacked on it; partitions
	// Root reports that the running system stands on it: /, /boot, /usr or active swap, directly or through partitions,
	// LVM, RAID, loop devices and overlays; and when that cannot be told, that it might.
	Root bool
	// InUse says in words who uses it now, "" when nobody does.
	InUse string
	// Contents is what it holds. When it could not be read ProbeError says why, and Contents counts as unknown data.
	Contents   Contents
	ProbeError string
}

// StableIdentity reports whether Identity stays with the medium.
func (d Device) StableIdentity() bool {
	return !strings.HasPrefix(d.Identity, "bus:") && !strings.HasPrefix(d.Identity, "name:")
}

// Sources are the roots of the trees that are read; empty ones mean /sys, /proc and /dev.
type Sources struct {
	Sys, Proc, Dev string
}

func (s Sources) defaults() Sources {
	for p, d := range map[*string]string{&s.Sys: "/sys", &s.Proc: "/proc", &s.Dev: "/dev"} {
		if *p == "" {
			*p = d
		}
	}
	return s
}

// Devices lists the block devices of the machine in the order of their names, each followed by its partitions. Devices
// without a medium, free loop and NBD devices and RAM disks are left out. NBD devices, and what stands on them, are listed
// unread.
func Devices(ctx context.Context, src Sources) ([]Device, error) {
	src = src.defaults()
	t, err := readTree(src)
	if err != nil {
		return nil, err
	}
	behind, err := t.behindPrograms()
	if err != nil {
		return nil, err
	}
	for _, n := range t.order {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d := t.nodes[n]
		if behind[n] {
			d.ProbeError = unread
			continue
		}
		d.Contents, d.ProbeError = probePath(d.Path)
	}
	if err := t.markUse(); err != nil {
		return nil, err
	}
	t.identify()
	out := make([]Device, 0, len(t.order))
	for _, n := range t.order {
		out = append(out, *t.nodes[n])
	}
	return out, nil
}

// probePath is for the listing, which goes on when one device cannot be read.
func probePath(path string) (Contents, string) {
	c, err := ProbeFile(path)
	if err != nil {
		return Contents{}, err.Error()
	}
	return c, ""
}

func (s Sources) sysBlock(elem ...string) string {
	return filepath.Join(append([]string{s.Sys, "block"}, elem...)...)
}
