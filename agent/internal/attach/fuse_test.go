package attach

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

func TestAttachFUSE_blockDeviceHasTheVolumesGeometry(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		sector   int
		readOnly bool
	}{{"512", 512, false}, {"4096", 4096, false}, {"4096 read-only", 4096, true}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := attachForTest(t, newCountingDevice(8<<20), Options{SectorSize: tc.sector, ReadOnly: tc.readOnly})
			fd, err := unix.Open(a.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if got, err := unix.IoctlGetInt(fd, unix.BLKSSZGET); err != nil || got != tc.sector {
				t.Errorf("sector size %d (%v), want %d", got, err, tc.sector)
			}
			if ro, err := unix.IoctlGetInt(fd, unix.BLKROGET); err != nil || (ro != 0) != tc.readOnly {
				t.Errorf("read-only %d (%v), want %v", ro, err, tc.readOnly)
			}
			if size, err := readNumber("/sys/block/" + filepath.Base(a.Path()) + "/size"); err != nil || size*512 != 8<<20 {
				t.Errorf("size %d sectors (%v)", size, err)
			}
			if dio, err := readNumber("/sys/block/" + filepath.Base(a.Path()) + "/loop/dio"); err != nil || dio != 1 {
				t.Errorf("direct I/O %d (%v), want 1", dio, err)
			}
			if clear, err := readNumber("/sys/block/" + filepath.Base(a.Path()) + "/loop/autoclear"); err != nil || clear != 0 {
				t.Errorf("autoclear %d (%v), want 0", clear, err)
			}
		})
	}
}

func TestAttachFUSE_mountIsPrivateAndForRootOnly(t *testing.T) {
	t.Parallel()
	id, dir := uuid.NewString(), t.TempDir()
	attachForTest(t, newCountingDevice(1<<20), Options{VolumeUUID: id, RuntimeDir: dir})
	st, err := os.Stat(fuseDir(runDir(dir, id)))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o700 {
		t.Errorf("mount point has mode %v, want 0700", st.Mode())
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, id) {
			continue
		}
		for _, want := range []string{"default_permissions", "nosuid", "nodev", "noexec", "user_id=0"} {
			if !strings.Contains(line, want) {
				t.Errorf("mount lacks %s: %s", want, line)
			}
		}
		for _, no := range []string{"allow_other", "shared:"} {
			if strings.Contains(line, no) {
				t.Errorf("mount has %s: %s", no, line)
			}
		}
	}
}

