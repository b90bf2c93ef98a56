package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
)

// These tests need a kernel with nbd, and programs to make file systems and load; suite e2e/vm has both.

// sizeOf is enough for the smallest xfs that mkfs.xfs makes.
func sizeOf(fsType string) int64 {
	if fsType == "xfs" {
		return 320 << 20
	}
	return 96 << 20
}

func makeFS(t *testing.T, fsType, dev string) {
	t.Helper()
	args := map[string][]string{"ext4": {"mkfs.ext4", "-q", "-F", dev}, "xfs": {"mkfs.xfs", "-q", "-f", "-K", dev}}[fsType]
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func checkFS(t *testing.T, fsType, dev string) {
	t.Helper()
	args := map[string][]string{"ext4": {"e2fsck", "-f", "-n", dev}, "xfs": {"xfs_repair", "-n", dev}}[fsType]
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", args, err, out)
	}
}

func mountFS(t *testing.T, fsType, dev, data string, flags uintptr) string {
	t.Helper()
	mp := t.TempDir()
	if err := unix.Mount(dev, mp, fsType, flags, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mp, unix.MNT_DETACH) })
	return mp
}

// trim is fstrim.
func trim(t *testing.T, mp string) error {
	t.Helper()
	const fiTrim = 0xc0185879 // FITRIM of linux/fs.h: _IOWR('X', 121, struct fstrim_range)
	d, err := os.Open(mp)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), fiTrim, ptr(&[3]uint64{0, 1 << 62, 0})); errno != 0 {
		return errno
	}
	return nil
}

