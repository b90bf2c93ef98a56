package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Defaults of Options.
const (
	DefaultMaxConns         = 64
	DefaultMemoryBudget     = 256 << 20
	DefaultMaxInFlight      = 32
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultStallTimeout     = time.Minute
)

// ErrTooManyConnections is returned for a connection beyond Options.MaxConns.
var ErrTooManyConnections = errors.New("too many connections; raise MaxConns or close some")

// ErrServerClosed is returned for what is asked of a server after Shutdown.
var ErrServerClosed = errors.New("the NBD server is shut down")

// Options configures a Server. The zero value serves nothing, in clear, with the defaults.
type Options struct {
	// Exports are there from the start; AddExport and RemoveExport change them later.
	Exports []Export
	// TLS is offered by STARTTLS when it is not nil. With TLSRequired a client can do nothing without it.
	TLS         *tls.Config
	TLSRequired bool
	// MaxConns is how many clients may be connected at once; ServeTransmission does not count. 0 means 64.
	MaxConns int
	// MemoryBudget is the memory for request buffers of all connections, in bytes; 0 means 256 MiB. Requests wait while
	// it is exhausted.
	MemoryBudget int64
	// MaxInFlight is how many requests of one connection are worked on at once; 0 means 32.
	MaxInFlight int
	// HandshakeTimeout is how long a client may take to choose an export; 0 means 10 s.
	HandshakeTimeout time.Duration
	// StallTimeout is how long a client may neither send the rest of a payload it has begun nor take a reply, apart from
	// what 64 KiB/s allow for the length; then it is cut off, because it holds memory that others wait for. 0 means one
	// minute, less than 0 for ever. It never applies to ServeTransmission.
	StallTimeout time.Duration
	// Logger receives what goes wrong; nil means slog.Default().
	Logger *slog.Logger
}

// Server serves exports to any number of connections. Its methods may be called concurrently.
type Server struct {
	opts    Options
	log     *slog.Logger
	buffers *bufferPool
	stats   counters

	// writePiece is the constant, but in tests.
	writePiece uint32

	mu        sync.Mutex
	exports   map[string]*target
	listeners map[net.Listener]struct{}
	links     map[*link]struct{}
	clients   int
	closing   bool
}

