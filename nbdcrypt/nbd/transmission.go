package nbd

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// smallRequest is the longest request that the reading goroutine carries out itself although another is at hand. Longer
	// ones gain more from being worked on by several processors than a hand-over costs.
	smallRequest = 32 << 10
	// quickDevice is the service time under which a hand-over to a worker costs more than it gains.
	quickDevice = 20 * time.Microsecond
	// slowSample caps one observation, so that a single slow request is forgotten after some tens of quick ones.
	slowSample = time.Millisecond
	// heldReplies and heldBytes are how much is kept for one writev while more requests are at hand.
	heldReplies = 16
	heldBytes   = 128 << 10
)

// session is the transmission phase of one connection.
type session struct {
	terms
	srv    *Server
	target *target
	// abortConn is what abort closes: the connection below TLS, which ends without a farewell that could block.
	abortConn io.Closer
	rd        *wireReader
	out       *replyWriter
	memory    account

	// free holds the requests that are not in use; made of them exist, at most Options.MaxInFlight.
	free chan *request
	made int
	// jobs hands requests to workers, of which there are as many as were ever needed at once.
	jobs    chan *request
	workers int
	done    sync.WaitGroup

	// busy is the number of requests that workers have.
	busy atomic.Int64
	// helpers is how many workers get large requests while the device is quick: enough for all processors while some of
	// them wait for their turn to send. With more, their buffers would not stay in a processor's cache.
	helpers int64

	// service is the moving average, in nanoseconds, of how long the device takes for a small request, or waits in a large
	// one. It starts slow: a device has to show that it is quick before the reading goroutine waits for it.
	service atomic.Int64
	// aborted stops commands that work in many steps.
	aborted atomic.Bool
	failed  atomic.Uint64
	// unread says that the client may have sent more than was read when serve returned.
	unread bool
}

func newSession(srv *Server, conn transport, t *target, agreed terms, rd *wireReader, stall time.Duration) *session {
	s := &session{terms: agreed, srv: srv, target: t, abortConn: conn, rd: rd,
		free: make(chan *request, srv.opts.MaxInFlight), jobs: make(chan *request)}
	s.size = t.size
	s.maxBlock = t.MaxBlock
	s.service.Store(int64(slowSample))
	s.helpers = int64(runtime.GOMAXPROCS(0) + 1)
	rd.conn = conn
	rd.stall = stall
	s.out = newReplyWriter(conn, stall)
	s.out.release = s.release
	s.out.broken = func(error) { s.abort() }
	rd.beforeBlock = s.out.flush
	return s
}

// serve answers requests until the client ends, breaks the protocol or vanishes, or the server drains. All requests
// that it has read are answered when it returns, and the device has synced what it wrote.
func (s *session) serve() error {
	err := s.readRequests()
	close(s.jobs)
	s.done.Wait()
	s.out.flush()
	// A client that never sends FLUSH, as go-nbd's, has nothing but its DISC to make its data durable.
	if s.target.unsynced.Load() {
		if syncErr := s.target.sync.do(); syncErr != nil {
			s.srv.log.Error("nbd: syncing the device after the last request", "export", s.target.Name, "error", syncErr)
			if err == nil {
				err = fmt.Errorf("syncing export %q after its last request: %w", s.target.Name, syncErr)
			}
		}
	}
	return err
}

