package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

// Leftover is an attachment whose agent died without closing it.
type Leftover struct {
	VolumeUUID string
	Name       string
	Kind       string
	// Path is the block device that was left, "" when there was none any more.
	Path string
	// Detached lists the mount points that were taken out of the tree because nothing answers under them.
	Detached []string
	// Reattachable reports a kernel NBD device that still waits for its agent: Reattach it with the same volume, or Drop it.
	Reattachable bool
}

// Stale finds attachments below runtimeDir whose agent died and makes a new start possible. Of FUSE and loop nothing can
// be saved: file systems on the dead loop device are shut down and detached, the loop device is freed, the dead FUSE mount
// is detached, the state removed. Kernel NBD devices are left as they are and reported as Reattachable. Attachments of
// processes that still run are not touched. Leftovers found are returned even when an error is, too.
func Stale(ctx context.Context, runtimeDir string, log *slog.Logger) ([]Leftover, error) {
	if runtimeDir == "" {
		runtimeDir = "/run/keyward"
	}
	if log == nil {
		log = slog.Default()
	}
	states, readErr := readStates(runtimeDir)
	errs := []error{readErr}
	var out []Leftover
	for _, st := range states {
		if err := ctx.Err(); err != nil {
			return out, errors.Join(append(errs, err)...)
		}
		if st.Owner.alive() {
			continue
		}
		left := Leftover{VolumeUUID: st.VolumeUUID, Name: st.Name, Kind: st.Kind}
		var err error
		if st.Kind == KindNBD {
			err = staleNBD(st, runtimeDir, &left)
		} else {
			err = staleFUSE(st, runtimeDir, &left)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("clean up volume %s after an agent that died: %w", st.VolumeUUID, err))
		}
		log.Info("found an attachment of an agent that died", "volume", st.VolumeUUID, "kind", st.Kind, "path", left.Path,
			"detached", left.Detached, "reattachable", left.Reattachable)
		out = append(out, left)
	}
	return out, errors.Join(errs...)
}

// staleFUSE works from the top down like Close, but forces each layer. The loop device goes before the FUSE mount,
// because its backing file names the mount only while that is in the tree.
func staleFUSE(st state, runtimeDir string, left *Leftover) error {
	loops, err := loopsOf(exportName(st.VolumeUUID))
	if err != nil {
		return err
	}
	mp := fuseDir(runDir(runtimeDir, st.VolumeUUID))
	// Abort first: were the connection somehow alive, nothing below could hang on it.
	if err := unix.Unmount(mp, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); err != nil && !isNotMounted(err) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("abort FUSE at %s: %w", mp, err)
	}
	for _, n := range loops {
		left.Path = loopPath(n)
		for _, m := range mountsOn(fmt.Sprintf("loop%d", n)) {
			if err := shutdownDetach(m); err != nil {
				return err
			}
			left.Detached = append(left.Detached, m)
		}
		// A process that still holds a file of the dead file system keeps the loop device; the kernel frees it when that
		// process ends, and until then a new attachment uses another one.
		if err := loopClear(n, 500*time.Millisecond); err != nil && !errors.Is(err, ErrBusy) {
			return err
		}
	}
	if err := unix.Unmount(mp, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !isNotMounted(err) {
		return fmt.Errorf("detach FUSE at %s: %w", mp, err)
	}
	return st.remove(runtimeDir)
}

func isNotMounted(err error) bool { return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) }

// Drop removes the block device of a leftover that will not be reattached; requests that still wait in the kernel fail.
// It does nothing for leftovers that Stale has already removed.
func Drop(ctx context.Context, runtimeDir string, left Leftover) error {
	if left.Kind != KindNBD {
		return nil
	}
	return dropNBD(ctx, runtimeDir, left)
}
