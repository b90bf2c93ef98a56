package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/blockdev"
)

// releaseWait is how long Close waits for openers that come and go, such as udev's probes.
const releaseWait = 5 * time.Second

// fuseLoop is the volume in clear as one file of a private FUSE mount, with a loop device on that file.
type fuseLoop struct {
	o       Options
	dev     blockdev.Device
	st      state
	mp      string
	server  *fuse.Server
	backing int // file descriptor of the file in the FUSE mount, -1 once closed
	loop    int // -1 once freed

	mu     sync.Mutex
	closed bool
}

func attachFUSE(ctx context.Context, dev blockdev.Device, o Options) (Attachment, error) {
	if err := refuseAttached(o); err != nil {
		return nil, err
	}
	a := &fuseLoop{o: o, dev: dev, st: newState(o, KindFUSE), backing: -1, loop: -1}
	if err := a.start(ctx); err != nil {
		if cleanErr := a.release(); cleanErr != nil {
			err = errors.Join(err, cleanErr)
		}
		return nil, fmt.Errorf("attach %q by FUSE and loop: %w", o.Name, err)
	}
	return a, nil
}

func (a *fuseLoop) start(ctx context.Context) error {
	if err := a.st.save(a.o.RuntimeDir); err != nil {
		return err
	}
	dir := runDir(a.o.RuntimeDir, a.o.VolumeUUID)
	a.mp = fuseDir(dir)
	if err := os.Mkdir(a.mp, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the FUSE mount point: %w", err)
	}
	server, err := mountExport(a.mp, a.o, a.dev)
	if err != nil {
		return err
	}
	a.server = server
	flags := unix.O_RDWR
	if a.o.ReadOnly {
		flags = unix.O_RDONLY
	}
	// unix.Open and not os.Open: the runtime's poller must not ask our own FUSE server for readiness.
	a.backing, err = unix.Open(filepath.Join(a.mp, exportName(a.o.VolumeUUID)), flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		a.backing = -1
		return fmt.Errorf("open the exported file: %w", err)
	}
	n, direct, err := loopConfigure(ctx, a.backing, exportName(a.o.VolumeUUID), a.o.SectorSize, a.o.ReadOnly)
	if err != nil {
		return err
	}
	a.loop = n
	// The exported file refuses holes anyway; with this, discards are not even tried. Older kernels may refuse the write.
	_ = os.WriteFile(fmt.Sprintf("/sys/block/loop%d/queue/discard_max_bytes", n), []byte("0"), 0)
	if !direct {
		a.o.Logger.Warn("loop device without direct I/O: data is cached twice", "path", a.Path())
	}
	if a.o.Discard {
		a.o.Logger.Warn("discards are not passed on by FUSE and loop; they need kernel NBD", "path", a.Path())
	}
	return nil
}

// mountExport mounts the one-file system at mp, private and for root only.
func mountExport(mp string, o Options, dev blockdev.Device) (*fuse.Server, error) {
	hour := time.Hour
	opts := &fs.Options{EntryTimeout: &hour, AttrTimeout: &hour}
	opts.MountOptions = fuse.MountOptions{
		FsName: "keyward:" + o.VolumeUUID, Name: "keyward",
		DirectMountStrict: true,
		DirectMountFlags:  unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME,
		Options:           []string{"default_permissions"},
		MaxWrite:          1 << 20, MaxBackground: 128,
		DisableXAttrs: true, DisableSplice: true, DisableReadDirPlus: true,
	}
	root := &exportRoot{name: exportName(o.VolumeUUID), file: newExportFile(dev, o.ReadOnly)}
	server, err := fs.Mount(mp, root, opts)
	if err != nil {
		return nil, fmt.Errorf("mount FUSE at %s: %w; it needs root and /dev/fuse", mp, err)
	}
	// Without this a mount namespace made later (a container) would get a copy that keeps the volume busy.
	if err := unix.Mount("", mp, "", unix.MS_PRIVATE, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("make %s private: %w", mp, err), server.Unmount())
	}
	return server, nil
}

func (a *fuseLoop) Path() string { return loopPath(a.loop) }
func (a *fuseLoop) Kind() string { return KindFUSE }

// Close takes the layers down from the top, so that each is empty when the one below goes.
func (a *fuseLoop) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	var lost error
	if a.backing >= 0 { // else an earlier Close got past this point
		lost = flushExclusive(a.Path())
		if errors.Is(lost, ErrBusy) {
			return fmt.Errorf("detach %q: %w", a.o.Name, lost)
		}
	}
	if err := a.release(); err != nil {
		return fmt.Errorf("detach %q: %w", a.o.Name, errors.Join(lost, err))
	}
	a.closed = true
	if !a.o.ReadOnly {
		lost = errors.Join(lost, a.dev.Sync())
	}
	if lost != nil { // the block device is gone all the same: the kernel has dropped what it could not write
		return fmt.Errorf("detach %q: writes were lost: %w; check the file system before its next use", a.o.Name, lost)
	}
	return nil
}

// release undoes start, as far as start got.
func (a *fuseLoop) release() error {
	if a.loop >= 0 && a.backing >= 0 {
		if err := loopClear(a.loop, releaseWait); err != nil {
			return err
		}
	}
	if a.backing >= 0 {
		unix.Close(a.backing)
		a.backing = -1
	}
	if a.server != nil {
		if err := unmountRetry(a.server, releaseWait); err != nil {
			return fmt.Errorf("unmount %s: %w", a.mp, err)
		}
		a.server = nil
	}
	return a.st.remove(a.o.RuntimeDir)
}

func unmountRetry(s *fuse.Server, wait time.Duration) error {
	end := time.Now().Add(wait)
	for {
		err := s.Unmount()
		if err == nil || errors.Is(err, unix.EINVAL) { // EINVAL: no longer a mount point
			s.Wait()
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Abort cuts the FUSE connection: every request of the loop device then ends in an error.
func (a *fuseLoop) Abort() error {
	// MNT_FORCE aborts the connection and then finds the mount busy, because the loop device has the file open.
	err := unix.Unmount(a.mp, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("abort %q: %w", a.o.Name, err)
	}
	return nil
}
