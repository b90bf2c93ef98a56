package blockdev

import (
	"sync/atomic"
	"time"
)

// Counter is what happened to one kind of request since the device was opened.
type Counter struct {
	// Requests that ended, with or without error.
	Requests uint64
	// Errors among them.
	Errors uint64
	// Bytes of those that succeeded.
	Bytes uint64
	// Busy is the sum of the times that they took.
	Busy time.Duration
}

// Counters is a snapshot of a Stats. It marshals to JSON with durations in nanoseconds.
type Counters struct {
	Read, Write, Sync, Discard, WriteZeroes Counter
}

// Stats is a decorator that counts requests. Counting takes no lock.
type Stats struct {
	dev   Device
	clock func() time.Time

	read, write, sync, discard, zero counter
}

type counter struct{ requests, errors, bytes, busy atomic.Uint64 }

// NewStats decorates dev. Times are taken from clock; nil means time.Now.
func NewStats(dev Device, clock func() time.Time) *Stats {
	if clock == nil {
		clock = time.Now
	}
	return &Stats{dev: dev, clock: clock}
}

func (c *counter) add(n int64, err error, took time.Duration) {
	c.requests.Add(1)
	c.busy.Add(uint64(max(took, 0)))
	if err != nil {
		c.errors.Add(1)
		return
	}
	c.bytes.Add(uint64(n))
}

func (c *counter) snapshot() Counter {
	return Counter{c.requests.Load(), c.errors.Load(), c.bytes.Load(), time.Duration(c.busy.Load())}
}

// Counters is a snapshot; requests in flight are not in it.
func (s *Stats) Counters() Counters {
	return Counters{s.read.snapshot(), s.write.snapshot(), s.sync.snapshot(), s.discard.snapshot(), s.zero.snapshot()}
}

// ReadAt implements Device.
func (s *Stats) ReadAt(p []byte, off int64) (int, error) {
	start := s.clock()
	n, err := s.dev.ReadAt(p, off)
	s.read.add(int64(n), err, s.clock().Sub(start))
	return n, err
}

// WriteAt implements Device.
func (s *Stats) WriteAt(p []byte, off int64) (int, error) {
	start := s.clock()
	n, err := s.dev.WriteAt(p, off)
	s.write.add(int64(n), err, s.clock().Sub(start))
	return n, err
}

// WriteAtInPlace implements OwnedWriter, counted as a write.
func (s *Stats) WriteAtInPlace(p []byte, off int64) (int, error) {
	start := s.clock()
	n, err := WriteAtInPlace(s.dev, p, off)
	s.write.add(int64(n), err, s.clock().Sub(start))
	return n, err
}

// Sync implements Device.
func (s *Stats) Sync() error {
	start := s.clock()
	err := s.dev.Sync()
	s.sync.add(0, err, s.clock().Sub(start))
	return err
}

// Discard implements Discarder if the device does.
func (s *Stats) Discard(off, n int64) error {
	start := s.clock()
	err := Discard(s.dev, off, n)
	s.discard.add(n, err, s.clock().Sub(start))
	return err
}

// WriteZeroes implements Zeroer if the device does.
func (s *Stats) WriteZeroes(off, n int64, mayUnmap bool) error {
	start := s.clock()
	err := WriteZeroes(s.dev, off, n, mayUnmap)
	s.zero.add(n, err, s.clock().Sub(start))
	return err
}

// Extents implements Extenter.
func (s *Stats) Extents(off, n int64) ([]Extent, error) { return Extents(s.dev, off, n) }

// BlockSize implements BlockSizer.
func (s *Stats) BlockSize() int { return BlockSize(s.dev) }

// Size implements Device.
func (s *Stats) Size() int64 { return s.dev.Size() }

// Close implements Device.
func (s *Stats) Close() error { return s.dev.Close() }
