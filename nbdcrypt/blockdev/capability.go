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
