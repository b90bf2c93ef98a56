package nbd

import (
	"bufio"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"testing"
)

// load is a client that keeps depth requests in flight and allocates nothing. It is as quick as a client can be, so that
// a measurement shows the server.
type load struct {
	conn    net.Conn
	r       *bufio.Reader
	cmd     uint16
	block   int
	size    int
	request []byte
	rnd     *rand.Rand
	seq     int
	scratch []byte
}

func newLoad(t testing.TB, conn net.Conn, cmd uint16, block, size int, random bool) *load {
	l := &load{conn: conn, r: bufio.NewReaderSize(conn, 256<<10), cmd: cmd, block: block, size: size, scratch: make([]byte, block)}
	l.request = requestBytes(cmd, 0, 0, 0, uint32(block))
	if cmd == cmdWrite {
		l.request = append(l.request, pattern(block, 1)...)
	}
	if random {
		l.rnd = rand.New(rand.NewPCG(1, 2))
	}
	return l
}

// send sends one request.
func (l *load) send() error {
	n := l.size / l.block
	if l.rnd != nil {
		l.seq = l.rnd.IntN(n)
	}
	binary.BigEndian.PutUint64(l.request[16:], uint64(l.seq%n)*uint64(l.block))
	l.seq++
	_, err := l.conn.Write(l.request)
	return err
}

// receive reads one simple reply.
func (l *load) receive() error {
	head, err := l.r.Peek(simpleHeaderSize)
	if err != nil {
		return err
	}
	if errno := Errno(binary.BigEndian.Uint32(head[4:])); errno != OK {
		return errno
	}
	if _, err := l.r.Discard(simpleHeaderSize); err != nil {
		return err
	}
	if l.cmd == cmdRead {
		_, err = io.ReadFull(l.r, l.scratch)
	}
	return err
}

// run sends n requests, depth of them at a time.
func (l *load) run(n, depth int) error {
	for i := 0; i < n+depth; i++ {
		if i >= depth {
			if err := l.receive(); err != nil {
				return err
			}
		}
		if i < n {
			if err := l.send(); err != nil {
				return err
			}
		}
	}
	return nil
}

func BenchmarkServer(b *testing.B) {
	const size = 64 << 20
	for _, tc := range []struct {
		name   string
		cmd    uint16
		block  int
		depth  int
		random bool
	}{
		{"randread-4k-qd1", cmdRead, 4096, 1, true},
		{"randread-4k-qd32", cmdRead, 4096, 32, true},
		{"randwrite-4k-qd1", cmdWrite, 4096, 1, true},
		{"randwrite-4k-qd32", cmdWrite, 4096, 32, true},
		{"seqread-128k-qd8", cmdRead, 128 << 10, 8, false},
		{"seqwrite-128k-qd8", cmdWrite, 128 << 10, 8, false},
		{"seqread-1m-qd8", cmdRead, 1 << 20, 8, false},
		{"seqwrite-1m-qd8", cmdWrite, 1 << 20, 8, false},
	} {
		b.Run(tc.name, func(b *testing.B) {
			_, path := listen(b, Options{Exports: []Export{{Device: newTestDevice(size)}}})
			conn, err := net.Dial("unix", path)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			c := &client{t: b, conn: conn}
			c.enter("", false)
			l := newLoad(b, conn, tc.cmd, tc.block, size, tc.random)
			// Let the server learn that the device is quick, and the pools fill.
			if err := l.run(200, tc.depth); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(tc.block))
			b.ReportAllocs()
			b.ResetTimer()
			if err := l.run(b.N, tc.depth); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// In steady state a request costs no allocation, whichever goroutine carries it out.
func TestServer_requestsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget buffers on purpose")
	}
	for _, tc := range []struct {
		name  string
		cmd   uint16
		block int
		quick bool
	}{
		{"small reads by the reading goroutine", cmdRead, 4096, true},
		{"small writes by the reading goroutine", cmdWrite, 4096, true},
		{"small reads by workers", cmdRead, 4096, false},
		{"large reads by workers", cmdRead, 256 << 10, true},
		{"large writes by workers", cmdWrite, 256 << 10, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dev := newTestDevice(1 << 20)
			srv := newServer(t, Options{})
			c := attach(t, srv, &Export{Device: dev})
			if !tc.quick {
				service := func() *session {
					srv.mu.Lock()
					defer srv.mu.Unlock()
					for l := range srv.links {
						return l.session
					}
					return nil
				}
				eventually(t, "the session begins", func() bool { return service() != nil })
				s := service()
				dev.hook = func(string, int64, int64) error {
					s.service.Store(int64(slowSample))
					return nil
				}
			}
			l := newLoad(t, c.conn, tc.cmd, tc.block, 1<<20, false)
			if err := l.run(500, 8); err != nil {
				t.Fatal(err)
			}
			// A collection would empty the pools.
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			const requests = 64
			perRun := testing.AllocsPerRun(20, func() {
				if err := l.run(requests, 8); err != nil {
					t.Error(err)
				}
			})
			// Now and then the runtime allocates for itself; a server that allocates would do so 64 times.
			if perRun > requests/8 {
				t.Errorf("%.0f allocations for %d requests", perRun, requests)
			}
			c.leave()
		})
	}
}
