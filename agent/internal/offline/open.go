package offline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/discover"
	"keyward/agent/internal/mount"
	"keyward/agent/internal/record"
	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
)

// detachWait is how long the kernel may keep a block device after its last mount is gone (udev and others look at it).
const detachWait = 10 * time.Second

// Options say what is opened, and how.
type Options struct {
	// Keys are those of one volume, or of every member of one stripe in its order, as Choose gives them.
	Keys []Key
	// Disks are the disks and image files to look at; empty means all block devices of the machine.
	Disks []string
	// MountPoint is an absolute path; empty means that only the block device is made.
	MountPoint string
	// FileSystem is one of mount.FileSystems; empty means what the volume holds.
	FileSystem string
	Write      bool
	// Dir is the folder of this volume below the runtime folder.
	Dir         string
	Connections int
	Logger      *slog.Logger
}

// Open is an open volume, or stripe of volumes, of this process.
type Open struct {
	o      Options
	dev    blockdev.Device
	att    attach.Attachment
	target string
}

// OpenVolume verifies the headers against the records and the keys, makes the volume a block device and mounts it. It
// takes the keys over, and wipes them when it fails.
func OpenVolume(ctx context.Context, o Options) (*Open, error) {
	defer Wipe(o.Keys) // opening a volume consumes its key; the others must go too
	var uuids []string
	for _, k := range o.Keys {
		uuids = append(uuids, k.Volume.UUID)
	}
	disks, err := find(ctx, uuids, o.Disks)
	if err != nil {
		return nil, err
	}
	dev, err := unseal(o, disks)
	if err != nil {
		return nil, err
	}
	x := &Open{o: o, dev: dev}
	if err := x.attach(ctx); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	if o.MountPoint == "" {
		return x, nil
	}
	if err := x.mount(ctx); err != nil {
		return nil, errors.Join(err, x.detach(), dev.Close())
	}
	return x, nil
}

// unseal opens every volume, and puts members of a stripe together.
func unseal(o Options, disks []string) (blockdev.Device, error) {
	var volumes []*nbdcrypt.Volume
	fail := func(err error) (blockdev.Device, error) {
		for _, v := range volumes {
			err = errors.Join(err, v.Close())
		}
		return nil, err
	}
	for i, k := range o.Keys {
		disk, err := blockdev.OpenFile(disks[i], blockdev.FileOptions{ReadOnly: !o.Write})
		if err != nil {
			return fail(err)
		}
		v, err := nbdcrypt.Open(disk, record.OnDisk(k.Volume), k.Secret, nbdcrypt.Options{ReadOnly: !o.Write})
		if err != nil {
			return fail(errors.Join(fmt.Errorf("open volume on %s: %w", disks[i], err), disk.Close()))
		}
		volumes = append(volumes, v)
	}
	if o.Keys[0].Volume.RAID == nil {
		return volumes[0], nil
	}
	stripe, err := nbdcrypt.NewStripe(volumes)
	if err != nil {
		return fail(err)
	}
	return stripe, nil
}

// ID is the UUID by which the kernel's device and the runtime folder are named: a stripe's, or the volume's.
func (o Options) ID() string {
	if r := o.Keys[0].Volume.RAID; r != nil {
		return r.Set
	}
	return o.Keys[0].Volume.UUID
}

func (x *Open) attach(ctx context.Context) error {
	dir := x.attachments()
	err := drop(ctx, dir, x.o.Logger)
	if err != nil {
		return err
	}
	x.att, err = attach.Attach(ctx, x.dev, attach.Options{Name: x.o.Keys[0].Name, VolumeUUID: x.o.ID(), ReadOnly: !x.o.Write,
		SectorSize: x.o.Keys[0].Volume.SectorSize, Connections: x.o.Connections, RuntimeDir: dir, Logger: x.o.Logger})
	return err
}

func (x *Open) mount(ctx context.Context) error {
	target, err := mount.CheckTarget(x.o.MountPoint)
	if err != nil {
		return err
	}
	typ := x.o.FileSystem
	if typ == "" {
		if typ, err = x.fileSystem(); err != nil {
			return err
		}
	}
	if x.o.Write {
		if err := mount.Check(ctx, x.att.Path(), typ, x.o.Logger); err != nil {
			return err
		}
	}
	if err := mount.Mount(ctx, mount.Options{Source: x.att.Path(), Target: target, Type: typ, ReadOnly: !x.o.Write}); err != nil {
		return err
	}
	x.target = target
	return nil
}

// fileSystem looks at what the open volume holds.
func (x *Open) fileSystem() (string, error) {
	c, err := discover.Probe(x.dev, x.dev.Size())
	if err != nil {
		return "", err
	}
	for _, s := range c.Found {
		if slices.Contains(mount.FileSystems(), s.Type) {
			return s.Type, nil
		}
	}
	return "", fmt.Errorf("the volume holds %s, which this program does not mount; open it with --map-only and use the block device", c)
}

// BlockDevice is the kernel's device, for example /dev/nbd0.
func (x *Open) BlockDevice() string { return x.att.Path() }

// Kind is how the kernel reaches it, as attach.Attachment has it.
func (x *Open) Kind() string { return x.att.Kind() }

// MountPoint is where it is mounted, empty where it is only mapped.
func (x *Open) MountPoint() string { return x.target }

// Close unmounts and detaches the volume and wipes its key. While programs use it, for longer than grace, it returns a
// *mount.BusyError or an error that wraps attach.ErrBusy, and the volume stays open.
func (x *Open) Close(ctx context.Context, grace time.Duration) error {
	if x.target != "" {
		if err := mount.Unmount(ctx, x.target, mount.UnmountOptions{Grace: grace}); err != nil {
			return err
		}
		x.target = ""
	}
	if err := x.detach(); err != nil {
		return err
	}
	return x.dev.Close()
}

// Abort is Close for a machine that goes down: what still uses the volume gets errors.
func (x *Open) Abort(ctx context.Context) error {
	err := x.Close(ctx, detachWait)
	if err == nil {
		return nil
	}
	if a, ok := x.att.(attach.Aborter); ok {
		err = errors.Join(err, a.Abort())
	}
	if x.target != "" {
		err = errors.Join(err, mount.Detach(x.target))
		x.target = ""
	}
	return errors.Join(err, x.dev.Close(), x.att.Close())
}

func (x *Open) detach() error {
	err := x.att.Close()
	for end := time.Now().Add(detachWait); errors.Is(err, attach.ErrBusy) && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
		err = x.att.Close()
	}
	return err
}
