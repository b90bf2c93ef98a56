package nbd

import (
	"errors"
	"math/bits"
	"sync"
	"unsafe"
)

// bufferAlignment suits O_DIRECT on every medium in use and keeps a sector within one page.
const bufferAlignment = 4096

// Buffers come in powers of two from 4 KiB to 64 MiB, so that one freed by any request fits the next of its kind.
const (
	smallestClassBits = 12
	largestClassBits  = 26
	classes           = largestClassBits - smallestClassBits + 1
)

// errAborted ends the wait of a connection that is being closed.
var errAborted = errors.New("the connection was closed while it waited for memory")

// buffer is aligned memory on loan from a bufferPool.
type buffer struct {
	mem   []byte
	class int
}

// classOf is the smallest class that holds n bytes; n is at most largestBlock.
func classOf(n int) int {
	return max(bits.Len(uint(max(n, 1)-1))-smallestClassBits, 0)
}

// classSize is the number of bytes in a buffer of the class.
func classSize(class int) int64 { return 1 << (class + smallestClassBits) }

// bufferPool lends request buffers to all connections and never has more than its budget out. Buffers that come back
// stay in a sync.Pool, which the garbage collector empties when the server falls idle.
//
// A connection's share is what is free (the dynamic threshold of Choudhury and Hahne, "Dynamic Queue Length Thresholds",
// 1998, with a factor of one): it may hold at most as much as is left for the others. So a client that sends headers and
// no payloads takes half, a second one a quarter, and there is always something left for those who behave.
type bufferPool struct {
	free [classes]sync.Pool

	mu      sync.Mutex
	freed   sync.Cond
	budget  int64
	used    int64
	waits   uint64
	waiting int
}

// account is what one connection holds of a bufferPool. It is guarded by the pool's lock.
type account struct {
	held    int64
	aborted bool
}

func newBufferPool(budget int64) *bufferPool {
	p := &bufferPool{budget: budget}
	p.freed.L = &p.mu
	return p
}

// fits says whether a may take size bytes now. A connection that holds nothing may take what there is, or a large
// request could wait for ever. The lock is held.
func (p *bufferPool) fits(a *account, size int64) bool {
	left := p.budget - p.used
	return size <= left && (a.held == 0 || a.held+size <= left)
}

// get lends a a buffer of at least n bytes, 0 < n <= largestBlock, and waits until there is room for it. Before it waits
// it calls beforeWait, which must give back what the caller could give back.
func (p *bufferPool) get(a *account, n int, beforeWait func()) (*buffer, error) {
	class := classOf(n)
	size := classSize(class)
	p.mu.Lock()
	if !p.fits(a, size) && !a.aborted {
		p.waits++
		p.mu.Unlock()
		beforeWait()
		p.mu.Lock()
		p.waiting++
		for !p.fits(a, size) && !a.aborted {
			p.freed.Wait()
		}
		p.waiting--
	}
	if a.aborted {
		p.mu.Unlock()
		return nil, errAborted
	}
	p.used += size
	a.held += size
	p.mu.Unlock()
	if b, ok := p.free[class].Get().(*buffer); ok {
		return b, nil
	}
	return &buffer{mem: alignedBytes(int(size)), class: class}, nil
}

// put takes back a buffer that get lent to a.
func (p *bufferPool) put(a *account, b *buffer) {
	size := classSize(b.class)
	p.free[b.class].Put(b)
	p.mu.Lock()
	p.used -= size
	a.held -= size
	if p.waiting > 0 {
		p.freed.Broadcast()
	}
	p.mu.Unlock()
}

// abort ends every wait of a, now and later.
func (p *bufferPool) abort(a *account) {
	p.mu.Lock()
	a.aborted = true
	p.freed.Broadcast()
	p.mu.Unlock()
}

// inUse is the number of bytes on loan, and how often a connection had to wait for some.
func (p *bufferPool) inUse() (used int64, waits uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used, p.waits
}

// alignedBytes allocates n bytes at a multiple of bufferAlignment. The runtime already aligns sizes like these; the
// second try is for the day it does not.
func alignedBytes(n int) []byte {
	b := make([]byte, n)
	if misalignment(b) == 0 {
		return b
	}
	b = make([]byte, n+bufferAlignment)
	skip := (bufferAlignment - misalignment(b)) % bufferAlignment
	return b[skip : skip+n : skip+n]
}

func misalignment(b []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % bufferAlignment)
}

// zeroes is what WRITE_ZEROES writes to a device that has no cheaper way. Nobody writes to it.
var zeroes = sync.OnceValue(func() []byte { return alignedBytes(256 << 10) })
