package attach

import (
	"errors"
	"os/exec"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ptr[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// mkfs makes an ext4 file system, or skips.
func mkfs(t *testing.T, dev string) {
	t.Helper()
	path, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("needs mkfs.ext4 (e2fsprogs)")
	}
	if out, err := exec.Command(path, "-q", "-F", dev).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
}

// unmount takes a file system of the test away. Another test that forks holds on to every open file for a moment.
func unmount(t *testing.T, mp string) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = unix.Unmount(mp, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err != nil {
		t.Fatalf("unmount %s: %v", mp, err)
	}
}

// mountForTest mounts ext4 and unmounts it at the end of the test, if it still is.
func mountForTest(t *testing.T, dev string) string {
	t.Helper()
	mp := t.TempDir()
	if err := unix.Mount(dev, mp, "ext4", unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mp, unix.MNT_DETACH) })
	return mp
}
