package nbd

import (
	"fmt"
	"io"

	"github.com/pojntfx/go-nbd/pkg/backend"

	"keyward/nbdcrypt/blockdev"
)

// FromBackend makes a go-nbd backend a device, so that what was written for go-nbd's server can be served by this one.
// Requests outside the backend's size at the time of the call are refused here: go-nbd's own backends grow a file, panic
// or keep their lock. Close does not close the backend, which has no such method.
func FromBackend(b backend.Backend) (blockdev.Device, error) {
	size, err := b.Size()
	if err != nil {
		return nil, fmt.Errorf("asking a go-nbd backend for its size: %w", err)
	}
	if size < 0 {
		return nil, fmt.Errorf("a go-nbd backend reports a size of %d bytes; check that it is open", size)
	}
	return &backendDevice{b, size}, nil
}

type backendDevice struct {
	backend backend.Backend
	size    int64
}

func (d *backendDevice) inside(p []byte, off int64) bool {
	return off >= 0 && off <= d.size && int64(len(p)) <= d.size-off
}

func (d *backendDevice) ReadAt(p []byte, off int64) (int, error) {
	if !d.inside(p, off) {
		return 0, blockdev.ErrOutOfRange
	}
	n, err := d.backend.ReadAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrUnexpectedEOF
	}
	if err == io.EOF && n == len(p) {
		err = nil
	}
	return n, err
}

func (d *backendDevice) WriteAt(p []byte, off int64) (int, error) {
	if !d.inside(p, off) {
		return 0, blockdev.ErrOutOfRange
	}
	return d.backend.WriteAt(p, off)
}

func (d *backendDevice) Size() int64  { return d.size }
func (d *backendDevice) Sync() error  { return d.backend.Sync() }
func (d *backendDevice) Close() error { return nil }

// ToBackend makes a device a go-nbd backend, so that go-nbd's server can serve it.
func ToBackend(d blockdev.Device) backend.Backend { return deviceBackend{d} }

type deviceBackend struct{ blockdev.Device }

func (b deviceBackend) Size() (int64, error) { return b.Device.Size(), nil }
