package attach

import (
	"errors"
	"sync"

	"keyward/nbdcrypt/blockdev"
)

// errConnectionDead answers a write whose connection the kernel has given up. Nobody reads the answer.
var errConnectionDead = errors.New("the kernel has closed the connection of this request")

// writeOrder lets writes that overlap run one after the other, in the order of their arrival.
//
// It exists for a hazard of NBD reconnects: when a request is not answered in time (a suspended volume, slow storage) the
// kernel closes the connection and sends the request again elsewhere. The first copy may still be waiting in this process.
// Were it to run after the second copy was acknowledged, it could overwrite newer data of the same range. So a write
// enters writeOrder, waits for its turn, and is then refused if its connection is dead; a second copy comes after.
type writeOrder struct {
	mu       sync.Mutex
	inFlight []*span
}

type span struct {
	off, end int64
	done     chan struct{}
}

// enter blocks until no earlier write overlaps [off, off+n) and returns what leave needs.
func (w *writeOrder) enter(off, n int64) *span {
	s := &span{off: off, end: off + n}
	var wait []chan struct{}
	w.mu.Lock()
	for _, o := range w.inFlight {
		if o.off < s.end && s.off < o.end {
			if o.done == nil {
				o.done = make(chan struct{})
			}
			wait = append(wait, o.done)
		}
	}
	w.inFlight = append(w.inFlight, s)
	w.mu.Unlock()
	for _, c := range wait {
		<-c
	}
	return s
}

func (w *writeOrder) leave(s *span) {
	w.mu.Lock()
	for i, o := range w.inFlight {
		if o == s {
			last := len(w.inFlight) - 1
			w.inFlight[i], w.inFlight[last] = w.inFlight[last], nil
			w.inFlight = w.inFlight[:last]
			break
		}
	}
	done := s.done
	w.mu.Unlock()
	if done != nil {
		close(done)
	}
}

// connDevice is the Device as one connection sees it: its writes are ordered against those of all connections, and end
// with the connection.
type connDevice struct {
	blockdev.Device
	order *writeOrder
	dead  func() bool
}

func (d *connDevice) ordered(off, n int64, write func() error) error {
	s := d.order.enter(off, n)
	defer d.order.leave(s)
	if d.dead() {
		return errConnectionDead
	}
	return write()
}

func (d *connDevice) WriteAt(p []byte, off int64) (n int, err error) {
	err = d.ordered(off, int64(len(p)), func() error { n, err = d.Device.WriteAt(p, off); return err })
	return n, err
}

// WriteAtInPlace writes p, which may be destroyed.
func (d *connDevice) WriteAtInPlace(p []byte, off int64) (n int, err error) {
	err = d.ordered(off, int64(len(p)), func() error { n, err = blockdev.WriteAtInPlace(d.Device, p, off); return err })
	return n, err
}

// WriteZeroes returns errors.ErrUnsupported where the Device has no cheap way; the server then writes zeroes.
func (d *connDevice) WriteZeroes(off, n int64, mayUnmap bool) error {
	z, ok := d.Device.(blockdev.Zeroer)
	if !ok {
		return errors.ErrUnsupported
	}
	return d.ordered(off, n, func() error { return z.WriteZeroes(off, n, mayUnmap) })
}

// Discard does nothing on a Device without discards, which is what a discard may do.
func (d *connDevice) Discard(off, n int64) error {
	c, ok := d.Device.(blockdev.Discarder)
	if !ok {
		return nil
	}
	return d.ordered(off, n, func() error { return c.Discard(off, n) })
}

// BlockSize is the Device's, or 512 where it has none.
func (d *connDevice) BlockSize() int {
	if b, ok := d.Device.(blockdev.BlockSizer); ok {
		return b.BlockSize()
	}
	return 512
}
