package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"keyward/nbdcrypt/blockdev"
)

// Releaser is implemented by attachments that can pass from one process, or one life of a process, to the next while the
// kernel notices nothing: kernel NBD. FUSE and loop cannot, because the kernel speaks with the FUSE server about what it
// has told it before.
type Releaser interface {
	// Release answers every request that has been read, stops reading, and returns the ends of the connections that a
	// successor adopts; what the kernel sends meanwhile waits in them. The files stay valid until Resume. When the Device
	// does not answer until ctx ends, Release fails, and the attachment goes on as before.
	//
	// The caller lets nothing else use the Device afterwards, and closes it before the successor opens its own.
	Release(ctx context.Context) ([]*os.File, error)
	// Resume undoes Release where there is no successor after all.
	Resume() error
}

var _ Releaser = (*kernelNBD)(nil)

// errReleased is returned for what an attachment cannot do once its connections are a successor's.
var errReleased = errors.New("its connections have been released to a successor")

// Release implements Releaser.
func (a *kernelNBD) Release(ctx context.Context) ([]*os.File, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.gone || a.handed != nil {
		return nil, fmt.Errorf("release %q: it is not served by this process", a.o.Name)
	}
	r := a.run
	r.releasing.Store(true)
	close(r.released)
	if err := r.server.Shutdown(ctx); err != nil {
		err = fmt.Errorf("release %q: %w; its storage does not answer, try again when it does", a.o.Name, err)
		return nil, errors.Join(err, a.again(r))
	}
	r.serving.Wait()
	var files []*os.File
	for _, c := range r.slots {
		if c.left != nil {
			files = append(files, c.left.raw)
		}
	}
	nobodys := a.st
	nobodys.Owner = owner{} // whoever comes next may adopt or, if that fails, reattach
	if err := nobodys.save(a.o.RuntimeDir); err != nil {
		return nil, errors.Join(fmt.Errorf("release %q: %w", a.o.Name, err), a.again(r))
	}
	a.handed = r
	return files, nil
}

// Resume implements Releaser.
func (a *kernelNBD) Resume() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.handed == nil {
		return fmt.Errorf("resume %q: it was not released", a.o.Name)
	}
	r := a.handed
	a.handed = nil
	return a.again(r)
}

// again serves the device by a new service, on the sockets that the released one has left.
func (a *kernelNBD) again(r *service) error {
	next, err := newService(a)
	if err != nil {
		return fmt.Errorf("serve %q again: %w", a.o.Name, err)
	}
	sockets := make([]*nbdSocket, len(next.slots))
	for i, c := range r.slots {
		select {
		case <-c.ended:
		default:
			// Its requests are still inside the Device: the kernel sends them again on another connection.
			if s := c.socket.Load(); s != nil {
				s.close()
			}
			continue
		}
		if c.left == nil {
			continue
		}
		if sockets[i], err = adoptSocket(c.left.raw); err != nil {
			a.o.Logger.Warn("a connection is replaced by a new one", "path", a.Path(), "error", err)
			c.left.close()
		}
	}
	a.run = next
	close(next.ready)
	next.start(sockets)
	return a.st.save(a.o.RuntimeDir)
}

// adoptSocket makes a socket of the end of one that another service has drained. It takes f over, also on error.
func adoptSocket(f *os.File) (*nbdSocket, error) {
	server, err := net.FileConn(f) // duplicates the descriptor
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("take over a connection of the kernel: %w", err)
	}
	s := &nbdSocket{server: server, raw: f}
	s.kernel.Store(-1)
	return s, nil
}

// Adopt goes on where a predecessor's Release ended: dev is the same volume, opened again, and conns are the files that
// Release returned, however they came here. Requests that the kernel has sent meanwhile are answered first. Connections
// that did not come along are replaced. It takes conns over, also on error; the block device then waits for a Reattach.
func Adopt(ctx context.Context, dev blockdev.Device, o Options, conns []*os.File) (Attachment, error) {
	o, err := o.normalise(dev)
	if err != nil {
		closeAll(conns)
		return nil, err
	}
	a, _, err := resumable(dev, o)
	if err != nil {
		closeAll(conns)
		return nil, fmt.Errorf("adopt %q: %w", o.Name, err)
	}
	if len(conns) > len(a.run.slots) {
		closeAll(conns)
		return nil, fmt.Errorf("adopt %q: %d connections were handed over, the device has %d", o.Name, len(conns), len(a.run.slots))
	}
	sockets := make([]*nbdSocket, len(a.run.slots))
	for i, f := range conns {
		if sockets[i], err = adoptSocket(f); err != nil {
			o.Logger.Warn("a connection is replaced by a new one", "path", a.Path(), "error", err)
		}
	}
	if err := a.st.save(o.RuntimeDir); err != nil {
		for _, s := range sockets {
			if s != nil {
				s.close()
			}
		}
		return nil, fmt.Errorf("adopt %q: %w", o.Name, err)
	}
	close(a.run.ready)
	a.run.start(sockets)
	return a, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