// NewServer checks the options and returns a server that listens nowhere yet.
func NewServer(o Options) (*Server, error) {
	if o.TLSRequired && o.TLS == nil {
		return nil, errors.New("nbd: TLS is required but not configured; set Options.TLS")
	}
	if o.MaxConns < 0 || o.MemoryBudget < 0 || o.MaxInFlight < 0 || o.HandshakeTimeout < 0 {
		return nil, errors.New("nbd: MaxConns, MemoryBudget, MaxInFlight and HandshakeTimeout cannot be negative; use 0 for the default")
	}
	o.MaxConns = orDefault(o.MaxConns, DefaultMaxConns)
	o.MemoryBudget = orDefault(o.MemoryBudget, DefaultMemoryBudget)
	o.MaxInFlight = orDefault(o.MaxInFlight, DefaultMaxInFlight)
	o.HandshakeTimeout = orDefault(o.HandshakeTimeout, DefaultHandshakeTimeout)
	o.StallTimeout = max(orDefault(o.StallTimeout, DefaultStallTimeout), 0)
	s := &Server{opts: o, log: o.Logger, writePiece: writePiece, buffers: newBufferPool(o.MemoryBudget), exports: map[string]*target{},
		listeners: map[net.Listener]struct{}{}, links: map[*link]struct{}{}}
	if s.log == nil {
		s.log = slog.Default()
	}
	for _, e := range o.Exports {
		if err := s.AddExport(e); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// AddExport makes e available to new connections. The name must be free.
func (s *Server) AddExport(e Export) error {
	t, err := newTarget(e, s.opts.MemoryBudget)
	if err != nil {
		return fmt.Errorf("nbd: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return fmt.Errorf("nbd: adding export %q: %w", e.Name, ErrServerClosed)
	}
	if _, taken := s.exports[e.Name]; taken {
		return fmt.Errorf("nbd: there is an export %q already; remove it first or choose another name", e.Name)
	}
	s.exports[e.Name] = t
	return nil
}

// RemoveExport takes an export away: new connections do not find it, those that use it get answers to the requests that
// have been read and are closed. After it has returned nil nothing uses the device any more. When ctx ends first the
// connections are cut off and requests may still be inside the device; the error says how many connections.
func (s *Server) RemoveExport(ctx context.Context, name string) error {
	s.mu.Lock()
	t, ok := s.exports[name]
	delete(s.exports, name)
	users := s.linksOf(func(l *link) bool { return ok && l.target == t })
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("nbd: removing export %q: %w", name, ErrUnknownExport)
	}
	if err := drainAll(ctx, users); err != nil {
		return fmt.Errorf("nbd: removing export %q: %w", name, err)
	}
	return nil
}

// Serve accepts clients until the listener fails or the server is shut down, which is no error. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return fmt.Errorf("nbd: serving %s: %w", l.Addr(), ErrServerClosed)
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	var pause time.Duration
	for {
		conn, err := l.Accept()
		if err != nil {
			if s.isClosing() {
				return nil
			}
			var temporary interface{ Temporary() bool }
			if !errors.As(err, &temporary) || !temporary.Temporary() {
				return fmt.Errorf("nbd: accepting on %s: %w", l.Addr(), err)
			}
			// Out of file descriptors, or a client that gave up: others may still be served.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Warn("nbd: accepting a connection", "error", err, "retry_in", pause)
			time.Sleep(pause)
			continue
		}
		pause = 0
		go func() {
			if err := s.ServeConn(context.Background(), conn); err != nil {
				s.log.Info("nbd: connection ended", "client", conn.RemoteAddr().String(), "error", err)
			}
		}()
	}
}

// ServeConn serves one client, handshake included, and closes conn, possibly early to go on with a duplicate. It returns nil
// when the client ended properly or hung up between two requests. When ctx ends the connection is cut off.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) error {
	l, err := s.connect(ctx, conn, true)
	if err != nil {
		return err
	}
	defer l.disconnect()
	h := newHandshake(s, l)
	t, agreed, err := h.run(ctx)
	if err != nil {
		return fmt.Errorf("nbd: handshake: %w", err)
	}
	if t == nil {
		return nil
	}
	return l.transmit(h.conn, t, agreed, h.rd, s.opts.StallTimeout)
}

// ServeTransmission serves a connection that needs no handshake because the other end was told by other means what the
// export is: the kernel's NBD client on a socket pair. The export need not be known to the server, its terms are
// Export.TransmissionFlags and simple replies. Conn is the server's from now on, which may close it at once and go on with a
// duplicate of its descriptor; to cut the connection off, end ctx. Requests that have not been read stay in the socket: when
// ServeTransmission returns nil because of Shutdown, a process that holds a duplicate of the socket can go on where this one
// ended. An error says that it cannot, because a part of a request has been read.
func (s *Server) ServeTransmission(ctx context.Context, conn net.Conn, e *Export) error {
	t, err := newTarget(*e, s.opts.MemoryBudget)
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("nbd: %w", err)
	}
	l, err := s.connect(ctx, conn, false)
	if err != nil {
		return err
	}
	defer l.disconnect()
	rd := &wireReader{conn: conn, buf: make([]byte, readBufferSize)}
	return l.transmit(conn, t, terms{flags: t.flags, minBlock: 1}, rd, 0)
}

// Shutdown stops listening, answers every request that has been read, and closes the connections. When ctx ends first it
// cuts off those that are left and returns an error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for l := range s.listeners {
		_ = l.Close()
	}
	all := s.linksOf(func(*link) bool { return true })
	s.mu.Unlock()
	if err := drainAll(ctx, all); err != nil {
		return fmt.Errorf("nbd: shutting down: %w", err)
	}
	return nil
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}
