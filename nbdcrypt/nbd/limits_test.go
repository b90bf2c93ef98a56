package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A client that vanishes in the middle of a write: at most whole pieces that have arrived reach the device, and others
// notice nothing.
func TestLimits_clientVanishesMidWrite(t *testing.T) {
	t.Parallel()
	dev := newFullDevice(4 << 20)
	dev.record = true
	srv := newServer(t, Options{Exports: []Export{{Device: dev, MultiConn: true}}})
	other := connect(t, srv).enter("", false)
	for _, sent := range []int{0, 1, 4096, writePiece - 1, 1<<20 - 1} {
		c := connect(t, srv).enter("", false)
		c.send(cmdWrite, 0, 1, 0, 1<<20, pattern(sent, 1))
		c.conn.Close()
		if err := c.wait(); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "WRITE of 1048576 bytes at 0") {
			t.Errorf("%d bytes sent: the connection ended with %v", sent, err)
		}
		mustEqual(t, "the other client's read", other.mustDo(cmdRead, 0, 3<<20, 4096, nil), make([]byte, 4096))
		whole := sent / writePiece * writePiece
		mustEqual(t, "what had arrived", dev.content(0, whole), pattern(whole, 1))
		mustEqual(t, "what had not", dev.content(whole, 1<<20-whole), make([]byte, 1<<20-whole))
	}
	other.leave()
	if s := srv.Stats(); s.BufferBytes != 0 || s.InFlight != 0 || s.Connections != 0 {
		t.Errorf("left over: %+v", s)
	}
}

func TestLimits_halfAHeader(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Device: newTestDevice(4096)}}})
	c := connect(t, srv).enter("", false)
	c.write(requestBytes(cmdRead, 0, 1, 0, 512)[:20])
	c.conn.Close()
	if err := c.wait(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the connection ended with %v", err)
	}
}

// A client that loses count is cut off; what it asked for before is answered.
func TestLimits_wrongRequestMagic(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Device: newTestDevice(1 << 20)}}})
	c := connect(t, srv).enter("", false)
	c.send(cmdRead, 0, 5, 0, 512, make([]byte, 28))
	if a := c.receive(512); a.cookie != 5 || a.errno != OK {
		t.Errorf("%+v", a)
	}
	c.readEnd()
	if err := c.wait(); err == nil || !strings.Contains(err.Error(), "0x00000000") {
		t.Errorf("the connection ended with %v", err)
	}
}

// Clients that announce large writes and send nothing hold memory, but never all of it.
func TestLimits_hogsLeaveMemoryForOthers(t *testing.T) {
	t.Parallel()
	const budget = 8 << 20
	srv := newServer(t, Options{MemoryBudget: budget, MaxInFlight: 16,
		Exports: []Export{{Device: newTestDevice(1 << 20), MaxBlock: 1 << 20, MultiConn: true}}})
	var hogs []*client
	for range 3 {
		c := connect(t, srv).enter("", false)
		c.send(cmdWrite, 0, 1, 0, 1<<20, nil)
		hogs = append(hogs, c)
	}
	eventually(t, "each has a piece", func() bool { return srv.Stats().BufferBytes == 3*writePiece })
	c := connect(t, srv).enter("", false)
	for i := range 50 {
		mustEqual(t, "a read", c.mustDo(cmdRead, 0, 0, uint32(i+1)*4096, nil), make([]byte, (i+1)*4096))
	}
	if s := srv.Stats(); s.BufferBytes > budget || s.BufferWaits != 0 {
		t.Errorf("%+v", s)
	}
	for _, h := range hogs {
		h.conn.Close()
		if err := h.wait(); err == nil {
			t.Error("a hog ended properly")
		}
	}
	c.leave()
}

// The budget holds whatever is asked at once, and everything is answered in the end.
func TestLimits_budgetIsNeverExceeded(t *testing.T) {
	t.Parallel()
	const budget = 1 << 20
	dev := newTestDevice(1 << 20)
	srv := newServer(t, Options{MemoryBudget: budget, MaxInFlight: 64,
		Exports: []Export{{Device: dev, MaxBlock: 512 << 10, MultiConn: true}}})
	dev.hook = func(string, int64, int64) error {
		if used, _ := srv.buffers.inUse(); used > budget {
			return fmt.Errorf("%d bytes out", used)
		}
		return nil
	}
	done := make(chan bool)
	for range 4 {
		c := connect(t, srv).enter("", false)
		go func() {
			defer func() { done <- true }()
			for i := range 64 {
				c.send(cmdRead, 0, uint64(i), 0, 100<<10, nil)
			}
			for range 64 {
				if a := c.receive(100 << 10); a.errno != OK {
					t.Errorf("error %d", a.errno)
				}
			}
			c.leave()
		}()
	}
	for range 4 {
		<-done
	}
	if s := srv.Stats(); s.BufferBytes != 0 || s.BufferWaits == 0 {
		t.Errorf("%+v; want waits and nothing left", s)
	}
}

