package nbd

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// sockets is a pair: ours as the server has it, and the client's.
func sockets(t *testing.T, network string) (*socket, net.Conn) {
	t.Helper()
	near, far := socketPair(t)
	if network == "tcp" {
		near, far = tcpPair(t)
	}
	s, ok := takeOver(far).(*socket)
	if !ok {
		t.Fatalf("a %s connection was not taken over", network)
	}
	t.Cleanup(func() { s.Close() })
	return s, near
}

func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skipf("no TCP here: %v", err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// fill writes until nothing more fits.
func fill(s *socket) error {
	_ = s.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for {
		if err := s.writeAll([][]byte{make([]byte, 1<<20)}); err != nil {
			return err
		}
	}
}

func TestSocket_bothWays(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp"} {
		s, peer := sockets(t, network)
		// More pieces than one sendmsg takes, some of them empty, more bytes than the socket holds.
		want := pattern(9<<20, 1)
		var pieces [][]byte
		for rest, n := want, 0; len(rest) > 0; rest = rest[n:] {
			n = min(len(rest), 3000+len(pieces)%7)
			pieces = append(pieces, rest[:n:n], nil)
		}
		sent := make(chan error, 1)
		go func() { sent <- s.writeAll(pieces) }()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(peer, got); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		mustEqual(t, network, got, want)
		if s.readable() {
			t.Errorf("%s: readable with nothing to read", network)
		}
		go peer.Write(want)
		if _, err := io.ReadFull(s, got); err != nil {
			t.Fatal(err)
		}
		mustEqual(t, network, got, want)
		peer.Close()
		if n, err := s.Read(got); n != 0 || err != io.EOF {
			t.Errorf("%s: %d bytes and %v after the end", network, n, err)
		}
	}
}

// Whatever waits ends at the deadline, also when that is set meanwhile; and at Close.
func TestSocket_waitsEnd(t *testing.T) {
	t.Parallel()
	read := func(s *socket) error { _, err := s.Read(make([]byte, 1)); return err }
	for _, tc := range []struct {
		name string
		wait func(*socket) error
		end  func(*socket) error
		want error
	}{
		{"read, deadline", read, func(s *socket) error { return s.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		{"read, later deadline", read, func(s *socket) error { return s.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) },
			os.ErrDeadlineExceeded},
		{"read, close", read, (*socket).Close, net.ErrClosed},
		{"write, close", func(s *socket) error { return s.writeAll([][]byte{make([]byte, 64<<20)}) }, (*socket).Close, net.ErrClosed},
		{"write, deadline", func(s *socket) error { return s.writeAll([][]byte{make([]byte, 64<<20)}) },
			func(s *socket) error { return s.SetWriteDeadline(time.Now()) }, os.ErrDeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, _ := sockets(t, "unix")
			ended := make(chan error, 1)
			go func() { ended <- tc.wait(s) }()
			eventually(t, "it waits", func() bool { return s.in.waiting.Load() || s.out.waiting.Load() })
			if err := tc.end(s); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, tc.want) {
					t.Errorf("ended with %v, want %v", err, tc.want)
				}
			case <-time.After(patience):
				t.Fatal("it goes on waiting")
			}
		})
	}
}

// As with net.Conn: after the deadline nothing is read, also what is there, and a new deadline undoes that.
func TestSocket_deadlineBeforeData(t *testing.T) {
	t.Parallel()
	s, peer := sockets(t, "unix")
	peer.Write([]byte("abc"))
	_ = s.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := s.Read(make([]byte, 3)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after the deadline: %v", err)
	}
	_ = s.SetReadDeadline(time.Time{})
	if n, err := s.Read(make([]byte, 3)); n != 3 || err != nil {
		t.Errorf("without a deadline: %d bytes, %v", n, err)
	}
}

// A full socket does not stop reading, and the writer goes on where it was.
func TestSocket_fullSocket(t *testing.T) {
	t.Parallel()
	s, peer := sockets(t, "unix")
	if err := fill(s); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("filling it: %v", err)
	}
	peer.Write([]byte("x"))
	if n, err := s.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("reading from a full socket: %d bytes, %v", n, err)
	}
}

func TestSocket_afterClose(t *testing.T) {
	t.Parallel()
	s, peer := sockets(t, "unix")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if _, err := s.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if err := s.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close: %v", err)
	}
	if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the peer read %d bytes, %v", n, err)
	}
}

// A client that is gone is an error, not a signal that kills the process.
func TestSocket_peerGone(t *testing.T) {
	t.Parallel()
	s, peer := sockets(t, "unix")
	peer.Close()
	if err := s.writeAll([][]byte{make([]byte, 4096)}); err == nil {
		t.Error("no error")
	}
}
