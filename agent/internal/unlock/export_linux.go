package unlock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/mount"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
)

// detachWait is how long the kernel may keep a block device after its last mount is gone (udev and others look at it).
const detachWait = 10 * time.Second

// freezeWait is how long a file system may take to become consistent before it is suspended as it is.
const freezeWait = 60 * time.Second

// export is one open volume. It implements volume.Export.
type export struct {
	o        Options
	device   api.AssignedDevice
	record   api.VolumeRecord // of a RAID set, the first member's
	parts    []part
	dev      blockdev.Device // the volume, or the stripe of all
	spare    *keymem.Key     // of all parts, for a next life of the agent; wiped with the volumes' own
	att      attach.Attachment
	readOnly bool
	target   string // where it is mounted, empty while it is not
	frozen   bool
}

// Info implements volume.Export.
func (x *export) Info() volume.Info {
	access := api.AccessReadWrite
	if x.readOnly {
		access = api.AccessReadOnly
	}
	return volume.Info{Kind: x.att.Kind(), BlockDevice: x.att.Path(), MountPoint: x.target, Access: string(access), KeyProtection: x.parts[0].vol.Protection()}
}

// Mount implements volume.Export.
func (x *export) Mount(ctx context.Context) error {
	target, err := mount.CheckTarget(x.device.MountPoint)
	if err != nil {
		return err
	}
	at, err := mount.At(target)
	if err != nil {
		return err
	}
	if at != nil && at.Source == x.att.Path() { // it survived the agent's restart on a kernel NBD device
		x.target = target
		if x.readOnly {
			return nil
		}
		if err := thaw(target); err != nil { // in case the former agent died while the volume was suspended
			return fmt.Errorf("thaw %s: %w; run: fsfreeze --unfreeze %s", target, err, target)
		}
		return nil
	}
	if !x.readOnly {
		if err := mount.Check(ctx, x.att.Path(), x.device.FileSystem, x.o.Logger); err != nil {
			return err
		}
	}
	err = mount.Mount(ctx, mount.Options{Source: x.att.Path(), Target: target, Type: x.device.FileSystem, ReadOnly: x.readOnly})
	if err != nil {
		return err
	}
	x.target = target
	return nil
}

// GiveUp implements volume.Export.
func (x *export) GiveUp(ctx context.Context, why string) (held bool, detail string) {
	var notes []string
	note := func(err error) {
		if err != nil {
			x.o.Logger.Warn("giving up a volume", "device", x.name(), "error", err)
			notes = append(notes, err.Error())
		}
	}
	if x.target != "" {
		note(x.teardown(ctx, why, api.RevokeUnmount))
		if err := mount.Unmount(ctx, x.target, mount.UnmountOptions{Grace: x.o.Grace}); err != nil {
			note(err)
			notes = append(notes, x.hold(ctx))
			return true, join("still mounted, but suspended without its key", notes)
		}
		x.target = ""
	}
	note(x.close())
	return false, join("", notes)
}

func join(first string, notes []string) string {
	if first != "" {
		notes = append([]string{first}, notes...)
	}
	out := notes[:0]
	for _, n := range notes {
		if n != "" {
			out = append(out, n)
		}
	}
	return strings.Join(out, "; ")
}

// teardown runs the script that ends what depends on the volume; mode tells it whether the mount goes or waits.
func (x *export) teardown(ctx context.Context, why string, mode api.RevokeMode) error {
	return x.o.Teardown.Run(ctx, "KEYWARD_DEVICE="+x.name(), "KEYWARD_DEVICE_ID="+x.device.ID,
		"KEYWARD_MOUNT_POINT="+x.target, "KEYWARD_REASON="+why, "KEYWARD_ACTION="+string(mode))
}

// close detaches and wipes. The key goes first from the reader's point of view: whatever detaching does afterwards, the
// volume is closed.
func (x *export) close() error {
	x.spare.Wipe()
	err := x.att.Close()
	for end := time.Now().Add(detachWait); errors.Is(err, attach.ErrBusy) && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
		err = x.att.Close()
	}
	if err != nil {
		if a, ok := x.att.(attach.Aborter); ok {
			err = errors.Join(err, a.Abort(), x.att.Close())
		}
	}
	return errors.Join(err, x.dev.Close(), closeDisks(x.parts))
}

// Hold implements volume.Export. Programs that the teardown script leaves keep their files, and their requests wait.
func (x *export) Hold(ctx context.Context, why string) string {
	if x.target == "" {
		return x.hold(ctx)
	}
	detail := ""
	if err := x.teardown(ctx, why, api.RevokeSuspend); err != nil {
		x.o.Logger.Warn("suspending a volume", "device", x.name(), "error", err)
		detail = err.Error()
	}
	return join(detail, []string{x.hold(ctx)})
}

func (x *export) hold(ctx context.Context) string {
	var notes []string
	x.spare.Wipe()
	if x.target != "" && !x.readOnly {
		if err := freeze(ctx, x.target, freezeWait); err != nil {
			notes = append(notes, "not frozen: "+err.Error())
		} else {
			x.frozen = true
		}
	}
	if err := x.suspend(); err != nil {
		notes = append(notes, "flush before suspending: "+err.Error())
	}
	return join("", notes)
}

// Resume implements volume.Export.
func (x *export) Resume(_ context.Context, g *volume.Grant) error {
	if err := x.resume(g); err != nil {
		g.Key.Wipe()
		return err
	}
	if x.frozen {
		if err := thaw(x.target); err != nil {
			return fmt.Errorf("thaw %s: %w; run: fsfreeze --unfreeze %s", x.target, err, x.target)
		}
		x.frozen = false
	}
	return nil
}

// Abandon implements volume.Export. A held file system was made consistent before; only requests that came later fail.
func (x *export) Abandon(context.Context) string {
	var notes []string
	note := func(err error) {
		if err != nil {
			notes = append(notes, err.Error())
		}
	}
	if a, ok := x.att.(attach.Aborter); ok {
		note(a.Abort())
	}
	if x.frozen {
		// Thawing writes the super block, which the aborted device refuses: the mount ends in error, the disk stays as frozen.
		_ = thaw(x.target)
	}
	if x.target != "" {
		note(mount.Detach(x.target))
	}
	note(errors.Join(x.dev.Close(), x.close()))
	x.target = ""
	return join("", notes)
}
