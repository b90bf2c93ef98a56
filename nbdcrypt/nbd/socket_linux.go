package nbd

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sendBuffer is the send buffer asked for on a Unix socket, bytes, which the kernel doubles. It wakes a sender when three
	// quarters of that are gone: what is left must last the client until the next piece comes. TCP finds its own size.
	sendBuffer = 2 << 20
	// mostPieces is how many pieces one sendmsg takes (UIO_MAXIOV of linux/uio.h).
	mostPieces = 1024
)

// socket is a stream socket whose waits are poll(2) on the goroutine's own thread. The runtime's poller would cost each
// wait a trip through the scheduler, which wakes threads on other processors to look for work that is not there; on a
// small machine those are the client's.
//
// One goroutine reads and one writes at a time; Close and the deadlines are for any goroutine. Methods that net.Conn has
// mean what they mean there.
type socket struct {
	// began is what deadlines are measured from.
	began   time.Time
	in, out direction
	single  [1][]byte

	mu     sync.Mutex
	users  int
	closed bool
}

// direction is one of the two halves of a socket.
type direction struct {
	// poll is the socket, then an eventfd that interrupts the wait.
	poll [2]unix.PollFd
	// deadline is in nanoseconds after began, 0 is none. Whoever changes it wakes the waiting goroutine.
	deadline atomic.Int64
	waiting  atomic.Bool
	// iovecs and header are what sendmsg is given.
	iovecs []unix.Iovec
	header unix.Msghdr
}

// takeOver returns conn's socket as a transport and closes conn itself, or returns conn where that cannot be done.
func takeOver(conn net.Conn) transport {
	switch conn.(type) {
	case *net.UnixConn, *net.TCPConn:
	default:
		return conn
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return conn
	}
	fd := -1
	err = raw.Control(func(own uintptr) {
		fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil || fd < 0 {
		return conn
	}
	s, err := newSocket(fd)
	if err != nil {
		_ = unix.Close(fd)
		return conn
	}
	if _, ok := conn.(*net.UnixConn); ok {
		growSendBuffer(fd)
	}
	_ = conn.SetDeadline(time.Time{})
	_ = conn.Close()
	return s
}

func newSocket(fd int) (*socket, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	var wake [2]int
	for i := range wake {
		var err error
		if wake[i], err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			if i > 0 {
				_ = unix.Close(wake[0])
			}
			return nil, err
		}
	}
	s := &socket{began: time.Now(), users: 1}
	s.in.poll = [2]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
	s.out.poll = [2]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}, {Fd: int32(wake[1]), Events: unix.POLLIN}}
	return s, nil
}

// growSendBuffer asks for more than net.core.wmem_max first, which root may.
func growSendBuffer(fd int) {
	if now, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || now >= 2*sendBuffer {
		return
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	}
}

func (s *socket) fd() int { return int(s.in.poll[0].Fd) }

// use keeps the descriptors open until leave, so that a number never belongs to another file in between.
func (s *socket) use() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.users++
	return nil
}

func (s *socket) leave() {
	s.mu.Lock()
	s.users--
	last := s.users == 0
	s.mu.Unlock()
	if last {
		_ = unix.Close(s.fd())
		_ = unix.Close(int(s.in.poll[1].Fd))
		_ = unix.Close(int(s.out.poll[1].Fd))
	}
}

// Close ends reads and writes under way.
func (s *socket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	s.mu.Unlock()
	s.in.interrupt()
	s.out.interrupt()
	s.leave()
	return nil
}

// CloseWrite tells the client that nothing more will come.
func (s *socket) CloseWrite() error {
	if err := s.use(); err != nil {
		return err
	}
	defer s.leave()
	return os.NewSyscallError("shutdown", unix.Shutdown(s.fd(), unix.SHUT_WR))
}

