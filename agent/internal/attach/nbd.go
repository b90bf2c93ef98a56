package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/nbd"
)

// kernelNBD is a device of the kernel's NBD client whose sockets are served by this process. Each connection has a
// goroutine that serves it and, when the kernel has given it up (a request took longer than Options.Timeout), plugs in a
// fresh one.
type kernelNBD struct {
	o      Options
	dev    blockdev.Device
	st     state
	server *nbd.Server
	order  writeOrder
	index  int

	ctx     context.Context    // of the goroutines; requests being answered end first
	stop    context.CancelFunc // ends ctx
	leaving atomic.Bool        // the device is being removed: a connection that ends is not replaced
	serving sync.WaitGroup

	mu     sync.Mutex
	closed bool
	gone   bool // disconnected from the kernel
}

func newKernelNBD(dev blockdev.Device, o Options) (*kernelNBD, error) {
	server, err := nbd.NewServer(nbd.Options{Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	a := &kernelNBD{o: o, dev: dev, st: newState(o, KindNBD), server: server, index: -1}
	a.st.Connections = o.Connections
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a, nil
}

// export is the volume for one connection.
func (a *kernelNBD) export(s *nbdSocket) *nbd.Export {
	return &nbd.Export{
		Name: a.o.Name, ReadOnly: a.o.ReadOnly, AllowTrim: a.o.Discard && !a.o.ReadOnly, MultiConn: true,
		Device: &connDevice{Device: a.dev, order: &a.order, dead: s.dead},
	}
}

// flags for the kernel. CACHE and FAST_ZERO are for other clients; the kernel ignores them. Discard is offered only if the
// Device has it: connDevice always seems to.
func (a *kernelNBD) flags() uint16 {
	e := nbd.Export{Device: a.dev, ReadOnly: a.o.ReadOnly, AllowTrim: a.o.Discard && !a.o.ReadOnly, MultiConn: true}
	return e.TransmissionFlags()
}

func attachNBD(ctx context.Context, dev blockdev.Device, o Options) (Attachment, error) {
	if err := refuseAttached(o); err != nil {
		return nil, err
	}
	if n, err := nbdOf(o.VolumeUUID); err != nil {
		return nil, err
	} else if n >= 0 {
		return nil, fmt.Errorf("attach %q: %w as %s; reattach it", o.Name, ErrAttached, nbdPath(n))
	}
	a, err := newKernelNBD(dev, o)
	if err != nil {
		return nil, fmt.Errorf("attach %q by kernel NBD: %w", o.Name, err)
	}
	err = a.plug(ctx, func(l *nbdLink, fds []int) (int, error) {
		return l.connect(nbdDevice{size: dev.Size(), blockSize: o.SectorSize, flags: a.flags(), timeout: o.Timeout,
			deadTimeout: o.DeadConnTimeout, backend: o.VolumeUUID}, fds)
	})
	if err == nil {
		var fd int
		if fd, err = openNode(ctx, a.Path(), unix.O_RDONLY); err == nil { // the node may be a moment behind
			unix.Close(fd)
		} else {
			err = errors.Join(err, a.disconnect())
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach %q by kernel NBD: %w", o.Name, err), a.st.remove(o.RuntimeDir))
	}
	return a, nil
}

func reattachNBD(ctx context.Context, dev blockdev.Device, o Options) (Attachment, error) {
	prev, err := readState(o.RuntimeDir, o.VolumeUUID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reattach %q: %w", o.Name, err)
	}
	if prev.Owner.alive() {
		return nil, fmt.Errorf("reattach %q: %w by process %d, which still runs", o.Name, ErrAttached, prev.Owner.PID)
	}
	if prev.Connections > 0 && prev.Connections <= maxConnections {
		o.Connections = prev.Connections
	}
	index, err := nbdOf(o.VolumeUUID)
	if err != nil {
		return nil, fmt.Errorf("reattach %q: %w", o.Name, err)
	}
	if index < 0 {
		return nil, fmt.Errorf("reattach %q: %w: no kernel NBD device names it; attach it anew", o.Name, ErrNotAttached)
	}
	sectors, err := readNumber(nbdSys(index, "size"))
	if err != nil {
		return nil, fmt.Errorf("reattach %q: read the size of %s: %w", o.Name, nbdPath(index), err)
	}
	if sectors*512 != dev.Size() {
		return nil, fmt.Errorf("reattach %q: %s has %d bytes and the volume %d: refused; unmount and detach it",
			o.Name, nbdPath(index), sectors*512, dev.Size())
	}
	ro, err := readNumber(nbdSys(index, "ro"))
	if err != nil || (ro != 0) != o.ReadOnly {
		return nil, fmt.Errorf("reattach %q: %s is attached with another access (read-only %d); unmount and detach it",
			o.Name, nbdPath(index), ro)
	}
	a, err := newKernelNBD(dev, o)
	if err != nil {
		return nil, fmt.Errorf("reattach %q: %w", o.Name, err)
	}
	err = a.plug(ctx, func(l *nbdLink, fds []int) (int, error) {
		return index, l.reconfigure(index, o.VolumeUUID, fds)
	})
	if err != nil {
		// The device still waits: leave the state as it was found, so that the next try is not refused because of this one.
		if prev.VolumeUUID != "" {
			err = errors.Join(err, prev.save(o.RuntimeDir))
		} else {
			err = errors.Join(err, a.st.remove(o.RuntimeDir))
		}
		return nil, fmt.Errorf("reattach %q: %w", o.Name, err)
	}
	return a, nil
}

// plug makes the socketpairs, serves them, hands the other ends to the kernel by configure, and tunes the device. The
// servers run first because the kernel may read at once.
func (a *kernelNBD) plug(ctx context.Context, configure func(*nbdLink, []int) (int, error)) error {
	link, err := dialNBD(ctx)
	if err != nil {
		return err
	}
	defer link.close()
	if err := a.st.save(a.o.RuntimeDir); err != nil {
		return err
	}
	var sockets []*nbdSocket
	var fds []int
	ready := make(chan struct{}) // closed once index is known
	fail := func(err error) error {
		a.gone = true
		a.stop()
		for _, s := range sockets {
			s.close()
		}
		close(ready)
		a.serving.Wait()
		return err
	}
	for range a.o.Connections {
		s, err := newNBDSocket()
		if err != nil {
			return fail(err)
		}
		sockets = append(sockets, s)
		fds = append(fds, int(s.kernel.Load()))
		a.serving.Go(func() { a.serve(s, ready) })
	}
	index, err := configure(link, fds)
	if err != nil {
		return fail(err)
	}
	a.index = index
	for _, s := range sockets {
		s.closeKernelEnd()
	}
	close(ready)
	if err := tuneNBD(index); err != nil {
		a.o.Logger.Warn("request size of the block device could not be raised", "path", a.Path(), "error", err)
	}
	return nil
}

const (
	// dropped is how short a connection lives that the kernel took but did not use, since none of its own was dead.
	dropped = time.Second
	// mostDropped is how many of those in a row say that the kernel has all it needs.
	mostDropped = 10
	// mostBackoff is the longest pause between two tries.
	mostBackoff = 5 * time.Second
)

// serve answers one connection for as long as the device lives, on one socket after another.
func (a *kernelNBD) serve(s *nbdSocket, ready <-chan struct{}) {
	unused, backoff := 0, 50*time.Millisecond
	for {
		began := time.Now()
		err := a.server.ServeTransmission(a.ctx, s.server, a.export(s))
		s.close()
		<-ready
		if time.Since(began) > dropped {
			unused, backoff = 0, 50*time.Millisecond
		} else if unused++; unused > mostDropped {
			a.o.Logger.Warn("kernel takes no other connection, going on with those it has", "path", a.Path())
			return
		}
		// The kernel gave this connection up. Every request of the old one has been answered or refused by now.
		for s = nil; s == nil; {
			if !a.pause(backoff) {
				return
			}
			backoff = min(2*backoff, mostBackoff)
			a.o.Logger.Warn("kernel closed a connection, plugging in another", "path", a.Path(), "error", err)
			s, err = a.replug()
		}
	}
}

// pause waits, and reports whether the device still wants connections.
func (a *kernelNBD) pause(d time.Duration) bool {
	select {
	case <-a.ctx.Done():
		return false
	case <-time.After(d):
	}
	return !a.leaving.Load() && nbdConnected(a.index)
}

// replug gives the kernel one fresh socket in place of a dead one.
func (a *kernelNBD) replug() (*nbdSocket, error) {
	s, err := newNBDSocket()
	if err != nil {
		return nil, err
	}
	link, err := dialNBD(a.ctx)
	if err == nil {
		err = link.reconfigure(a.index, a.o.VolumeUUID, []int{int(s.kernel.Load())})
		link.close()
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.closeKernelEnd()
	return s, nil
}

func (a *kernelNBD) Path() string { return nbdPath(a.index) }
func (a *kernelNBD) Kind() string { return KindNBD }

// disconnect removes the device from the kernel and ends the servers. It may be called again.
func (a *kernelNBD) disconnect() error {
	a.leaving.Store(true)
	if !a.gone {
		link, err := dialNBD(context.Background())
		if err != nil {
			return err
		}
		defer link.close()
		if err := link.disconnect(a.index); err != nil && nbdConnected(a.index) {
			return err
		}
		a.gone = true
	}
	err := waitNBDGone(a.index, releaseWait)
	a.stop()
	a.serving.Wait()
	return err
}

// Close implements Attachment.
func (a *kernelNBD) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	var lost error
	if !a.gone {
		if lost = flushExclusive(a.Path()); errors.Is(lost, ErrBusy) {
			return fmt.Errorf("detach %q: %w", a.o.Name, lost)
		}
	}
	if err := a.disconnect(); err != nil {
		return fmt.Errorf("detach %q: %w", a.o.Name, errors.Join(lost, err))
	}
	if err := a.st.remove(a.o.RuntimeDir); err != nil {
		return fmt.Errorf("detach %q: %w", a.o.Name, err)
	}
	a.closed = true
	if !a.o.ReadOnly {
		lost = errors.Join(lost, a.dev.Sync())
	}
	if lost != nil {
		return fmt.Errorf("detach %q: writes were lost: %w; check the file system before its next use", a.o.Name, lost)
	}
	return nil
}

// Abort implements Aborter by disconnecting the device whatever lies on it.
func (a *kernelNBD) Abort() error {
	a.leaving.Store(true)
	link, err := dialNBD(context.Background())
	if err == nil {
		defer link.close()
		if err = link.disconnect(a.index); !nbdConnected(a.index) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("abort %q: %w", a.o.Name, err)
	}
	return nil
}