// readRequests reads requests and sees to it that they are carried out.
func (s *session) readRequests() error {
	for {
		h, err := s.rd.header(requestHeaderSize)
		if err == io.EOF {
			return nil
		}
		if err == errDrained {
			s.unread = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		r := s.take()
		if err := r.parse(h); err != nil {
			s.unread = true
			return err
		}
		if r.cmd == cmdDisc {
			return nil
		}
		s.srv.stats.requests.Add(1)
		r.errno = s.validate(r)
		if s.splits(r) {
			if err := s.split(r); err != nil {
				return err
			}
			continue
		}
		if err := s.load(r); err != nil {
			s.dropBuffer(r)
			return payloadError(r, err)
		}
		s.srv.stats.inFlight.Add(1)
		s.dispatch(r)
	}
}

// take returns an unused request, and waits for one when MaxInFlight are under way.
func (s *session) take() *request {
	select {
	case r := <-s.free:
		return r
	default:
	}
	if s.made < cap(s.free) {
		s.made++
		return new(request)
	}
	s.out.flush()
	return <-s.free
}

// load gets r the memory it needs and reads its payload.
func (s *session) load(r *request) error {
	if r.errno != OK {
		if int(r.cmd) < len(rules) && rules[r.cmd].payload {
			return s.rd.discard(int64(r.length))
		}
		return nil
	}
	n := 0
	switch r.cmd {
	case cmdRead:
		n = s.pieceOf(r)
	case cmdWrite:
		n = int(r.length)
	case cmdBlockStatus:
		n = maxExtents * extentSize
	case cmdCache:
		if s.target.cache == nil {
			n = int(min(r.length, cacheStep))
		}
	}
	if n == 0 {
		return nil
	}
	buf, err := s.srv.buffers.get(&s.memory, n, s.out.flush)
	if err != nil {
		return err
	}
	r.buf, r.data = buf, buf.mem[:n]
	if r.cmd == cmdWrite {
		return s.rd.payload(r.data)
	}
	return nil
}

// dispatch carries r out at once when that is quicker than handing it over.
func (s *session) dispatch(r *request) {
	if r.errno != OK || s.atOnce(r) {
		if s.run(r) {
			s.out.hold(r)
		}
		return
	}
	s.busy.Add(1)
	select {
	case s.jobs <- r:
		return
	default:
	}
	if s.workers < cap(s.free) {
		s.workers++
		s.done.Add(1)
		go s.work(r)
		return
	}
	s.out.flush()
	s.jobs <- r
}

// atOnce says whether the reading goroutine carries r out: r is plain, the device answers quickly, and r is small, or no
// other request is waiting to be read, or all helpers are busy.
func (s *session) atOnce(r *request) bool {
	return r.plain() && s.service.Load() < int64(quickDevice) &&
		(r.length <= smallRequest || s.busy.Load() >= s.helpers || !s.rd.more())
}

// work is a worker's life.
func (s *session) work(r *request) {
	defer s.done.Done()
	for ok := true; ok; r, ok = <-s.jobs {
		replies := s.run(r)
		s.busy.Add(-1)
		if replies {
			s.out.push(r)
		}
	}
}

// run carries r out and prepares its reply. It returns false for a part of a WRITE, which has no reply of its own.
func (s *session) run(r *request) bool {
	if r.errno == OK {
		s.execute(r)
	}
	if r.whole != nil {
		s.endPart(r)
		return false
	}
	if r.errno != OK {
		s.srv.stats.errors.Add(1)
	}
	s.encodeReply(r)
	return true
}

// observe moves the average service time by an eighth of the difference. Updates that race lose one of the two.
func (s *session) observe(d time.Duration) {
	old := s.service.Load()
	s.service.Store(old + (int64(min(d, slowSample))-old)/8)
}

// release takes back a request whose reply is done with.
func (s *session) release(r *request) {
	s.dropBuffer(r)
	s.srv.stats.inFlight.Add(-1)
	s.free <- r
}

func (s *session) dropBuffer(r *request) {
	if r.buf != nil {
		s.srv.buffers.put(&s.memory, r.buf)
		r.buf, r.data = nil, nil
	}
}

// abort cuts the connection off: requests under way finish, their replies are dropped.
func (s *session) abort() {
	s.aborted.Store(true)
	s.srv.buffers.abort(&s.memory)
	_ = s.abortConn.Close()
}

// report logs an error of the device; the client learns only its number. Of a device that fails again and again, each
// connection logs the first, second, fourth, eighth... error.
func (s *session) report(r *request, err error) {
	n := s.failed.Add(1)
	if n&(n-1) != 0 {
		return
	}
	s.srv.log.Error("nbd: the device failed", "export", s.target.Name, "command", commandName(r.cmd),
		"offset", r.offset, "length", r.length, "failures", n, "error", err)
}