// open opens the volume in this process.
func (e *encrypted) open(t *testing.T, o nbdcrypt.Options) *nbdcrypt.Volume {
	t.Helper()
	dev, err := blockdev.OpenFile(e.image, blockdev.FileOptions{ReadOnly: o.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	vol, err := nbdcrypt.Open(dev, e.rec, e.key(t), o)
	if err != nil {
		t.Fatal(errors.Join(err, dev.Close()))
	}
	t.Cleanup(func() {
		if err := vol.Close(); err != nil {
			t.Error(err)
		}
	})
	return vol
}

func TestKernelNBD_fileSystemsUnderFio(t *testing.T) {
	needNBD(t)
	for _, tc := range []struct {
		fs      string
		conns   int
		discard bool
	}{{"ext4", 1, true}, {"ext4", 4, false}, {"xfs", 1, false}, {"xfs", 4, true}} {
		t.Run(fmt.Sprintf("%s, %d connections, discard %v", tc.fs, tc.conns, tc.discard), func(t *testing.T) {
			said := followKernelLog(t)
			e := newEncrypted(t, sizeOf(tc.fs))
			vol := e.open(t, nbdcrypt.Options{AllowDiscard: tc.discard})
			o := Options{VolumeUUID: e.rec.UUID, Connections: tc.conns, Discard: tc.discard, RuntimeDir: t.TempDir()}
			a := attachNBDForTest(t, vol, o)
			makeFS(t, tc.fs, a.Path())
			data := ""
			if tc.discard {
				data = "discard"
			}
			mp := mountFS(t, tc.fs, a.Path(), data, 0)
			sums := fill(t, mp, 30, 200<<10)
			fio(t, mp, 3*time.Second).wait()
			// What is deleted and trimmed goes, and nothing else does.
			if err := os.Remove(filepath.Join(mp, "load.0.0")); err != nil {
				t.Fatal(err)
			}
			if err := trim(t, mp); tc.discard != (err == nil) {
				t.Errorf("fstrim: %v", err)
			}
			unmount(t, mp)
			checkFS(t, tc.fs, a.Path())
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			// A new device on the same volume: nothing may depend on what the kernel still caches.
			b := attachNBDForTest(t, vol, o)
			checkFS(t, tc.fs, b.Path())
			mp = mountFS(t, tc.fs, b.Path(), "", unix.MS_RDONLY)
			verify(t, mp, sums)
			unmount(t, mp)
			said.never(ioErrors...)
		})
	}
}

// volumeInUse is an encrypted volume that an agent in another process has attached, with a file system, files and a load.
type volumeInUse struct {
	*encrypted
	spec  agentSpec
	agent *process
	path  string
	mp    string
	sums  map[string][32]byte
	said  *kernelLog
}

func useVolume(t *testing.T, conns int) *volumeInUse {
	t.Helper()
	needNBD(t)
	u := &volumeInUse{encrypted: newEncrypted(t, sizeOf("ext4")), said: followKernelLog(t)}
	u.spec = agentSpec{Image: u.image, UUID: u.rec.UUID, Dir: t.TempDir(), Kind: KindNBD, Connections: conns, Timeout: 2 * time.Second,
		Record: &u.rec, Secret: u.secret}
	u.agent, u.path = startAgent(t, u.spec)
	makeFS(t, "ext4", u.path)
	u.mp = mountFS(t, "ext4", u.path, "", 0)
	u.sums = fill(t, u.mp, 30, 200<<10)
	return u
}

// done ends the use in order and proves that everything is there, read by a new device.
func (u *volumeInUse) done(t *testing.T) {
	t.Helper()
	verify(t, u.mp, u.sums)
	unmount(t, u.mp)
	checkFS(t, "ext4", u.path)
	if err := u.agent.end(); err != nil {
		t.Fatalf("the agent ended with %v: %s", err, u.agent.log)
	}
	u.said.never(ioErrors...)
	vol := u.open(t, nbdcrypt.Options{ReadOnly: true})
	b := attachNBDForTest(t, vol, Options{VolumeUUID: u.rec.UUID, RuntimeDir: u.spec.Dir, ReadOnly: true})
	mp := mountFS(t, "ext4", b.Path(), "", unix.MS_RDONLY)
	verify(t, mp, u.sums)
	unmount(t, mp)
}

func TestKernelNBD_agentIsKilledUnderFio(t *testing.T) {
	u := useVolume(t, 2)
	load := fio(t, u.mp, 10*time.Second)
	for range 2 {
		time.Sleep(time.Second)
		load.running()
		u.agent.kill()
		again := u.spec
		again.Reattach = true
		var path string
		if u.agent, path = startAgent(t, again); path != u.path {
			t.Fatal("another block device")
		}
	}
	load.wait()
	u.done(t)
}

func TestKernelNBD_agentIsUpgradedUnderFio(t *testing.T) {
	u := useVolume(t, 4)
	load := fio(t, u.mp, 8*time.Second)
	for range 3 {
		time.Sleep(time.Second)
		load.running()
		began := time.Now()
		if err := u.agent.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if path := u.agent.attached(); path != u.path {
			t.Fatalf("the next life has %s, the former %s", path, u.path)
		}
		t.Logf("handed over in %v", time.Since(began).Round(time.Millisecond))
	}
	load.wait()
	// The kernel has noticed nothing: no connection was given up.
	u.said.never("Dead connection", "Connection timed out", "Receive control failed", "Send control failed", "reconnected")
	u.done(t)
}

func TestKernelNBD_suspendedUnderFio(t *testing.T) {
	needNBD(t)
	said := followKernelLog(t)
	e := newEncrypted(t, sizeOf("ext4"))
	vol := e.open(t, nbdcrypt.Options{})
	// The last pause is longer than the kernel would wait for connections.
	o := Options{VolumeUUID: e.rec.UUID, Connections: 2, Timeout: time.Second, DeadConnTimeout: 2 * time.Second, RuntimeDir: t.TempDir()}
	a := attachNBDForTest(t, vol, o)
	makeFS(t, "ext4", a.Path())
	mp := mountFS(t, "ext4", a.Path(), "", 0)
	sums := fill(t, mp, 30, 200<<10)
	load := fio(t, mp, 11*time.Second)
	for _, pause := range []time.Duration{100 * time.Millisecond, time.Second, 6 * time.Second} {
		time.Sleep(time.Second)
		load.running()
		if err := vol.Suspend(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause)
		load.running()
		if err := vol.Resume(e.key(t)); err != nil {
			t.Fatal(err)
		}
	}
	load.wait()
	verify(t, mp, sums)
	unmount(t, mp)
	checkFS(t, "ext4", a.Path())
	said.never(ioErrors...)
}

func TestKernelNBD_releasedAndResumed(t *testing.T) {
	dev := newCountingDevice(8 << 20)
	a := attachNBDForTest(t, dev, Options{Connections: 2})
	f := openDirect(t, a.Path())
	buf := aligned(t, 64<<10)
	if _, err := f.WriteAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	conns, err := a.Release(t.Context())
	if err != nil || len(conns) != 2 {
		t.Fatalf("released %d connections, %v", len(conns), err)
	}
	if _, err := a.Release(t.Context()); err == nil {
		t.Error("released twice")
	}
	if err := a.Close(); !errors.Is(err, errReleased) {
		t.Errorf("Close of what a successor has: %v", err)
	}
	before := dev.writes.Load()
	done := make(chan error, 1)
	go func() { _, err := f.WriteAt(buf, 1<<20); done <- err }()
	select {
	case err := <-done:
		t.Fatalf("a write was answered by nobody: %v", err)
	case <-time.After(time.Second):
	}
	if dev.writes.Load() != before {
		t.Error("a write reached the device after Release")
	}
	if err := a.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if a.Resume() == nil {
		t.Error("resumed twice")
	}
	f.Close()
}

// While storage hangs, an attachment cannot be released; it goes on, and what hangs is not lost.
func TestKernelNBD_releaseOfHangingStorageIsRefused(t *testing.T) {
	dev := &stallDevice{countingDevice: newCountingDevice(1 << 20), release: make(chan struct{})}
	a := attachNBDForTest(t, dev, Options{Connections: 2, Timeout: 2 * time.Second})
	f := openDirect(t, a.Path())
	buf := aligned(t, 4096)
	for i := range buf {
		buf[i] = 7
	}
	dev.stalled.Store(true)
	done := make(chan error, 1)
	go func() { _, err := f.WriteAt(buf, 0); done <- err }()
	eventually(t, "the write arrives", func() bool { return dev.waiting.Load() > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := a.Release(ctx); err == nil {
		t.Fatal("released with a request inside the device")
	}
	dev.stalled.Store(false)
	close(dev.release)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(90 * time.Second):
		t.Fatal("the write was lost")
	}
	if dev.Snapshot()[0] != 7 {
		t.Error("the write is not there")
	}
	if _, err := f.ReadAt(buf, 4096); err != nil {
		t.Error(err)
	}
	f.Close()
}

func TestAdopt_refusals(t *testing.T) {
	needNBD(t)
	dev := newCountingDevice(1 << 20)
	id := uuid.NewString()
	o := Options{VolumeUUID: id, Connections: 1, RuntimeDir: t.TempDir()}
	pipe := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		return r
	}
	if _, err := Adopt(t.Context(), dev, o, []*os.File{pipe()}); !errors.Is(err, ErrNotAttached) {
		t.Errorf("without a device: %v", err)
	}
	attachNBDForTest(t, dev, o)
	if _, err := Adopt(t.Context(), dev, o, []*os.File{pipe()}); !errors.Is(err, ErrAttached) {
		t.Errorf("of a living agent: %v", err)
	}
}
