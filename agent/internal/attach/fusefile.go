package attach

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/blockdev"
)

// exportRoot is a folder with one file: the volume in clear.
type exportRoot struct {
	fs.Inode
	name string
	file *exportFile
}

func (r *exportRoot) OnAdd(ctx context.Context) {
	ino := r.NewPersistentInode(ctx, r.file, fs.StableAttr{Mode: fuse.S_IFREG, Ino: 2})
	r.AddChild(r.name, ino, false)
}

func (r *exportRoot) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = fuse.S_IFDIR | 0o700
	out.SetTimeout(time.Hour)
	return fs.OK
}

// exportFile forwards reads, writes and fsync of one file to a Device. There is no Allocate on purpose: see
// Options.Discard.
type exportFile struct {
	fs.Inode
	dev      blockdev.Device
	size     int64
	readOnly bool
}

func newExportFile(dev blockdev.Device, readOnly bool) *exportFile {
	return &exportFile{dev: dev, size: dev.Size(), readOnly: readOnly}
}

func (f *exportFile) attr(out *fuse.AttrOut) {
	out.Mode = fuse.S_IFREG | 0o600
	if f.readOnly {
		out.Mode = fuse.S_IFREG | 0o400
	}
	out.Size = uint64(f.size)
	out.Blocks = uint64(f.size) / 512
	out.Blksize = 4096
	out.SetTimeout(time.Hour) // the size of a Device never changes
}

func (f *exportFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attr(out)
	return fs.OK
}

// Setattr refuses a new size, owner or mode; times are accepted and forgotten.
func (f *exportFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_SIZE|fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_MODE) != 0 {
		return syscall.EPERM
	}
	f.attr(out)
	return fs.OK
}

// Open asks for direct I/O, and for parallel direct writes because without it the kernel lets one write in at a time.
func (f *exportFile) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if f.readOnly && flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	return nil, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES | fuse.FOPEN_NOFLUSH, fs.OK
}

func (f *exportFile) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if off < 0 || off >= f.size {
		return fuse.ReadResultData(nil), fs.OK
	}
	dest = dest[:min(int64(len(dest)), f.size-off)]
	if _, err := f.dev.ReadAt(dest, off); err != nil {
		return nil, toErrno(err)
	}
	return fuse.ReadResultData(dest), fs.OK
}

func (f *exportFile) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if f.readOnly {
		return 0, syscall.EROFS
	}
	if off < 0 || int64(len(data)) > f.size-off {
		return 0, syscall.EFBIG
	}
	// The buffer is the request's own and is not read again, so the Device may encrypt in it.
	if _, err := blockdev.WriteAtInPlace(f.dev, data, off); err != nil {
		return 0, toErrno(err)
	}
	return uint32(len(data)), fs.OK
}

// Fsync is what a FLUSH on the loop device becomes.
func (f *exportFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if err := f.dev.Sync(); err != nil {
		return toErrno(err)
	}
	return fs.OK
}

func toErrno(err error) syscall.Errno {
	switch {
	case errors.Is(err, blockdev.ErrReadOnly):
		return syscall.EROFS
	case errors.Is(err, blockdev.ErrNoSpace):
		return syscall.ENOSPC
	case errors.Is(err, blockdev.ErrOutOfRange):
		return syscall.EINVAL
	}
	return syscall.EIO
}
