package attach

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// socketBuffer is the send buffer asked for, bytes: it takes one request of the largest size the kernel sends.
const socketBuffer = 2 << 20

// nbdSocket is a socketpair: one end is for the kernel, the other is served by this process.
type nbdSocket struct {
	kernel atomic.Int32 // file descriptor, -1 once closed; the kernel has its own reference by then
	server net.Conn
	raw    *os.File // a duplicate of server's descriptor, to ask for its state without disturbing a read
	ended  atomic.Bool
}

func newNBDSocket() (*nbdSocket, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socketpair for the kernel: %w", err)
	}
	for _, fd := range fds {
		// FORCE goes beyond net.core.wmem_max; where that is not allowed, as much as is.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		}
	}
	raw := os.NewFile(uintptr(fds[1]), "nbd socketpair")
	server, err := net.FileConn(raw) // duplicates the descriptor
	if err != nil {
		unix.Close(fds[0])
		raw.Close()
		return nil, fmt.Errorf("make a connection of a socketpair: %w", err)
	}
	s := &nbdSocket{server: server, raw: raw}
	s.kernel.Store(int32(fds[0]))
	return s, nil
}

// dead reports whether the kernel has shut the connection down, which it does when it gives up waiting.
func (s *nbdSocket) dead() bool {
	if s.ended.Load() {
		return true
	}
	var dead bool
	sc, err := s.raw.SyscallConn()
	if err != nil {
		return true
	}
	err = sc.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP and POLLERR are always reported
		n, err := unix.Poll(p, 0)
		dead = err == nil && n == 1 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return dead || err != nil
}

func (s *nbdSocket) closeKernelEnd() {
	if fd := s.kernel.Swap(-1); fd >= 0 {
		unix.Close(int(fd))
	}
}

func (s *nbdSocket) close() {
	s.ended.Store(true)
	s.closeKernelEnd()
	s.server.Close()
	s.raw.Close()
}
