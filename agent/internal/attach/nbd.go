package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/nbd"
)

// kernelNBD is a device of the kernel's NBD client whose sockets are served by this process.
type kernelNBD struct {
	o       Options
	dev     blockdev.Device
	st      state
	order   writeOrder
	index   int
	leaving atomic.Bool // the device is being removed: a connection that ends is not replaced

	mu     sync.Mutex
	run    *service
	handed *service // run, once it has been released
	closed bool
	gone   bool // disconnected from the kernel
}

func newKernelNBD(dev blockdev.Device, o Options) (*kernelNBD, error) {
	a := &kernelNBD{o: o, dev: dev, st: newState(o, KindNBD), index: -1}
	a.st.Connections = o.Connections
	var err error
	a.run, err = newService(a)
	return a, err
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
	for try := 1; ; try++ {
		a, err := connectNBD(ctx, dev, o)
		if err == nil {
			return a, nil
		}
		err = fmt.Errorf("attach %q by kernel NBD: %w", o.Name, err)
		if !errors.Is(err, errDeaf) || try == mostDeaf {
			return nil, err
		}
		o.Logger.Warn("making the block device anew", "error", err)
	}
}

// connectNBD makes a device and tries it.
func connectNBD(ctx context.Context, dev blockdev.Device, o Options) (*kernelNBD, error) {
	a, err := newKernelNBD(dev, o)
	if err != nil {
		return nil, err
	}
	err = a.plug(ctx, func(l *nbdLink, fds []int) (int, error) {
		return l.connect(nbdDevice{size: dev.Size(), blockSize: o.SectorSize, flags: a.flags(), timeout: o.Timeout,
			deadTimeout: o.DeadConnTimeout, backend: o.VolumeUUID}, fds)
	})
	if err == nil {
		if err = a.probe(ctx); err != nil {
			err = errors.Join(err, a.disconnect())
		}
	}
	if err != nil {
		return nil, errors.Join(err, a.st.remove(o.RuntimeDir))
	}
	return a, nil
}

func reattachNBD(ctx context.Context, dev blockdev.Device, o Options) (Attachment, error) {
	a, prev, err := resumable(dev, o)
	if err != nil {
		return nil, fmt.Errorf("reattach %q: %w", o.Name, err)
	}
	err = a.plug(ctx, func(l *nbdLink, fds []int) (int, error) {
		return a.index, l.reconfigure(a.index, o.VolumeUUID, fds)
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

// resumable finds the device that the kernel holds for the volume and checks that dev fits it. prev is the state that its
// former owner left.
func resumable(dev blockdev.Device, o Options) (a *kernelNBD, prev state, err error) {
	prev, err = readState(o.RuntimeDir, o.VolumeUUID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, prev, err
	}
	if prev.Owner.alive() {
		return nil, prev, fmt.Errorf("%w by process %d, which still runs", ErrAttached, prev.Owner.PID)
	}
	if prev.Connections > 0 && prev.Connections <= maxConnections {
		o.Connections = prev.Connections
	}
	index, err := nbdOf(o.VolumeUUID)
	if err != nil {
		return nil, prev, err
	}
	if index < 0 {
		return nil, prev, fmt.Errorf("%w: no kernel NBD device names it; attach it anew", ErrNotAttached)
	}
	sectors, err := readNumber(nbdSys(index, "size"))
	if err != nil {
		return nil, prev, fmt.Errorf("read the size of %s: %w", nbdPath(index), err)
	}
	if sectors*512 != dev.Size() {
		return nil, prev, fmt.Errorf("%s has %d bytes and the volume %d: refused; unmount and detach it", nbdPath(index), sectors*512, dev.Size())
	}
	ro, err := readNumber(nbdSys(index, "ro"))
	if err != nil || (ro != 0) != o.ReadOnly {
		return nil, prev, fmt.Errorf("%s is attached with another access (read-only %d); unmount and detach it", nbdPath(index), ro)
	}
	if a, err = newKernelNBD(dev, o); err == nil {
		a.index = index
	}
	return a, prev, err
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
	for range a.run.slots {
		var s *nbdSocket
		if s, err = newNBDSocket(); err != nil {
			break
		}
		sockets = append(sockets, s)
		fds = append(fds, int(s.kernel.Load()))
	}
	index := -1
	if err == nil {
		a.run.start(sockets)
		index, err = configure(link, fds)
	}
	if err != nil {
		a.gone = true
		for _, s := range sockets {
			s.close()
		}
		close(a.run.ready)
		a.run.end()
		return err
	}
	a.index = index
	for _, s := range sockets {
		s.closeKernelEnd()
	}
	close(a.run.ready)
	if err := tuneNBD(index); err != nil {
		a.o.Logger.Warn("request size of the block device could not be raised", "path", a.Path(), "error", err)
	}
	return nil
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
	a.run.end()
	return err
}

// Close implements Attachment.
func (a *kernelNBD) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	if a.handed != nil {
		return fmt.Errorf("detach %q: %w", a.o.Name, errReleased)
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
