package nbd

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"keyward/nbdcrypt/blockdev"
)

// testBlock is the unit in which a testDevice knows what is allocated.
const testBlock = 4096

// testDevice is a disk in memory that remembers what was asked of it and in which order. It has no optional capability;
// fullDevice has them all.
type testDevice struct {
	mu     sync.RWMutex
	data   []byte
	hole   []bool
	events []string
	record bool
	// hook is called before each request; its error is the device's answer.
	hook func(op string, off, n int64) error
}

func newTestDevice(size int) *testDevice {
	hole := make([]bool, (size+testBlock-1)/testBlock)
	for i := range hole {
		hole[i] = true
	}
	return &testDevice{data: make([]byte, size), hole: hole}
}

func (d *testDevice) begin(op string, off, n int64) error {
	if d.hook != nil {
		if err := d.hook(op, off, n); err != nil {
			return err
		}
	}
	if off < 0 || n < 0 || off > int64(len(d.data)) || n > int64(len(d.data))-off {
		return blockdev.ErrOutOfRange
	}
	return nil
}

// end notes a request that is complete; the lock is held.
func (d *testDevice) end(op string, off, n int64) {
	if d.record {
		d.events = append(d.events, fmt.Sprintf("%s %d+%d", op, off, n))
	}
}

func (d *testDevice) log() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.events)
}

func (d *testDevice) content(off, n int) []byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.data[off : off+n])
}

func (d *testDevice) ReadAt(p []byte, off int64) (int, error) {
	if err := d.begin("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return copy(p, d.data[off:]), nil
}

func (d *testDevice) put(op string, p []byte, off int64) (int, error) {
	if err := d.begin(op, off, int64(len(p))); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	d.mark(off, int64(len(p)), false)
	d.end(op, off, int64(len(p)))
	return len(p), nil
}

func (d *testDevice) mark(off, n int64, hole bool) {
	for i := off / testBlock; i*testBlock < off+n; i++ {
		d.hole[i] = hole
	}
}

func (d *testDevice) WriteAt(p []byte, off int64) (int, error) { return d.put("write", p, off) }

func (d *testDevice) Size() int64 { return int64(len(d.data)) }

func (d *testDevice) Sync() error {
	if d.hook != nil {
		if err := d.hook("sync", 0, 0); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end("sync", 0, 0)
	return nil
}

func (d *testDevice) Close() error { return nil }

// fullDevice is a testDevice with every optional capability. Holes read as zeroes.
type fullDevice struct{ *testDevice }

func newFullDevice(size int) fullDevice { return fullDevice{newTestDevice(size)} }

// WriteAtInPlace destroys p, as it may.
func (d fullDevice) WriteAtInPlace(p []byte, off int64) (int, error) {
	n, err := d.put("write", p, off)
	for i := range p {
		p[i] = 0xdb
	}
	return n, err
}

func (d fullDevice) Discard(off, n int64) error { return d.zero("discard", off, n, true) }

func (d fullDevice) WriteZeroes(off, n int64, mayUnmap bool) error {
	op := "zero"
	if mayUnmap {
		op = "zero-unmap"
	}
	return d.zero(op, off, n, mayUnmap)
}

func (d fullDevice) zero(op string, off, n int64, unmap bool) error {
	if err := d.begin(op, off, n); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	d.mark(off, n, unmap && off%testBlock == 0 && n%testBlock == 0)
	d.end(op, off, n)
	return nil
}

func (d fullDevice) Extents(off, n int64) ([]blockdev.Extent, error) {
	if err := d.begin("extents", off, n); err != nil {
		return nil, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	var out []blockdev.Extent
	for end := off + n; off < end; {
		i := off / testBlock
		m := min((i+1)*testBlock, end) - off
		e := blockdev.Extent{Length: m, Hole: d.hole[i], Zero: d.hole[i]}
		if last := len(out) - 1; last >= 0 && out[last].Hole == e.Hole {
			out[last].Length += m
		} else {
			out = append(out, e)
		}
		off += m
	}
	return out, nil
}

func (d fullDevice) Cache(off, n int64) error { return d.begin("cache", off, n) }

// slowZeroer has no cheap way to write zeroes and says so.
type slowZeroer struct{ *testDevice }

func (slowZeroer) WriteZeroes(int64, int64, bool) error { return errors.ErrUnsupported }