func (s *socket) SetReadDeadline(t time.Time) error  { return s.limit(&s.in, t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.limit(&s.out, t) }

func (s *socket) limit(d *direction, t time.Time) error {
	var after int64
	if !t.IsZero() {
		after = max(int64(t.Sub(s.began)), 1)
	}
	if d.deadline.Swap(after) == after || !d.waiting.Load() {
		return nil
	}
	if err := s.use(); err != nil {
		return err
	}
	defer s.leave()
	d.interrupt()
	return nil
}

// interrupt makes a wait look again at deadline and closed. The descriptors must be in use.
func (d *direction) interrupt() {
	one := [8]byte{0: 1}
	_, _ = unix.Write(int(d.poll[1].Fd), one[:])
}

// left is how long d may still wait: -1 for ever, 0 not at all.
func (s *socket) left(d *direction) time.Duration {
	deadline := d.deadline.Load()
	if deadline == 0 {
		return -1
	}
	return max(time.Duration(deadline)-time.Since(s.began), 0)
}

// wait returns nil when the socket is ready.
func (s *socket) wait(d *direction) error {
	d.waiting.Store(true)
	defer d.waiting.Store(false)
	for {
		left := s.left(d)
		if left == 0 {
			return os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return net.ErrClosed
		}
		ms := -1
		if left > 0 {
			ms = int(min((left+time.Millisecond-1)/time.Millisecond, 1<<30))
		}
		if _, err := unix.Poll(d.poll[:], ms); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		switch {
		case d.poll[1].Revents != 0:
			var count [8]byte
			_, _ = unix.Read(int(d.poll[1].Fd), count[:])
		case d.poll[0].Revents != 0:
			return nil
		}
	}
}

// ready is called before every attempt: as with net.Conn, a deadline that has passed fails also what would not wait.
func (s *socket) ready(d *direction) error {
	if s.left(d) == 0 {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// again returns nil when a system call that ended in err is to be tried again, after waiting for the socket if need be.
func (s *socket) again(d *direction, call string, err unix.Errno) error {
	switch err {
	case unix.EINTR:
		return nil
	case unix.EAGAIN:
		return s.wait(d)
	}
	return os.NewSyscallError(call, err)
}

// Read implements transport.
func (s *socket) Read(p []byte) (int, error) {
	if err := s.use(); err != nil {
		return 0, err
	}
	defer s.leave()
	for {
		if err := s.ready(&s.in); err != nil {
			return 0, err
		}
		n, errno := nonBlocking(unix.SYS_READ, s.fd(), unsafe.Pointer(unsafe.SliceData(p)), len(p))
		if errno == 0 {
			if n == 0 && len(p) > 0 {
				return 0, io.EOF
			}
			return n, nil
		}
		if err := s.again(&s.in, "read", errno); err != nil {
			return 0, err
		}
	}
}

// readable says whether Read would return at once.
func (s *socket) readable() bool {
	if s.use() != nil {
		return true
	}
	defer s.leave()
	// TIOCINQ is FIONREAD, which the unix package does not have.
	n, err := unix.IoctlGetInt(s.fd(), unix.TIOCINQ)
	return err != nil || n > 0
}

// Write implements transport.
func (s *socket) Write(p []byte) (int, error) {
	s.single[0] = p
	defer func() { s.single[0] = nil }()
	if err := s.writeAll(s.single[:]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeAll implements vectorWriter.
func (s *socket) writeAll(pieces [][]byte) error {
	if err := s.use(); err != nil {
		return err
	}
	defer s.leave()
	for len(pieces) > 0 {
		if err := s.ready(&s.out); err != nil {
			return err
		}
		n, errno := s.send(pieces[:min(len(pieces), mostPieces)])
		if errno != 0 {
			if err := s.again(&s.out, "sendmsg", errno); err != nil {
				return err
			}
			continue
		}
		for len(pieces) > 0 && n >= len(pieces[0]) {
			n -= len(pieces[0])
			pieces = pieces[1:]
		}
		if n > 0 {
			pieces[0] = pieces[0][n:]
		}
	}
	return nil
}

// send is one sendmsg, without the allocations of the unix package's.
func (s *socket) send(pieces [][]byte) (int, unix.Errno) {
	d := &s.out
	d.iovecs = d.iovecs[:0]
	for _, p := range pieces {
		if len(p) == 0 {
			continue
		}
		v := unix.Iovec{Base: &p[0]}
		v.SetLen(len(p))
		d.iovecs = append(d.iovecs, v)
	}
	if len(d.iovecs) == 0 {
		return 0, 0
	}
	d.header = unix.Msghdr{Iov: &d.iovecs[0]}
	d.header.SetIovlen(len(d.iovecs))
	n, errno := nonBlocking(unix.SYS_SENDMSG, s.fd(), unsafe.Pointer(&d.header), unix.MSG_NOSIGNAL)
	// Nothing may keep a request's memory alive once it is back in the pool.
	clear(d.iovecs)
	return n, errno
}

// nonBlocking is a system call that returns as soon as it has copied what there is, so the scheduler need not be told: it
// would find this thread's work another thread, and wake one for it.
func nonBlocking(call uintptr, fd int, p unsafe.Pointer, arg int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(p), uintptr(arg))
	return int(n), errno
}
