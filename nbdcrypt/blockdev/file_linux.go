package blockdev

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func openExclusive(path string, flags int, isBlock bool) (*os.File, error) {
	if isBlock {
		// Without O_CREAT, O_EXCL on a block device means: fail with EBUSY while it is mounted or claimed (open(2)).
		flags |= unix.O_EXCL
	}
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: it is mounted or used by another program; release it first", err)
	}
	return f, err
}

// control runs do with the descriptor of f held open. Taking f.Fd() instead would race with Close, and the number may
// by then belong to another file.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) {
		for {
			if inner = do(int(fd)); !errors.Is(inner, unix.EINTR) {
				return
			}
		}
	}); err != nil {
		return ErrClosed
	}
	return inner
}

// lockFile takes an open-file-description lock over the whole file. It is not flock: cryptsetup waits for a flock on the
// image of a volume that it is asked about, and would hang for as long as an agent has the volume open.
func lockFile(f *os.File, shared bool) error {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if shared {
		lock.Type = unix.F_RDLCK
	}
	err := control(f, func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lock) })
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("lock it: %w: another process has it open as a volume; close that first", err)
	}
	return err
}

func unlockFile(f *os.File) {
	lock := unix.Flock_t{Type: unix.F_UNLCK}
	_ = control(f, func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lock) })
}

func blockGeometry(f *os.File) (size int64, blockSize int, err error) {
	var bytes uint64
	if err := ioctl(f, unix.BLKGETSIZE64, unsafe.Pointer(&bytes)); err != nil {
		return 0, 0, err
	}
	err = control(f, func(fd int) error {
		blockSize, err = unix.IoctlGetInt(fd, unix.BLKSSZGET)
		return err
	})
	if err == nil && bytes > 1<<63-1 {
		err = fmt.Errorf("the kernel reports %d bytes", bytes)
	}
	return int64(bytes), blockSize, err
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	return control(f, func(fd int) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
}

// syncData uses fdatasync: the size never changes while the file is open, and fdatasync flushes everything that reading
// the data back needs (fdatasync(2)).
func syncData(f *os.File) error { return control(f, unix.Fdatasync) }

// noSpace makes a full disk or quota recognisable without knowing errno values.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// unsupported turns the errno values for "this file system or disk cannot" into errors.ErrUnsupported.
func unsupported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return noSpace(err)
}

func (d *File) fallocate(mode uint32, off, n int64) error {
	return unsupported(control(d.f, func(fd int) error {
		return unix.Fallocate(fd, mode|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}))
}

func (d *File) rangeIoctl(request uint, off, n int64) error {
	return unsupported(ioctl(d.f, request, unsafe.Pointer(&[2]uint64{uint64(off), uint64(n)})))
}

// Discard implements Discarder: a hole in a file, BLKDISCARD on a block device. Blocks that the range covers only in
// part are left alone.
func (d *File) Discard(off, n int64) error {
	if err := d.check(off, n, true); err != nil {
		return err
	}
	if !d.isBlock {
		if n == 0 {
			return nil
		}
		return d.fallocate(unix.FALLOC_FL_PUNCH_HOLE, off, n)
	}
	start, end := d.wholeBlocks(off, n)
	if start >= end {
		return nil
	}
	return d.rangeIoctl(unix.BLKDISCARD, start, end-start)
}

// WriteZeroes implements Zeroer. It returns errors.ErrUnsupported for a range of a block device that is not made of
// whole blocks, and where file system or disk have no such request.
func (d *File) WriteZeroes(off, n int64, mayUnmap bool) error {
	if err := d.check(off, n, true); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	if d.isBlock {
		if start, end := d.wholeBlocks(off, n); start != off || end != off+n {
			return errors.ErrUnsupported
		}
		return d.rangeIoctl(unix.BLKZEROOUT, off, n)
	}
	if mayUnmap {
		return d.fallocate(unix.FALLOC_FL_PUNCH_HOLE, off, n)
	}
	return d.fallocate(unix.FALLOC_FL_ZERO_RANGE, off, n)
}

// wholeBlocks is the part of [off, off+n) made of whole blocks.
func (d *File) wholeBlocks(off, n int64) (start, end int64) {
	block := int64(d.blockSize)
	return (off + block - 1) / block * block, (off + n) / block * block
}

// Extents implements Extenter by SEEK_DATA and SEEK_HOLE. Holes of a file read as zeroes.
func (d *File) Extents(off, n int64) ([]Extent, error) {
	if err := d.check(off, n, false); err != nil {
		return nil, err
	}
	var list []Extent
	err := control(d.f, func(fd int) error {
		list = seekExtents(fd, off, off+n)
		return nil
	})
	return list, err
}

func seekExtents(fd int, pos, end int64) (list []Extent) {
	const most = 1024 // a badly fragmented file is described in several calls
	for pos < end && len(list) < most {
		data, err := unix.Seek(fd, pos, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // no data up to the end
			data = end
		case err != nil: // a block device or a file system without SEEK_DATA: all of it may be data
			return append(list, Extent{Length: end - pos})
		}
		if data = min(data, end); data > pos {
			list = append(list, Extent{Length: data - pos, Hole: true, Zero: true})
			pos = data
			continue
		}
		hole, err := unix.Seek(fd, pos, unix.SEEK_HOLE)
		if err != nil || hole > end || hole <= pos { // hole == pos: punched between the two calls
			hole = end
		}
		list = append(list, Extent{Length: hole - pos})
		pos = hole
	}
	return list
}
