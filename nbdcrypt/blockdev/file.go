package blockdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// FileOptions say how OpenFile opens.
type FileOptions struct {
	// ReadOnly opens without the right to write; requests that write return ErrReadOnly.
	ReadOnly bool
	// Cache says whether the kernel's page cache lies between the File and its disk.
	Cache CacheMode
}

// CacheMode is whether a File goes through the kernel's page cache. Either way Sync reaches the disk.
type CacheMode int

const (
	// CacheAuto is no cache for a block device that can do without, and the cache for a regular file: what lies above a
	// volume on a disk caches by itself, in clear, and a second copy takes its memory; an image file is often read again by
	// several, and its file system is slow at direct I/O (docs/performance.md has the measurements).
	CacheAuto CacheMode = iota
	// CacheOn always uses the cache.
	CacheOn
	// CacheOff never does, and OpenFile fails where direct I/O is not possible.
	CacheOff
)

// File is a Device over a regular file (a disk image) or a block device node.
//
// A block device is opened exclusively (the kernel refuses while it is mounted or claimed), and either kind is locked
// with an OFD lock, so that two agents never write one volume. A File that once failed to Sync fails every later Sync: the
// kernel reports a lost page only once, and a later "success" would hide that acknowledged data is gone.
type File struct {
	f         *os.File
	path      string
	size      int64
	blockSize int
	readOnly  bool
	isBlock   bool
	closed    atomic.Bool

	// direct is the same file opened for direct I/O, nil for none; align is what its requests are aligned to, bytes. The
	// others go through the page cache, which the kernel keeps coherent as long as nobody writes through both at once:
	// mixed is held shared by direct writes and alone by others.
	direct *os.File
	align  int
	mixed  sync.RWMutex

	syncMu  sync.Mutex
	syncErr error
}

// OpenFile opens the regular file or block device at path. The caller closes the File.
func OpenFile(path string, o FileOptions) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	isBlock := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	if !isBlock && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open disk %s: it is %s; name a regular file or a block device", path, info.Mode().Type())
	}
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := openExclusive(path, flags, isBlock)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	d := &File{f: f, path: path, readOnly: o.ReadOnly, isBlock: isBlock, blockSize: 512}
	err = d.measure(info)
	if err == nil {
		err = d.bypassCache(o.Cache)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// bypassCache opens the file for direct I/O where mode asks for it.
func (d *File) bypassCache(mode CacheMode) error {
	if mode == CacheOn || mode == CacheAuto && !d.isBlock {
		return nil
	}
	direct, align, err := openDirect(d.f, d.isBlock, d.readOnly, d.size, d.blockSize)
	switch {
	case err == nil:
		d.direct, d.align = direct, align
	case mode == CacheOff:
		return fmt.Errorf("open disk %s without a cache: %w; open it with the page cache", d.path, err)
	}
	return nil
}

// Cached reports whether requests go through the kernel's page cache.
func (d *File) Cached() bool { return d.direct == nil }

// bypasses says whether a request meets the conditions of direct I/O. Whole sectors in aligned memory do.
func (d *File) bypasses(p []byte, off int64) bool {
	return d.direct != nil && (off|int64(len(p)))&int64(d.align-1) == 0 && misaligned(p, d.align) == 0
}

// measure locks the open file and fills in its size.
func (d *File) measure(before fs.FileInfo) error {
	now, err := d.f.Stat()
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	if !os.SameFile(before, now) {
		return fmt.Errorf("open disk %s: the name was moved to another file while it was opened; try again", d.path)
	}
	if err := lockFile(d.f, d.readOnly); err != nil {
		return fmt.Errorf("open disk %s: %w", d.path, err)
	}
	if d.isBlock {
		d.size, d.blockSize, err = blockGeometry(d.f)
		if err != nil {
			return fmt.Errorf("read the size of block device %s: %w", d.path, err)
		}
		return nil
	}
	d.size = now.Size()
	return nil
}

// CreateFile makes a sparse image of size bytes at path, which must not exist, and opens it for writing. The new name
// is durable when CreateFile returns.
func CreateFile(path string, size int64) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create disk image: %w", err)
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("create disk image %s of %d bytes: %w", path, size, noSpace(err))
	}
	return OpenFile(path, FileOptions{})
}

// Path is the name the File was opened by.
func (d *File) Path() string { return d.path }

// Size implements Device.
func (d *File) Size() int64 { return d.size }

// BlockSize implements BlockSizer: the logical block size of a block device, 512 for a file.
func (d *File) BlockSize() int { return d.blockSize }

// check validates a request before the kernel sees it.
func (d *File) check(off, n int64, write bool) error {
	if d.closed.Load() {
		return ErrClosed
	}
	if write && d.readOnly {
		return ErrReadOnly
	}
	return CheckRange(off, n, d.size)
}

// ReadAt implements Device.
func (d *File) ReadAt(p []byte, off int64) (int, error) {
	if err := d.check(off, int64(len(p)), false); err != nil {
		return 0, err
	}
	f := d.f
	if d.bypasses(p, off) {
		f = d.direct
	}
	n, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) && n < len(p) {
		// The file was made shorter behind our back: the device contract knows no EOF.
		return n, fmt.Errorf("read %s at %d: %w: the file is shorter than when it was opened", d.path, off, io.ErrUnexpectedEOF)
	}
	if n == len(p) {
		return n, nil
	}
	return n, err
}

// WriteAt implements Device.
func (d *File) WriteAt(p []byte, off int64) (int, error) {
	if err := d.check(off, int64(len(p)), true); err != nil {
		return 0, err
	}
	switch {
	case d.bypasses(p, off):
		d.mixed.RLock()
		defer d.mixed.RUnlock()
		n, err := d.direct.WriteAt(p, off)
		return n, noSpace(err)
	case d.direct != nil:
		d.mixed.Lock()
		defer d.mixed.Unlock()
	}
	n, err := d.f.WriteAt(p, off)
	return n, noSpace(err)
}

// Sync implements Device.
func (d *File) Sync() error {
	if d.closed.Load() {
		return ErrClosed
	}
	if d.readOnly {
		return nil
	}
	d.syncMu.Lock()
	defer d.syncMu.Unlock()
	if d.syncErr != nil {
		return d.syncErr
	}
	if err := syncData(d.f); err != nil {
		d.syncErr = fmt.Errorf("flush %s: %w; written data may be lost, check the disk and open the volume again", d.path, noSpace(err))
	}
	return d.syncErr
}

// Close implements Device and releases the locks.
func (d *File) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	// Unlocked by name: a program that is being started elsewhere in this process may still hold a copy of the descriptor,
	// and with it the lock, for a moment.
	unlockFile(d.f)
	if d.direct != nil {
		return errors.Join(d.direct.Close(), d.f.Close())
	}
	return d.f.Close()
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
