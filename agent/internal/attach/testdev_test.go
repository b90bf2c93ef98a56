package attach

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/blockdev"
)

// countingDevice is memory that counts and can be told to fail.
type countingDevice struct {
	*blockdev.Memory
	reads, writes, syncs atomic.Int64
	fail                 atomic.Bool
	syncHook             func()
}

var errMedium = errors.New("medium error")

func newCountingDevice(size int64) *countingDevice {
	return &countingDevice{Memory: blockdev.NewMemory(size)}
}

func (d *countingDevice) ReadAt(p []byte, off int64) (int, error) {
	d.reads.Add(1)
	if d.fail.Load() {
		return 0, errMedium
	}
	return d.Memory.ReadAt(p, off)
}

func (d *countingDevice) WriteAt(p []byte, off int64) (int, error) {
	d.writes.Add(1)
	if d.fail.Load() {
		return 0, errMedium
	}
	return d.Memory.WriteAt(p, off)
}

func (d *countingDevice) Sync() error {
	d.syncs.Add(1)
	if d.fail.Load() {
		return errMedium
	}
	if d.syncHook != nil {
		d.syncHook()
	}
	return d.Memory.Sync()
}

// needFUSE skips where FUSE and loop devices cannot be had.
func needFUSE(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount FUSE and to configure loop devices")
	}
	for _, f := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("needs %s: %v", f, err)
		}
	}
}

// attachForTest attaches dev by FUSE and loop, and detaches it at the end of the test.
func attachForTest(t *testing.T, dev blockdev.Device, o Options) Attachment {
	t.Helper()
	needFUSE(t)
	o.Kind = KindFUSE
	if o.VolumeUUID == "" {
		o.VolumeUUID = uuid.NewString()
	}
	if o.RuntimeDir == "" {
		o.RuntimeDir = t.TempDir()
	}
	a, err := Attach(context.Background(), dev, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if left := leftBehind(o.RuntimeDir, o.VolumeUUID); left != "" {
			t.Errorf("left behind: %s", left)
		}
	})
	return a
}

// leftBehind names what an attachment has not removed.
func leftBehind(runtimeDir, id string) string {
	var left []string
	if loops, _ := loopsOf(exportName(id)); len(loops) > 0 {
		left = append(left, loopPath(loops[0]))
	}
	if _, err := os.Lstat(filepath.Join(runtimeDir, id)); err == nil {
		left = append(left, "runtime folder")
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(b), id) {
		left = append(left, "mount")
	}
	return strings.Join(left, ", ")
}

// openDirect opens a block device past the page cache.
func openDirect(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// aligned returns n bytes that O_DIRECT accepts.
func aligned(t *testing.T, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return b
}

// eventually waits for something that another process or the kernel does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
