package blockdev

import "time"

// Delays are the times that requests of each kind take longer. Zero adds nothing.
type Delays struct {
	Read, Write, Sync time.Duration
}

// Delay is a decorator that makes a device slow. It sleeps on the caller's goroutine by time.Sleep, so that
// testing/synctest drives it.
type Delay struct {
	dev Device
	by  Delays
}

// NewDelay decorates dev.
func NewDelay(dev Device, by Delays) *Delay { return &Delay{dev: dev, by: by} }

// ReadAt implements Device.
func (d *Delay) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(d.by.Read)
	return d.dev.ReadAt(p, off)
}

// WriteAt implements Device.
func (d *Delay) WriteAt(p []byte, off int64) (int, error) {
	time.Sleep(d.by.Write)
	return d.dev.WriteAt(p, off)
}

// WriteAtInPlace implements OwnedWriter, as slow as a write.
func (d *Delay) WriteAtInPlace(p []byte, off int64) (int, error) {
	time.Sleep(d.by.Write)
	return WriteAtInPlace(d.dev, p, off)
}

// Sync implements Device.
func (d *Delay) Sync() error {
	time.Sleep(d.by.Sync)
	return d.dev.Sync()
}

// Discard implements Discarder if the device does, as slow as a write.
func (d *Delay) Discard(off, n int64) error {
	time.Sleep(d.by.Write)
	return Discard(d.dev, off, n)
}

// WriteZeroes implements Zeroer if the device does, as slow as a write.
func (d *Delay) WriteZeroes(off, n int64, mayUnmap bool) error {
	time.Sleep(d.by.Write)
	return WriteZeroes(d.dev, off, n, mayUnmap)
}

// Extents implements Extenter.
func (d *Delay) Extents(off, n int64) ([]Extent, error) { return Extents(d.dev, off, n) }

// BlockSize implements BlockSizer.
func (d *Delay) BlockSize() int { return BlockSize(d.dev) }

// Size implements Device.
func (d *Delay) Size() int64 { return d.dev.Size() }

// Close implements Device.
func (d *Delay) Close() error { return d.dev.Close() }
