package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFile_isOpenedByOneProcessAtATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := CreateFile(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		if second, err := OpenFile(path, FileOptions{ReadOnly: readOnly}); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("opened twice (read-only %v): %v, %v", readOnly, second, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	first, err := OpenFile(path, FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := OpenFile(path, FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatalf("two readers: %v", err)
	}
	defer second.Close()
	if _, err := OpenFile(path, FileOptions{}); err == nil {
		t.Error("a writer beside readers")
	}
}

func TestFile_readOnlyRefusesEveryWrite(t *testing.T) {
	t.Parallel()
	made := newFile(t, 4096)
	made.Close()
	f, err := OpenFile(made.Path(), FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{1}, 0)
	for name, err := range map[string]error{"write": err, "discard": f.Discard(0, 512), "zeroes": f.WriteZeroes(0, 512, true)} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Errorf("sync: %v", err)
	}
}

func TestFile_refusesWhatIsNoDisk(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	fifo := filepath.Join(folder, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder, "/dev/null", fifo, filepath.Join(folder, "missing"), ""} {
		if f, err := OpenFile(path, FileOptions{}); err == nil {
			f.Close()
			t.Errorf("%q was opened as a disk", path)
		}
	}
	existing := filepath.Join(folder, "existing")
	if err := os.WriteFile(existing, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFile(existing, 4096); !errors.Is(err, os.ErrExist) {
		t.Errorf("an existing file was created again: %v", err)
	}
	if text, _ := os.ReadFile(existing); string(text) != "data" {
		t.Error("an existing file was destroyed")
	}
	if _, err := CreateFile(filepath.Join(folder, "huge"), -1); err == nil {
		t.Error("a negative size was accepted")
	}
	if _, err := os.Stat(filepath.Join(folder, "huge")); err == nil {
		t.Error("a failed CreateFile left a file")
	}
}

func TestFile_cutShortBehindItsBackIsAnErrorNotEOF(t *testing.T) {
	t.Parallel()
	f := newFile(t, 8192)
	if err := os.Truncate(f.Path(), 4096); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{4000, 4096, 8000} {
		_, err := f.ReadAt(make([]byte, 192), off)
		if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			t.Errorf("read at %d: %v", off, err)
		}
	}
}

func TestFile_extentsAndHoles(t *testing.T) {
	t.Parallel()
	f := newFile(t, 4<<20)
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 1<<20), 1<<20); err != nil {
		t.Fatal(err)
	}
	list, err := f.Extents(0, 4<<20)
	if err != nil || lengths(list) != 4<<20 {
		t.Fatalf("%v, %v", list, err)
	}
	if len(list) == 1 && !list[0].Hole {
		t.Skip("this file system does not report holes")
	}
	want := []Extent{{1 << 20, true, true}, {1 << 20, false, false}, {2 << 20, true, true}}
	if len(list) != 3 || list[0] != want[0] || list[1] != want[1] || list[2] != want[2] {
		t.Errorf("extents %+v", list)
	}
	if list, err = f.Extents(1<<20+4096, 4096); err != nil || len(list) != 1 || list[0] != (Extent{Length: 4096}) {
		t.Errorf("inside the data: %+v, %v", list, err)
	}
	if err := f.Discard(1<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	if list, err = f.Extents(0, 4<<20); err != nil || len(list) != 1 || !list[0].Zero {
		t.Errorf("after the discard: %+v, %v", list, err)
	}
	if _, err := f.WriteAt([]byte{1}, 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteZeroes(3<<20, 4096, false); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	for _, n := range []int64{-1, 5 << 20} {
		if _, err := f.Extents(0, n); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("extents of %d bytes: %v", n, err)
		}
	}
}

func TestFile_aFailedSyncIsNeverForgotten(t *testing.T) {
	t.Parallel()
	f := newFile(t, 4096)
	// fdatasync of a descriptor that cannot be synced fails; afterwards the real file is put back.
	good := f.f
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	f.f = write
	if f.Sync() == nil {
		t.Fatal("a pipe was synced")
	}
	f.f = good
	if err := f.Sync(); err == nil || !strings.Contains(err.Error(), "may be lost") {
		t.Errorf("the later sync says %v", err)
	}
}

func TestFile_fullDiskIsErrNoSpace(t *testing.T) {
	folder := t.TempDir()
	if err := unix.Mount("keyward-test", folder, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	defer unix.Unmount(folder, unix.MNT_DETACH)
	f, err := CreateFile(filepath.Join(folder, "disk"), 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 4<<20), 0); !errors.Is(err, ErrNoSpace) {
		t.Errorf("error %v, want ErrNoSpace", err)
	}
}

// loopDevice attaches an image to a loop device of this test's own.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	image, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for range 20 { // another program may take the free number first
		control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
		if err != nil {
			t.Skipf("loop devices need root: %v", err)
		}
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		control.Close()
		if err != nil {
			t.Skipf("no loop device: %v", err)
		}
		path := fmt.Sprintf("/dev/loop%d", number)
		loop, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("no loop device: %v", err)
		}
		err = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(image.Fd()))
		if errors.Is(err, unix.EBUSY) {
			loop.Close()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err != nil {
			loop.Close()
			t.Skipf("cannot attach a loop device: %v", err)
		}
		loop.Close()
		t.Cleanup(func() {
			loop, err := os.OpenFile(path, os.O_RDWR, 0)
			if err == nil {
				err = errors.Join(unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0), loop.Close())
			}
			if err != nil {
				t.Errorf("detach %s: %v", path, err)
			}
		})
		return path
	}
	t.Skip("no free loop device")
	return ""
}

func TestFile_blockDevice(t *testing.T) {
	path := loopDevice(t, 1<<20)
	f, err := OpenFile(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := OpenFile(path, FileOptions{}); err == nil {
		second.Close()
		t.Error("a block device was opened twice")
	} else if !errors.Is(err, unix.EBUSY) {
		t.Errorf("second open: %v", err)
	}
	if f.BlockSize() != 512 {
		t.Errorf("block size %d", f.BlockSize())
	}
	data := bytes.Repeat([]byte{7}, 16384)
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteZeroes(4096, 4096, false); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteZeroes(100, 512, false); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("zeroes that are no whole blocks: %v", err)
	}
	if err := f.Discard(8192+10, 4096-10); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	back := make([]byte, 16384)
	if _, err := f.ReadAt(back, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back[:4096], data[:4096]) || !bytes.Equal(back[4096:8192], make([]byte, 4096)) ||
		!bytes.Equal(back[8192:8704], data[:512]) || !bytes.Equal(back[12288:], data[12288:]) {
		t.Error("zeroes or discard touched other blocks")
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenFile(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if again.Size() != 1<<20 {
		t.Errorf("size %d", again.Size())
	}
	if err := again.WriteZeroes(0, 1<<20, true); err != nil {
		t.Fatal(err)
	}
	behaves(t, again)
}
