package nbd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// gatedDevice is a device whose requests wait until the gate opens.
type gatedDevice struct {
	*testDevice
	gate   chan struct{}
	inside atomic.Int32
}

func gated(size int) (dev *gatedDevice, open func()) {
	dev = &gatedDevice{testDevice: newTestDevice(size), gate: make(chan struct{})}
	dev.hook = func(op string, _, _ int64) error {
		if op != "sync" {
			dev.inside.Add(1)
			<-dev.gate
		}
		return nil
	}
	return dev, func() { close(dev.gate) }
}

// holds waits until n requests have come to the device.
func (d *gatedDevice) holds(t *testing.T, n int32) {
	t.Helper()
	eventually(t, "the requests are in the device", func() bool { return d.inside.Load() == n })
}

func TestShutdown_answersWhatIsInFlight(t *testing.T) {
	t.Parallel()
	dev, open := gated(1 << 20)
	srv := newServer(t, Options{Exports: []Export{{Device: dev}}})
	c, idle := connect(t, srv).enter("", false), connect(t, srv).enter("", false)
	shaking := connect(t, srv).hello(clientFixedNewstyle)
	c.send(cmdWrite, 0, 1, 0, 4096, pattern(4096, 1))
	c.send(cmdRead, 0, 2, 8192, 512, nil)
	dev.holds(t, 2)
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Shutdown(t.Context()) }()
	idle.readEnd()
	shaking.readEnd()
	select {
	case err := <-stopped:
		t.Fatalf("Shutdown returned %v with requests in the device", err)
	default:
	}
	open()
	for range 2 {
		if a := c.receive(0); a.errno != OK {
			t.Errorf("%+v", a)
		} else if a.cookie == 2 {
			c.read(512)
		}
	}
	c.readEnd()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	mustEqual(t, "the device", dev.content(0, 4096), pattern(4096, 1))
	for _, c := range []*client{c, idle} {
		if err := c.wait(); err != nil {
			t.Error(err)
		}
	}
	late := connect(t, srv)
	late.readEnd()
	if err := late.wait(); !errors.Is(err, ErrServerClosed) {
		t.Errorf("a connection after Shutdown ended with %v", err)
	}
	if err := srv.AddExport(Export{Name: "x", Device: dev}); !errors.Is(err, ErrServerClosed) {
		t.Errorf("AddExport after Shutdown: %v", err)
	}
}

// A request of which a part has arrived when the server drains is waited for and answered; one behind it is not read.
func TestShutdown_waitsForAHalfSentRequest(t *testing.T) {
	t.Parallel()
	for _, first := range []int{10, requestHeaderSize, requestHeaderSize + 1000} {
		dev := newTestDevice(1 << 20)
		srv := newServer(t, Options{})
		// What has been written to a pipe has been read.
		near, far := net.Pipe()
		c := &client{t: t, conn: near, ended: make(chan error, 1)}
		c.patience()
		go func() { c.ended <- srv.ServeTransmission(t.Context(), far, &Export{Device: dev}) }()
		request := append(requestBytes(cmdWrite, 0, 9, 0, 100<<10), pattern(100<<10, 7)...)
		c.write(request[:first])
		stopped := make(chan error, 1)
		go func() { stopped <- srv.Shutdown(t.Context()) }()
		eventually(t, "the connection has been told to drain", func() bool {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			for l := range srv.links {
				return l.session.rd.draining.Load()
			}
			return false
		})
		c.write(request[first:])
		if a := c.receive(0); a.cookie != 9 || a.errno != OK {
			t.Errorf("%d bytes sent before: %+v", first, a)
		}
		c.readEnd()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if err := c.wait(); err != nil {
			t.Error(err)
		}
		mustEqual(t, "the device", dev.content(0, 100<<10), pattern(100<<10, 7))
	}
}

// A request whose rest never comes is given up after a grace; it was not promised anything.
func TestShutdown_doesNotWaitForEver(t *testing.T) {
	for _, sent := range []int{10, requestHeaderSize + 1000} {
		synctest.Test(t, func(t *testing.T) {
			dev := newTestDevice(1 << 20)
			dev.record = true
			srv := newServer(t, Options{})
			near, far := net.Pipe()
			ended := make(chan error, 1)
			go func() { ended <- srv.ServeTransmission(t.Context(), far, &Export{Device: dev}) }()
			near.Write(append(requestBytes(cmdWrite, 0, 9, 0, 100<<10), make([]byte, 1000)...)[:sent])
			start := time.Now()
			if err := srv.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took != drainGrace {
				t.Errorf("took %v, want %v", took, drainGrace)
			}
			if err := <-ended; !errors.Is(err, errDrained) {
				t.Errorf("ended with %v; a successor must know that the stream is not between two requests", err)
			}
			if log := dev.log(); len(log) != 0 {
				t.Errorf("the device saw %q", log)
			}
			near.Close()
		})
	}
}

