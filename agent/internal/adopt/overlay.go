package adopt

import (
	"fmt"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/luks2"
)

// overlay is a disk whose header can be written in memory, so that an import can be tried in full before anything is
// written.
type overlay struct {
	blockdev.Device
	head []byte
}

func newOverlay(disk blockdev.Device) (*overlay, error) {
	o := &overlay{Device: disk, head: make([]byte, 2*luks2.HeaderSize)}
	if _, err := disk.ReadAt(o.head, 0); err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	return o, nil
}

// ReadAt implements blockdev.Device.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.Device.ReadAt(p, off)
	if err == nil && off < int64(len(o.head)) {
		copy(p, o.head[off:])
	}
	return n, err
}

// WriteAt implements blockdev.Device for the header alone.
func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(o.head)) {
		return 0, fmt.Errorf("%w beyond the header, in a trial", blockdev.ErrReadOnly)
	}
	return copy(o.head[off:], p), nil
}

// Sync implements blockdev.Device.
func (o *overlay) Sync() error { return nil }

// Close implements blockdev.Device; the disk below stays open.
func (o *overlay) Close() error { return nil }