func TestLimits_connectionsBeyondTheLimitAreClosed(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{MaxConns: 2, Exports: []Export{{Device: newTestDevice(4096)}}})
	a, b := connect(t, srv).enter("", false), connect(t, srv).hello(0)
	c := connect(t, srv)
	c.readEnd()
	if err := c.wait(); !errors.Is(err, ErrTooManyConnections) {
		t.Errorf("the third connection ended with %v", err)
	}
	// The kernel's sockets are not clients.
	k := attach(t, srv, &Export{Device: newTestDevice(4096)})
	k.mustDo(cmdRead, 0, 0, 512, nil)
	k.leave()
	b.conn.Close()
	b.wait()
	d := connect(t, srv).enter("", false)
	d.leave()
	a.leave()
}

// A client that stops in the middle of a payload, or does not take its replies, is cut off after the stall time.
func TestLimits_stalledClientsAreCutOff(t *testing.T) {
	for _, tc := range []struct {
		name string
		act  func(c net.Conn)
	}{
		{"half a payload", func(c net.Conn) { c.Write(append(requestBytes(cmdWrite, 0, 1, 0, 64<<10), make([]byte, 1000)...)) }},
		{"half a payload that nobody wants", func(c net.Conn) {
			c.Write(append(requestBytes(cmdWrite, 0, 1, 1<<30, 64<<10), make([]byte, 1000)...))
		}},
		{"reply not taken", func(c net.Conn) { c.Write(requestBytes(cmdRead, 0, 1, 0, 64<<10)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &Export{Device: newTestDevice(1 << 20)}
				srv := newServer(t, Options{StallTimeout: 10 * time.Second, Exports: []Export{*e}})
				near, far := net.Pipe()
				ended := make(chan error, 1)
				go func() { ended <- srv.ServeConn(context.Background(), far) }()
				// The pipe has no buffer, so every write here meets a read there.
				io.ReadFull(near, make([]byte, 18))
				near.Write(append([]byte{0, 0, 0, 3}, optionHeader(optExportName, 0)...))
				io.ReadFull(near, make([]byte, 10))
				start := time.Now()
				go tc.act(near)
				err := <-ended
				// 64 KiB at 64 KiB/s come on top.
				if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
					t.Errorf("ended after %v with %v, want 11 s", took, err)
				}
				if s := srv.Stats(); s.BufferBytes != 0 || s.InFlight != 0 {
					t.Errorf("left over: %+v", s)
				}
				near.Close()
			})
		})
	}
}

// An idle client is not stalled.
func TestLimits_idleClientsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t, Options{StallTimeout: time.Second})
		near, far := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- srv.ServeTransmission(t.Context(), far, &Export{Device: newTestDevice(1 << 20)}) }()
		for range 3 {
			time.Sleep(24 * time.Hour)
			near.Write(requestBytes(cmdRead, 0, 1, 0, 512))
			if _, err := io.ReadFull(near, make([]byte, 16+512)); err != nil {
				t.Fatal(err)
			}
		}
		near.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestBufferPool_alignment(t *testing.T) {
	t.Parallel()
	p := newBufferPool(1 << 30)
	var a account
	for n := 1; n <= largestBlock; n = n*3 + 1 {
		b, err := p.get(&a, n, func() {})
		if err != nil || len(b.mem) < n || misalignment(b.mem) != 0 || int64(len(b.mem)) != classSize(b.class) {
			t.Fatalf("%d bytes: %d at alignment %d, %v", n, len(b.mem), misalignment(b.mem), err)
		}
		defer p.put(&a, b)
	}
	if used, _ := p.inUse(); used != a.held || used == 0 {
		t.Errorf("%d in use, %d held", used, a.held)
	}
}

func TestBufferPool_abortEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newBufferPool(8192)
		var rich, poor account
		b, err := p.get(&rich, 8192, func() {})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		asked := false
		go func() {
			_, err := p.get(&poor, 4096, func() { asked = true })
			ended <- err
		}()
		synctest.Wait()
		p.abort(&poor)
		if err := <-ended; !errors.Is(err, errAborted) || !asked {
			t.Errorf("%v, gave back: %v", err, asked)
		}
		p.put(&rich, b)
		if used, waits := p.inUse(); used != 0 || waits != 1 {
			t.Errorf("%d in use, %d waits", used, waits)
		}
	})
}

func TestNewServer_refusesSenselessOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{TLSRequired: true}, {MaxConns: -1}, {MemoryBudget: -1}, {MaxInFlight: -1}, {HandshakeTimeout: -1}} {
		if _, err := NewServer(o); err == nil {
			t.Errorf("%+v: accepted", o)
		}
	}
}

// The log of a failing device names the error, once, twice, four times..., not a million times.
func TestLimits_deviceErrorsDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	dev := newTestDevice(1 << 20)
	dev.hook = func(string, int64, int64) error { return os.ErrInvalid }
	var log logBuffer
	srv := newServer(t, Options{Logger: newTextLogger(&log), Exports: []Export{{Name: "disk", Device: dev}}})
	c := connect(t, srv).enter("disk", false)
	for range 100 {
		c.do(cmdRead, 0, 0, 512, nil)
	}
	c.leave()
	if n := strings.Count(log.String(), "the device failed"); n != 7 {
		t.Errorf("%d lines for 100 errors, want 7", n)
	}
	if !strings.Contains(log.String(), "export=disk command=READ offset=0 length=512 failures=64 error=\"invalid argument\"") {
		t.Errorf("log:\n%s", log.String())
	}
}
