package attach

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"keyward/nbdcrypt/nbd"
)

const (
	// dropped is how short a connection lives that the kernel took but did not use, since none of its own was dead.
	dropped = time.Second
	// mostDropped is how many of those in a row say that the kernel has all it needs.
	mostDropped = 10
	// mostBackoff is the longest pause between two tries.
	mostBackoff = 5 * time.Second
	// linkLook is how often connections are looked at when the kernel says nothing.
	linkLook = 5 * time.Second
)

// service answers the kernel on all connections of a device. Each has a slot whose goroutine serves one socket after
// another: when the kernel has given one up (a request took longer than Options.Timeout), it gets a fresh one. A service
// that was released never starts again; the device gets a new one.
type service struct {
	a       *kernelNBD
	server  *nbd.Server
	slots   []*slot
	ctx     context.Context    // of the connections; ending it cuts them off
	stop    context.CancelFunc // ends ctx
	ready   chan struct{}      // closed once the device has its number
	serving sync.WaitGroup
	// releasing says, and released tells those who wait, that the connections go to a successor.
	releasing atomic.Bool
	released  chan struct{}
}

// slot is one of the device's connections for as long as the service lives.
type slot struct {
	// look asks for a look at whether the kernel still uses the socket. It has room for one.
	look chan struct{}
	// socket is the one that the kernel got last, nil before there was one.
	socket atomic.Pointer[nbdSocket]
	// ended is closed when the slot's goroutine has ended; then left is the socket for a successor, if there is one.
	ended chan struct{}
	left  *nbdSocket
}

// newService prepares to serve; start begins.
func newService(a *kernelNBD) (*service, error) {
	server, err := nbd.NewServer(nbd.Options{Logger: a.o.Logger})
	if err != nil {
		return nil, err
	}
	r := &service{a: a, server: server, ready: make(chan struct{}), released: make(chan struct{})}
	for range a.o.Connections {
		r.slots = append(r.slots, &slot{look: make(chan struct{}, 1), ended: make(chan struct{})})
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// start serves the sockets, one for each slot; a slot whose socket is nil gets one from itself once the device is there.
func (r *service) start(sockets []*nbdSocket) {
	for i, c := range r.slots {
		s := sockets[i]
		c.socket.Store(s)
		r.serving.Go(func() {
			defer close(c.ended)
			r.serve(c, s)
		})
	}
	r.serving.Go(r.watch)
}

// end cuts off the connections and waits until nothing of them is left, inside the Device included.
func (r *service) end() {
	r.stop()
	r.serving.Wait()
}

// serve is a slot's life.
func (r *service) serve(c *slot, s *nbdSocket) {
	unused, backoff := 0, 50*time.Millisecond
	for {
		began := time.Now()
		if s != nil {
			s = r.serveSocket(c, s)
		}
		<-r.ready
		if c.left != nil {
			return
		}
		if s != nil {
			continue // the kernel has got this one already
		}
		if time.Since(began) > dropped {
			unused, backoff = 0, 50*time.Millisecond
		} else if unused++; unused > mostDropped {
			r.a.o.Logger.Warn("kernel takes no other connection, going on with those it has", "path", r.a.Path())
			return
		}
		for s == nil {
			if !r.pause(backoff) {
				return
			}
			backoff = min(2*backoff, mostBackoff)
			s = r.replug(c)
		}
	}
}

// serveSocket answers s until it ends, and returns its successor if the kernel has got one meanwhile.
//
// That is so when the kernel gave s up while requests of it are still inside the Device (suspended, or storage that
// hangs). It then gets a socket that nobody reads until they have come back: as long as it gets one, it goes on waiting
// instead of failing requests after the dead-connection timeout, and what it sends there in vain it sends again.
func (r *service) serveSocket(c *slot, s *nbdSocket) (next *nbdSocket) {
	done := make(chan error, 1)
	go func() { done <- r.server.ServeTransmission(r.ctx, s.server, r.a.export(s)) }()
	for {
		select {
		case err := <-done:
			if next == nil && err == nil && r.releasing.Load() && !s.dead() {
				c.left = s // every request that was read from it has been answered
				return nil
			}
			s.close()
			if r.releasing.Load() {
				c.left = next // nothing was read from it
				return nil
			}
			if err != nil && r.ctx.Err() == nil {
				r.a.o.Logger.Warn("connection of the kernel ended", "error", err)
			}
			return next
		case <-c.look:
			latest := c.socket.Load()
			if !latest.dead() || !r.wanted() {
				continue
			}
			if next == nil {
				r.a.o.Logger.Warn("kernel gave up a connection whose requests still wait, plugging in others until they end", "path", r.a.Path())
			} else {
				next.close()
			}
			next = r.replug(c)
		}
	}
}

// wanted reports whether the device still wants connections from this service.
func (r *service) wanted() bool {
	return r.ctx.Err() == nil && !r.a.leaving.Load() && !r.releasing.Load() && nbdConnected(r.a.index)
}

// pause waits, and reports whether the device still wants connections.
func (r *service) pause(d time.Duration) bool {
	select {
	case <-r.ctx.Done():
	case <-r.released:
	case <-time.After(d):
	}
	return r.wanted()
}

// replug gives the kernel a fresh socket in place of a dead one. It returns nil, and logs why, when that failed.
func (r *service) replug(c *slot) *nbdSocket {
	s, err := newNBDSocket()
	if err == nil {
		var link *nbdLink
		if link, err = dialNBD(r.ctx); err == nil {
			err = link.reconfigure(r.a.index, r.a.o.VolumeUUID, []int{int(s.kernel.Load())})
			link.close()
		}
		if err != nil {
			s.close()
		}
	}
	if err != nil {
		r.a.o.Logger.Warn("plugging in a connection", "path", r.a.Path(), "error", err)
		return nil
	}
	s.closeKernelEnd()
	c.socket.Store(s)
	r.a.o.Logger.Debug("gave the kernel another connection", "path", r.a.Path())
	return s
}

// watch makes every slot look at its connection whenever the kernel says that one is dead. It ends with the service.
func (r *service) watch() {
	select {
	case <-r.ready:
	case <-r.ctx.Done():
		return
	}
	news, err := deadLinks(r.ctx, r.a.index)
	if err != nil && r.ctx.Err() == nil {
		r.a.o.Logger.Warn("dead connections are noticed later than they could be", "path", r.a.Path(), "error", err)
	}
	tick := time.NewTicker(linkLook) // messages can be lost
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.released:
			return
		case <-tick.C:
		case <-news:
		}
		for _, c := range r.slots {
			select {
			case c.look <- struct{}{}:
			default:
			}
		}
	}
}
