package nbd

import (
	"errors"
	"sync/atomic"
	"testing"
)

// A long read goes out in pieces: all of it, in order, without being in memory at once.
func TestStream_longReadInPieces(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	content := pattern(size, 3)
	for _, tc := range []struct {
		name   string
		off    uint64
		length uint32
		flags  uint16
		chunks int
	}{
		{"one piece", 0, readPiece, 0, 1},
		{"one byte more", 0, readPiece + 1, 0, 2},
		{"three and a half", 5, 3*readPiece + readPiece/2, 0, 4},
		{"all", 0, size, 0, size / readPiece},
		{"fragments forbidden", 4096, 3 * readPiece, cmdFlagDF, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dev := newTestDevice(size)
			copy(dev.data, content)
			srv := newServer(t, Options{Exports: []Export{{Device: dev}}})
			var most atomic.Int64
			dev.hook = func(string, int64, int64) error {
				most.Store(max(most.Load(), srv.Stats().BufferBytes))
				return nil
			}
			c := connect(t, srv).enter("", true)
			// The second time the device is known to be quick.
			for range 2 {
				a := c.do(cmdRead, tc.flags, tc.off, tc.length, nil)
				if a.errno != OK || a.chunks != tc.chunks || a.end != tc.off+uint64(tc.length) {
					t.Errorf("error %d, %d chunks up to %d; want %d", a.errno, a.chunks, a.end, tc.chunks)
				}
				mustEqual(t, "the data", a.data, content[tc.off:tc.off+uint64(tc.length)])
			}
			if tc.flags == 0 && most.Load() > readPiece {
				t.Errorf("%d bytes were held at once, want one piece", most.Load())
			}
			c.leave()
			if s := srv.Stats(); s.BytesRead != 2*uint64(tc.length) || s.BufferBytes != 0 || s.InFlight != 0 {
				t.Errorf("afterwards: %+v", s)
			}
		})
	}
}

// A device that fails in the middle of a long read: what is there goes out, then the error, and the connection goes on.
func TestStream_errorAfterData(t *testing.T) {
	t.Parallel()
	const broken = 2 * readPiece
	for _, tc := range []struct {
		name       string
		structured bool
		flags      uint16
		data       int
	}{
		{"pieces", true, 0, broken},
		{"fragments forbidden", true, cmdFlagDF, 0},
		{"simple replies", false, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dev := newTestDevice(4 << 20)
			copy(dev.data, pattern(4<<20, 1))
			dev.hook = func(_ string, off, n int64) error {
				if off+n > broken {
					return errors.New("a bad sector")
				}
				return nil
			}
			srv := newServer(t, Options{Exports: []Export{{Device: dev}}})
			c := connect(t, srv).enter("", tc.structured)
			for range 3 {
				a := c.do(cmdRead, tc.flags, 0, 4<<20, nil)
				if a.errno != EIO || len(a.data) != tc.data {
					t.Errorf("error %d after %d bytes, want %d after %d", a.errno, len(a.data), EIO, tc.data)
				}
				mustEqual(t, "what came before the error", a.data, dev.content(0, tc.data))
				mustEqual(t, "the next read", c.mustDo(cmdRead, 0, 0, 4096, nil), dev.content(0, 4096))
			}
			c.leave()
		})
	}
}

// Pieces of several reads and replies to small requests may come in any order; none is lost or mixed up.
func TestStream_manyAtOnce(t *testing.T) {
	t.Parallel()
	const size, requests = 2 << 20, 15
	dev := newTestDevice(size)
	copy(dev.data, pattern(size, 9))
	srv := newServer(t, Options{Exports: []Export{{Device: dev}}})
	c := connect(t, srv).enter("", true)
	lengths := [...]uint32{4096, size, readPiece + 512, 100, 1 << 20}
	for range 2 {
		c.patience()
		for i := range requests {
			c.send(cmdRead, 0, uint64(i), uint64(i), lengths[i%len(lengths)]-uint32(i), nil)
		}
		seen := map[uint64]bool{}
		for range requests {
			a := c.receive(0)
			length := int(lengths[int(a.cookie)%len(lengths)]) - int(a.cookie)
			if a.errno != OK || seen[a.cookie] {
				t.Fatalf("request %d: error %d, answered before: %v", a.cookie, a.errno, seen[a.cookie])
			}
			seen[a.cookie] = true
			mustEqual(t, "the data", a.data, dev.content(int(a.cookie), length))
		}
	}
	c.leave()
}

// A client that hangs up in the middle of a long read leaves nothing behind.
func TestStream_clientHangsUp(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Device: newTestDevice(32 << 20), MultiConn: true}}})
	for range 3 {
		c := connect(t, srv).enter("", true)
		for i := range 4 {
			c.send(cmdRead, 0, uint64(i), 0, 32<<20, nil)
		}
		c.read(readPiece)
		c.conn.Close()
		if err := c.wait(); err == nil {
			t.Error("no error")
		}
		if s := srv.Stats(); s.BufferBytes != 0 || s.InFlight != 0 || s.Connections != 0 {
			t.Errorf("left over: %+v", s)
		}
	}
}
