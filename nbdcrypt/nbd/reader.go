package nbd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// readBufferSize holds a burst of small requests, so that they cost one system call together.
	readBufferSize = 64 << 10
	// largePayload is where copying through the read buffer costs more than the system call it saves.
	largePayload = 32 << 10
	// slowestRate is what a client must manage once it has begun a payload or been sent a reply, in bytes per second,
	// on top of Options.StallTimeout.
	slowestRate = 64 << 10
	// drainGrace is how long a half-sent request is waited for when the server drains.
	drainGrace = 2 * time.Second
)

// errDrained ends the reading of requests when the server drains.
var errDrained = errors.New("the server is shutting down")

// wireReader reads requests from a connection and their payloads. All but drain is for one goroutine.
type wireReader struct {
	conn transport
	buf  []byte
	r, w int
	// exact makes header read no more than a header: the last payload was large, and what follows this header is
	// probably another, better read straight to where it belongs.
	exact bool
	// inPayload says that a part of a request has been taken and the rest is on its way.
	inPayload bool
	// graced says that a half-sent request has had its extra time.
	graced bool
	// beforeBlock is called before a read that may block.
	beforeBlock func()
	// stall is how long a payload may take on top of its length by slowestRate; 0 is for ever.
	stall time.Duration

	draining atomic.Bool
	// mu orders draining and the deadline that goes with it.
	mu sync.Mutex
}

// buffered is the number of bytes read from the connection and not yet taken.
func (d *wireReader) buffered() int { return d.w - d.r }

// more says whether another request has begun to arrive. A connection that cannot tell is taken to have one.
func (d *wireReader) more() bool {
	if d.buffered() > 0 {
		return true
	}
	c, ok := d.conn.(interface{ readable() bool })
	return !ok || c.readable()
}

// header returns the next n bytes, which stay valid until the next call; n is at most readBufferSize. It returns io.EOF
// when the connection ends before the first of them and errDrained when the server drains; both wrapped when some of them
// were there.
func (d *wireReader) header(n int) ([]byte, error) {
	for d.buffered() < n {
		if d.r == d.w {
			if d.draining.Load() {
				return nil, errDrained
			}
			d.r, d.w = 0, 0
		} else if d.r+n > len(d.buf) {
			d.w = copy(d.buf, d.buf[d.r:d.w])
			d.r = 0
		}
		limit := len(d.buf)
		if d.exact {
			limit = d.r + n
		}
		d.beforeBlock()
		m, err := d.conn.Read(d.buf[d.w:limit])
		d.w += m
		if err == nil || d.buffered() >= n {
			continue
		}
		if err = d.retry(err); err == nil {
			continue
		}
		if got := d.buffered(); got > 0 && (err == io.EOF || err == errDrained) {
			return nil, cutShort(err, int64(got), int64(n))
		}
		return nil, err
	}
	b := d.buf[d.r : d.r+n]
	d.r += n
	return b, nil
}

// payload fills p with what follows a header. A short one is read through the buffer, with the requests behind it.
func (d *wireReader) payload(p []byte) error {
	n := copy(p, d.buf[d.r:d.w])
	d.r += n
	d.exact = len(p) >= largePayload
	if n == len(p) {
		return nil
	}
	d.begin(int64(len(p)))
	defer d.end()
	for n < len(p) {
		var err error
		if d.exact {
			var m int
			m, err = d.conn.Read(p[n:])
			n += m
		} else {
			d.w, err = d.conn.Read(d.buf)
			d.r = copy(p[n:], d.buf[:d.w])
			n += d.r
		}
		if err != nil && n < len(p) {
			if err = d.retry(err); err != nil {
				return cutShort(err, int64(n), int64(len(p)))
			}
		}
	}
	return nil
}

// discard reads n bytes of payload that nobody wants, in the memory the reader has.
func (d *wireReader) discard(n int64) error {
	skip := min(n, int64(d.buffered()))
	d.r += int(skip)
	left := n - skip
	if left == 0 {
		return nil
	}
	d.begin(n)
	defer d.end()
	for left > 0 {
		m, err := d.conn.Read(d.buf[:min(left, int64(len(d.buf)))])
		left -= int64(m)
		if err != nil && left > 0 {
			if err = d.retry(err); err != nil {
				return cutShort(err, n-left, n)
			}
		}
	}
	return nil
}

func cutShort(err error, got, want int64) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d of %d bytes arrived: %w", got, want, err)
}

// begin is called with an empty buffer before the rest of a payload of n bytes is read: the client must now send it
// within a time.
func (d *wireReader) begin(n int64) {
	d.beforeBlock()
	d.r, d.w = 0, 0
	d.inPayload = true
	switch {
	case d.draining.Load():
		if !d.graced {
			d.graced = true
			d.setDeadline(0, drainGrace)
		}
	case d.stall > 0:
		d.setDeadline(d.stall+time.Duration(n)*(time.Second/slowestRate), 0)
	}
}

// end takes the time limit of begin away.
func (d *wireReader) end() {
	d.inPayload = false
	if d.stall > 0 || d.draining.Load() {
		d.setDeadline(0, 0)
	}
}

// setDeadline lets reads fail after the given time, or after the second one when the server drains; 0 is never, or at
// once when the server drains.
func (d *wireReader) setDeadline(after, draining time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var t time.Time
	switch {
	case d.draining.Load():
		t = time.Now().Add(draining)
	case after > 0 && d.stall > 0:
		t = time.Now().Add(after)
	}
	_ = d.conn.SetReadDeadline(t)
}

// drain makes the reader stop at the end of the request it is reading; requests in its buffer are still delivered. Any
// goroutine may call it at any time.
func (d *wireReader) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining.Store(true)
	_ = d.conn.SetReadDeadline(time.Now())
}

// retry says what becomes of a failed read: a request that was half sent when the server began to drain gets a grace,
// everything else is over.
func (d *wireReader) retry(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) || !d.draining.Load() {
		return err
	}
	if d.graced || !d.inPayload && d.buffered() == 0 {
		return errDrained
	}
	d.graced = true
	d.setDeadline(0, drainGrace)
	return nil
}