func TestAttachFUSE_everyByteGoesThrough(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(16 << 20)
	a := attachForTest(t, dev, Options{SectorSize: 512})
	f := openDirect(t, a.Path())
	rng := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, 16<<20)
	buf := aligned(t, 3<<20)
	for range 60 {
		n := (1 + rng.IntN(3<<20/512)) * 512
		off := rng.IntN((16<<20-n)/512) * 512
		for i := range n {
			buf[i] = byte(rng.Uint32())
		}
		copy(want[off:], buf[:n])
		if _, err := f.WriteAt(buf[:n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if got := dev.Snapshot(); !bytes.Equal(got, want) {
		t.Error("the device does not hold what was written to the block device")
	}
	for off := 0; off < len(want); off += len(buf) {
		n := min(len(buf), len(want)-off)
		if _, err := f.ReadAt(buf[:n], int64(off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf[:n], want[off:off+n]) {
			t.Fatalf("read at %d differs from what was written", off)
		}
	}
}

func TestAttachFUSE_flushReachesSyncBeforeItIsAcknowledged(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(4 << 20)
	var writesAtSync atomic.Int64
	dev.syncHook = func() { writesAtSync.Store(dev.writes.Load()) }
	a := attachForTest(t, dev, Options{})
	f := openDirect(t, a.Path())
	buf := aligned(t, 4096)
	for i := range 5 {
		before := dev.syncs.Load()
		if _, err := f.WriteAt(buf, int64(i)*4096); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if got := dev.syncs.Load(); got <= before {
			t.Fatalf("fsync %d of the block device returned, and Sync was called %d times, before it %d", i, got, before)
		}
		if n := writesAtSync.Load(); n < int64(i+1) {
			t.Fatalf("Sync %d covered %d writes", i, n)
		}
	}
}

func TestAttachFUSE_failedSyncFailsTheFlush(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(1 << 20)
	a := attachForTest(t, dev, Options{})
	f := openDirect(t, a.Path())
	buf := aligned(t, 4096)
	if _, err := f.WriteAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	dev.fail.Store(true)
	err := f.Sync()
	_, readErr := f.ReadAt(buf, 0)
	_, writeErr := f.WriteAt(buf, 0)
	dev.fail.Store(false)
	for what, err := range map[string]error{"flush": err, "read": readErr, "write": writeErr} {
		if !errors.Is(err, unix.EIO) {
			t.Errorf("%s on a failing medium: %v, want EIO", what, err)
		}
	}
}

func TestAttachFUSE_zeroingWritesZeroesAndDiscardIsRefused(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(4 << 20)
	a := attachForTest(t, dev, Options{Discard: true})
	f := openDirect(t, a.Path())
	buf := aligned(t, 1<<20)
	for i := range buf {
		buf[i] = 0xa5
	}
	if _, err := f.WriteAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	rng := [2]uint64{0, 512 << 10}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, ptr(&rng)); errno == 0 {
		t.Error("discard was accepted: a loop device would have turned it into a hole that does not read as zeroes")
	}
	if dev.Snapshot()[0] != 0xa5 {
		t.Error("refused discard changed the volume")
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKZEROOUT, ptr(&rng)); errno != 0 {
		t.Fatal(errno)
	}
	got := dev.Snapshot()
	if !bytes.Equal(got[:512<<10], make([]byte, 512<<10)) || got[512<<10] != 0xa5 {
		t.Error("zeroing did not write zeroes to exactly its range")
	}
}

func TestAttachFUSE_readOnlyNeverWrites(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(1 << 20)
	a := attachForTest(t, dev, Options{ReadOnly: true})
	if f, err := os.OpenFile(a.Path(), os.O_RDWR, 0); err == nil {
		_, werr := f.WriteAt(make([]byte, 4096), 0)
		serr := f.Sync()
		f.Close()
		if werr == nil && serr == nil {
			t.Error("a write to a read-only volume succeeded")
		}
	}
	if n := dev.writes.Load(); n != 0 {
		t.Errorf("%d writes reached the device", n)
	}
}

func TestAttachFUSE_closeRefusesWhileMountedAndWorksAfterwards(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(32 << 20)
	a := attachForTest(t, dev, Options{})
	mkfs(t, a.Path())
	mp := mountForTest(t, a.Path())
	if err := os.WriteFile(filepath.Join(mp, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := a.Close()
	if !errors.Is(err, ErrBusy) {
		t.Fatalf("Close of a mounted volume: %v, want ErrBusy", err)
	}
	if !strings.Contains(err.Error(), mp) {
		t.Errorf("error does not say where it is mounted: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(mp, "file")); err != nil || string(b) != "kept" {
		t.Errorf("refused Close disturbed the mount: %q, %v", b, err)
	}
	unmount(t, mp)
	syncs := dev.syncs.Load()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if dev.syncs.Load() <= syncs {
		t.Error("Close did not sync the volume")
	}
	if err := a.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	// What the file system holds is really in the device.
	b := attachForTest(t, dev, Options{ReadOnly: true})
	out, err := exec.Command("debugfs", "-R", "cat /file", b.Path()).Output()
	if err != nil || string(out) != "kept" {
		t.Errorf("debugfs reads %q, %v", out, err)
	}
}

func TestAttachFUSE_closeWritesOutThePageCache(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(1 << 20)
	a := attachForTest(t, dev, Options{})
	if err := os.WriteFile(a.Path(), bytes.Repeat([]byte{7}, 64<<10), 0); err != nil { // buffered, no fsync
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got := dev.Snapshot(); got[0] != 7 || got[64<<10-1] != 7 {
		t.Error("buffered write was lost by Close")
	}
}

func TestAttachFUSE_abortEndsRequests(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(1 << 20)
	a := attachForTest(t, dev, Options{})
	f := openDirect(t, a.Path())
	buf := aligned(t, 4096)
	if err := a.(Aborter).Abort(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(buf, 0); err == nil {
		t.Error("read succeeded after Abort")
	}
	f.Close()
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "writes were lost") {
		t.Errorf("Close after Abort: %v, want word of lost writes", err)
	}
}

func TestAttach_refusesTheSameVolumeTwice(t *testing.T) {
	t.Parallel()
	id, dir, dev := uuid.NewString(), t.TempDir(), newCountingDevice(1<<20)
	attachForTest(t, dev, Options{VolumeUUID: id, RuntimeDir: dir})
	if _, err := Attach(context.Background(), dev, Options{VolumeUUID: strings.ToUpper(id), RuntimeDir: dir, Kind: KindFUSE}); !errors.Is(err, ErrAttached) {
		t.Errorf("second Attach: %v, want ErrAttached", err)
	}
}

func TestAttach_refusesImpossibleOptions(t *testing.T) {
	t.Parallel()
	id := uuid.NewString()
	for name, tc := range map[string]struct {
		size int64
		o    Options
	}{
		"no UUID":             {1 << 20, Options{}},
		"path as UUID":        {1 << 20, Options{VolumeUUID: "../../etc"}},
		"sector size":         {1 << 20, Options{VolumeUUID: id, SectorSize: 1024}},
		"half a sector":       {4096 + 512, Options{VolumeUUID: id}},
		"empty device":        {0, Options{VolumeUUID: id}},
		"too many sockets":    {1 << 20, Options{VolumeUUID: id, Connections: 17}},
		"unknown kind":        {1 << 20, Options{VolumeUUID: id, Kind: "floppy"}},
		"timeout below 1 s":   {1 << 20, Options{VolumeUUID: id, Timeout: 1}},
		"negative dead timer": {1 << 20, Options{VolumeUUID: id, DeadConnTimeout: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.o.RuntimeDir = t.TempDir()
			a, err := Attach(context.Background(), newCountingDevice(tc.size), tc.o)
			if err == nil {
				a.Close()
				t.Fatal("accepted")
			}
			if entries, _ := os.ReadDir(tc.o.RuntimeDir); len(entries) > 0 {
				t.Errorf("refusal left %v behind", entries)
			}
		})
	}
}