// A planned restart: the next process goes on with the same socket, and the kernel notices nothing.
func TestShutdown_leavesASocketPairToASuccessor(t *testing.T) {
	t.Parallel()
	dev := newTestDevice(1 << 20)
	e := &Export{Device: dev}
	near, far := socketPair(t)
	file, err := far.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	first := newServer(t, Options{})
	c := &client{t: t, conn: near, ended: make(chan error, 1)}
	c.patience()
	go func() { c.ended <- first.ServeTransmission(t.Context(), far, e) }()
	c.mustDo(cmdWrite, 0, 0, 512, pattern(512, 1))
	if err := first.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.wait(); err != nil {
		t.Fatal(err)
	}
	// Sent while nobody serves.
	c.send(cmdRead, 0, 7, 0, 512, nil)
	again, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	go func() { c.ended <- newServer(t, Options{}).ServeTransmission(t.Context(), again, e) }()
	if a := c.receive(512); a.cookie != 7 || a.errno != OK {
		t.Errorf("%+v", a)
	} else {
		mustEqual(t, "the data", a.data, pattern(512, 1))
	}
	c.send(cmdDisc, 0, 0, 0, 0, nil)
	if err := c.wait(); err != nil {
		t.Error(err)
	}
}

// Over TCP a reset would destroy replies that are on their way: requests that are no longer read must not cause one.
func TestShutdown_repliesSurviveUnreadRequests(t *testing.T) {
	t.Parallel()
	dev, open := gated(64 << 20)
	srv := newServer(t, Options{MaxInFlight: 2, Exports: []Export{{Device: dev}}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skipf("no TCP here: %v", err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &client{t: t, conn: conn}
	c.patience()
	c.enter("", false)
	for i := range 2 {
		c.send(cmdRead, 0, uint64(i), 0, 16<<20, nil)
	}
	dev.holds(t, 2)
	// More than the server reads ahead: the rest stays in its socket.
	go func() { _, _ = conn.Write(make([]byte, 1<<20)) }()
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Shutdown(t.Context()) }()
	eventually(t, "the listener is closed", func() bool { return srv.isClosing() })
	open()
	for range 2 {
		if a := c.receive(16 << 20); a.errno != OK {
			t.Errorf("%+v", a)
		}
	}
	conn.Close()
	if err := errors.Join(<-stopped, <-served); err != nil {
		t.Error(err)
	}
}

// Shutdown does not wait longer than its context for a device that hangs.
func TestShutdown_cutsOffWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	dev, open := gated(1 << 20)
	srv := newServer(t, Options{Exports: []Export{{Device: dev}}})
	c := connect(t, srv).enter("", false)
	c.send(cmdRead, 0, 1, 0, 512, nil)
	dev.holds(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	c.readEnd()
	open()
	c.wait()
	if s := srv.Stats(); s.InFlight != 0 || s.BufferBytes != 0 || s.Connections != 0 {
		t.Errorf("left over: %+v", s)
	}
}

func TestServeConn_endsWithItsContext(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Device: newTestDevice(4096)}}})
	for _, phase := range []string{"handshake", "transmission"} {
		near, far := socketPair(t)
		ctx, cancel := context.WithCancel(t.Context())
		c := &client{t: t, conn: near, ended: make(chan error, 1)}
		go func() { c.ended <- srv.ServeConn(ctx, far) }()
		if phase == "transmission" {
			c.enter("", false)
			c.mustDo(cmdRead, 0, 0, 512, nil)
		}
		cancel()
		if err := c.wait(); err == nil {
			t.Errorf("%s: no error", phase)
		}
	}
}

// After RemoveExport has returned nothing uses the device; other exports and their clients stay.
func TestRemoveExport_drainsItsClientsOnly(t *testing.T) {
	t.Parallel()
	dev, open := gated(1 << 20)
	srv := newServer(t, Options{Exports: []Export{{Name: "a", Device: dev}, {Name: "b", Device: newTestDevice(4096)}}})
	a, b := connect(t, srv).enter("a", false), connect(t, srv).enter("b", false)
	b.mustDo(cmdRead, 0, 0, 512, nil)
	a.send(cmdRead, 0, 1, 0, 512, nil)
	dev.holds(t, 1)
	removed := make(chan error, 1)
	go func() { removed <- srv.RemoveExport(t.Context(), "a") }()
	late := connect(t, srv).hello(clientFixedNewstyle)
	eventually(t, "the export is gone", func() bool {
		return late.option(optInfo, goData("a"))[0].kind == repErrUnknown
	})
	open()
	if r := a.receive(512); r.errno != OK {
		t.Errorf("%+v", r)
	}
	a.readEnd()
	if err := <-removed; err != nil {
		t.Error(err)
	}
	b.mustDo(cmdRead, 0, 0, 512, nil)
	if err := srv.RemoveExport(t.Context(), "a"); !errors.Is(err, ErrUnknownExport) {
		t.Errorf("removing it twice: %v", err)
	}
	if err := srv.AddExport(Export{Name: "b", Device: dev}); err == nil {
		t.Error("a name was given twice")
	}
	if err := srv.AddExport(Export{Name: "a", Device: newTestDevice(8192)}); err != nil {
		t.Error(err)
	}
	late.mustAck(late.option(optGo, goData("a")))
	late.leave()
	b.leave()
}

func TestServe_untilShutdown(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Device: newTestDevice(4096)}}})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, conn: conn}
	c.patience()
	c.enter("", false)
	c.mustDo(cmdRead, 0, 0, 512, nil)
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	c.readEnd()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := srv.Serve(l); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}
