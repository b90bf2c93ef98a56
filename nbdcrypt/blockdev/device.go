// Package blockdev holds the block devices that the data plane reads and writes: files and raw disks, memory, and
// decorators that count, delay or break requests. Everything above it (sector encryption, the NBD server, the FUSE
// export) sees only the Device interface and the optional capabilities declared here.
package blockdev

import (
	"errors"
	"io"
)

// Errors that callers act on. Every other error from a Device is an I/O error of the medium.
var (
	// ErrOutOfRange is returned for a request that does not lie wholly inside the device.
	ErrOutOfRange = errors.New("request lies outside the device")
	// ErrReadOnly is returned for a write, discard or write-zeroes request on a read-only device.
	ErrReadOnly = errors.New("device is read-only")
	// ErrNoSpace is returned when the medium under a growing or sparse device is full.
	ErrNoSpace = errors.New("no space left on the device")
	// ErrClosed is returned for a request on a device that has been closed.
	ErrClosed = errors.New("device is closed")
)

// Device is a fixed-size array of bytes. All methods are safe for concurrent use; requests that overlap in time and
// range have no defined order between them, as on a disk.
type Device interface {
	// ReadAt fills p from byte offset off. It either fills all of p or returns an error; it never returns io.EOF for a
	// request inside the device. The caller keeps p.
	io.ReaderAt
	// WriteAt writes all of p at byte offset off or returns an error. The data is durable only after Sync. The device
	// must not modify or retain p.
	io.WriterAt
	// Size is the number of addressable bytes. It never changes while the device is open.
	Size() int64
	// Sync returns after every write that completed before the call is on stable storage.
	Sync() error
	// Close releases the device. It does not imply Sync.
	Close() error
}

// BlockSizer is a Device whose medium works in blocks: requests at other alignments are correct but slower.
type BlockSizer interface {
	// BlockSize is a power of two in bytes, at least 512.
	BlockSize() int
}

// Discarder is a Device that can be told that a range no longer holds data. What the range reads as afterwards is
// undefined until it is written again.
type Discarder interface {
	Discard(off, n int64) error
}

// Zeroer is a Device that can make a range read as zeroes more cheaply than by WriteAt. With mayUnmap the device may
// deallocate the range. It returns errors.ErrUnsupported where it has no cheap way.
type Zeroer interface {
	WriteZeroes(off, n int64, mayUnmap bool) error
}

// Extent is a run of bytes with the same allocation state.
type Extent struct {
	Length int64
	// Hole reports that no storage is allocated for the run.
	Hole bool
	// Zero reports that the run reads as zeroes.
	Zero bool
}

// Extenter is a Device that knows which ranges are allocated.
type Extenter interface {
	// Extents describes [off, off+n) from off on, in order. It covers at least one byte and at most n.
	Extents(off, n int64) ([]Extent, error)
}
