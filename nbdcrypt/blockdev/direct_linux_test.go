package blockdev

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// uncached is an image of size bytes opened without the page cache.
func uncached(t *testing.T, size int64) *File {
	t.Helper()
	made := newFile(t, size)
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(made.Path(), FileOptions{Cache: CacheOff})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("the file system of the temporary folder has no direct I/O: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// alignedBuffer is n bytes in memory that direct I/O takes.
func alignedBuffer(n, align int) []byte {
	b := make([]byte, n+align)
	return b[(align-misaligned(b, align))%align:][:n]
}

func TestFile_withoutCacheBehaves(t *testing.T) {
	t.Parallel()
	f := uncached(t, 1<<20)
	err := control(f.direct, func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err == nil && flags&unix.O_DIRECT == 0 {
			t.Error("not opened for direct I/O")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	behaves(t, f)
}

// Whether a request is aligned or not must not be seen in the data, in whatever order they come.
func TestFile_withoutCacheEveryAlignment(t *testing.T) {
	t.Parallel()
	const size = 256 << 10
	f := uncached(t, size)
	model := make([]byte, size)
	rnd := rand.New(rand.NewPCG(3, 4))
	block := alignedBuffer(64<<10, f.align)
	back := alignedBuffer(size, f.align)
	direct := 0
	for range 400 {
		off, n := int64(rnd.IntN(size)), 1+rnd.IntN(len(block)-1)
		p := block[:n]
		switch rnd.IntN(3) {
		case 0: // all aligned
			off, n = off/int64(f.align)*int64(f.align), (n+f.align-1)/f.align*f.align
			p = block[:n]
		case 1: // only the memory is not
			off, n = off/int64(f.align)*int64(f.align), f.align
			p = block[1:][:n]
		}
		p = p[:min(int64(len(p)), size-off)]
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		copy(model[off:], p)
		if f.bypasses(p, off) {
			direct++
		}
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		at := int64(rnd.IntN(size-1)) &^ (int64(rnd.IntN(2)) * int64(f.align-1))
		read := back[:min(size-at, int64(8192))]
		if _, err := f.ReadAt(read, at); err != nil || !bytes.Equal(read, model[at:at+int64(len(read))]) {
			t.Fatalf("%d bytes at %d read differently after %d at %d were written: %v", len(read), at, len(p), off, err)
		}
	}
	if direct < 50 {
		t.Fatalf("only %d of 400 writes went past the cache", direct)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if disk, err := os.ReadFile(f.Path()); err != nil || !bytes.Equal(disk, model) {
		t.Errorf("the file differs: %v", err)
	}
}

// Writers of one page that never touch the same bytes do not undo each other, though one goes through the cache.
func TestFile_withoutCacheNeighboursSurvive(t *testing.T) {
	t.Parallel()
	f := uncached(t, 64<<10)
	const turns = 50
	var writers sync.WaitGroup
	write := func(p []byte, off int64) {
		for i := range turns {
			for j := range p {
				p[j] = byte(i + j)
			}
			if _, err := f.WriteAt(p, off); err != nil {
				t.Error(err)
			}
			back := alignedBuffer(len(p), f.align)
			if _, err := f.ReadAt(back, off); err != nil || !bytes.Equal(back, p) {
				t.Errorf("turn %d: what was written at %d is gone: %v", i, off, err)
				return
			}
		}
	}
	align := int64(f.align)
	writers.Go(func() { write(alignedBuffer(int(align), int(align)), 4*align) })
	writers.Go(func() { write(make([]byte, 100), 5*align+7) })
	writers.Go(func() { write(make([]byte, 300), 4*align-300) })
	writers.Go(func() { write(alignedBuffer(int(align), int(align)), 6*align) })
	writers.Wait()
}

func TestOpenFile_cacheModes(t *testing.T) {
	t.Parallel()
	f := newFile(t, 1<<20)
	if !f.Cached() {
		t.Error("a regular file bypasses the cache without being asked to")
	}
	f.Close()
	odd := filepath.Join(t.TempDir(), "odd")
	if err := os.WriteFile(odd, make([]byte, 10_001), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := OpenFile(odd, FileOptions{Cache: CacheOff}); err == nil || !strings.Contains(err.Error(), "with the page cache") {
		f.Close()
		t.Errorf("a file that ends in the middle of a block: %v", err)
	}
	path := loopDevice(t, 1<<20)
	for _, mode := range []CacheMode{CacheAuto, CacheOn, CacheOff} {
		f, err := OpenFile(path, FileOptions{Cache: mode})
		if err != nil {
			t.Fatal(err)
		}
		if f.Cached() != (mode == CacheOn) {
			t.Errorf("block device, mode %d: cached %v", mode, f.Cached())
		}
		if _, err := f.WriteAt(make([]byte, 1<<20), 0); err != nil { // what the mode before left
			t.Fatal(err)
		}
		behaves(t, f)
	}
}
