package blockdev

import (
	"errors"
	"fmt"
)

// CheckRange returns nil if [off, off+n) lies inside a device of the given size and an error that wraps ErrOutOfRange
// if not. It is safe for every int64, so that a request from the network can be passed as it came.
func CheckRange(off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%d bytes at offset %d of a device of %d bytes: %w", n, off, size, ErrOutOfRange)
	}
	return nil
}

// Discard passes the request on if dev is a Discarder and returns errors.ErrUnsupported if not.
func Discard(dev Device, off, n int64) error {
	if d, ok := dev.(Discarder); ok {
		return d.Discard(off, n)
	}
	return errors.ErrUnsupported
}

// WriteZeroes passes the request on if dev is a Zeroer and returns errors.ErrUnsupported if not.
func WriteZeroes(dev Device, off, n int64, mayUnmap bool) error {
	if z, ok := dev.(Zeroer); ok {
		return z.WriteZeroes(off, n, mayUnmap)
	}
	return errors.ErrUnsupported
}

// Extents asks dev if it is an Extenter. A device that does not know its allocation is one extent of data.
func Extents(dev Device, off, n int64) ([]Extent, error) {
	if e, ok := dev.(Extenter); ok {
		return e.Extents(off, n)
	}
	if err := CheckRange(off, n, dev.Size()); err != nil {
		return nil, err
	}
	return []Extent{{Length: n}}, nil
}

// BlockSize is the block size of dev in bytes, 512 for a device that does not say.
func BlockSize(dev Device) int {
	if b, ok := dev.(BlockSizer); ok {
		return b.BlockSize()
	}
	return 512
}

// OwnedWriter is a Device that can write without copying when it may destroy the caller's buffer: an encrypting device
// encrypts in it.
type OwnedWriter interface {
	// WriteAtInPlace is WriteAt, except that the content of p is undefined afterwards. p is not retained.
	WriteAtInPlace(p []byte, off int64) (int, error)
}

// WriteAtInPlace writes p, whose content is undefined afterwards, in the cheapest way that dev has.
func WriteAtInPlace(dev Device, p []byte, off int64) (int, error) {
	if w, ok := dev.(OwnedWriter); ok {
		return w.WriteAtInPlace(p, off)
	}
	return dev.WriteAt(p, off)
}
