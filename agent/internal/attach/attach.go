// Package attach turns a blockdev.Device of this process into a block device of the kernel, so that a file system can be
// made and mounted on it. Two ways exist: the kernel's NBD client fed through socketpairs, and, where the kernel has no
// nbd, a FUSE file with a loop device on top. Whichever is used, a FLUSH of the kernel reaches Device.Sync before it is
// acknowledged.
package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/google/uuid"

	"keyward/nbdcrypt/blockdev"
)

// Kinds of attachment, as shown in status.
const (
	KindNBD  = "kernel-nbd"
	KindFUSE = "fuse+loop"
)

// Errors that callers act on.
var (
	// ErrBusy is returned by Close while something (a mount, dm, swap, another process) holds the block device.
	ErrBusy = errors.New("block device is in use")
	// ErrAttached is returned by Attach for a volume that the kernel already has: Reattach or Drop it first.
	ErrAttached = errors.New("volume is already attached")
	// ErrNotAttached is returned by Reattach when the kernel holds no device for the volume.
	ErrNotAttached = errors.New("volume is not attached")
)

// Attachment is a block device of the kernel that is served by this process.
type Attachment interface {
	// Path is the block device, e.g. /dev/nbd0 or /dev/loop3.
	Path() string
	// Kind is KindNBD or KindFUSE.
	Kind() string
	// Close writes out what the kernel caches for the block device, syncs the Device and removes the block device. It
	// returns an error that wraps ErrBusy, and changes nothing, while the block device is in use; it may then be called
	// again. It does not close the Device. After it succeeded it does nothing.
	Close() error
}

// Aborter is implemented by every Attachment of this package. It is the way out when an unmount hangs because the
// Device under it no longer answers.
type Aborter interface {
	// Abort makes every request of the kernel on the block device fail, now and later. What had not been flushed is
	// lost. Close is still needed afterwards.
	Abort() error
}

// Options say how a volume is attached.
type Options struct {
	// Name is a word for people, e.g. the device name; it appears in mount tables and logs.
	Name string
	// VolumeUUID is the LUKS2 UUID of the volume. It names the runtime folder and guards Reattach against serving one
	// volume to another volume's block device.
	VolumeUUID string
	ReadOnly   bool
	// Discard lets the kernel send discards to the Device. Only kernel NBD can carry it: a loop device turns both discard
	// and write-zeroes into the same hole punch, and a hole in an encrypted volume does not read as zeroes.
	Discard bool
	// SectorSize of the block device, 512 or 4096 bytes. 0 means 4096.
	SectorSize int
	// Connections of kernel NBD, 1 to 16. 0 means min(4, cores).
	Connections int
	// RuntimeDir holds the state files and FUSE mount points. Empty means /run/keyward.
	RuntimeDir string
	// Kind forces KindNBD or KindFUSE. Empty picks NBD where the kernel has it.
	Kind string
	// Timeout is how long the kernel waits for the answer to one request before it sends it again on another connection,
	// in whole seconds. It is also how long requests that were under way stall when the agent is killed and comes back.
	// 0 means 30 s, the kernel's own default.
	Timeout time.Duration
	// DeadConnTimeout is how long requests wait for a Reattach once every connection is dead (a crash of the agent), in
	// whole seconds. 0 means one hour.
	DeadConnTimeout time.Duration
	// Logger receives reconnects and degradations. nil means slog.Default().
	Logger *slog.Logger
}

const maxConnections = 16

// normalise fills defaults and refuses what the kernel would refuse later with less to say.
func (o Options) normalise(dev blockdev.Device) (Options, error) {
	id, err := uuid.Parse(o.VolumeUUID)
	if err != nil {
		return o, fmt.Errorf("attach %q: volume UUID %q is not a UUID: %w", o.Name, o.VolumeUUID, err)
	}
	o.VolumeUUID = id.String() // one spelling, because it names a folder and a kernel identifier
	if o.Name == "" {
		o.Name = o.VolumeUUID
	}
	if o.SectorSize == 0 {
		o.SectorSize = 4096
	}
	if o.SectorSize != 512 && o.SectorSize != 4096 {
		return o, fmt.Errorf("attach %q: sector size %d is not possible, use 512 or 4096", o.Name, o.SectorSize)
	}
	if size := dev.Size(); size <= 0 || size%int64(o.SectorSize) != 0 {
		return o, fmt.Errorf("attach %q: size %d is not a positive multiple of the sector size %d", o.Name, size, o.SectorSize)
	}
	if o.Connections == 0 {
		o.Connections = min(4, runtime.NumCPU())
	}
	if o.Connections < 1 || o.Connections > maxConnections {
		return o, fmt.Errorf("attach %q: %d connections, use 1 to %d", o.Name, o.Connections, maxConnections)
	}
	if o.RuntimeDir == "" {
		o.RuntimeDir = "/run/keyward"
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.DeadConnTimeout == 0 {
		o.DeadConnTimeout = time.Hour
	}
	if o.Timeout < time.Second || o.DeadConnTimeout < time.Second {
		return o, fmt.Errorf("attach %q: timeouts are counted in whole seconds, at least one", o.Name)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Logger = o.Logger.With("volume", o.VolumeUUID, "name", o.Name)
	return o, nil
}

// Attach makes dev a block device of the kernel. The caller keeps dev open until the Attachment is closed. ctx bounds the
// set-up only. It needs root.
func Attach(ctx context.Context, dev blockdev.Device, o Options) (Attachment, error) {
	o, err := o.normalise(dev)
	if err != nil {
		return nil, err
	}
	switch o.Kind {
	case KindNBD:
		return attachNBD(ctx, dev, o)
	case KindFUSE:
		return attachFUSE(ctx, dev, o)
	case "":
		if HasNBD(ctx) {
			return attachNBD(ctx, dev, o)
		}
		return attachFUSE(ctx, dev, o)
	}
	return nil, fmt.Errorf("attach %q: unknown kind %q, use %q or %q", o.Name, o.Kind, KindNBD, KindFUSE)
}

// Reattach gives the block device that survived a crash of the agent (kernel NBD only) fresh connections to dev. Requests
// that waited are then answered; mounts on it never noticed more than the pause. It returns an error that wraps
// ErrNotAttached when the kernel holds no device for the volume.
func Reattach(ctx context.Context, dev blockdev.Device, o Options) (Attachment, error) {
	o, err := o.normalise(dev)
	if err != nil {
		return nil, err
	}
	return reattachNBD(ctx, dev, o)
}
