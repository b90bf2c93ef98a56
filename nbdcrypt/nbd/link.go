package nbd

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// link is a connection as the server sees it: something to drain and to cut off, whatever phase it is in.
type link struct {
	srv    *Server
	conn   net.Conn
	client bool
	// gone is closed when nothing of the connection is left, inside the device included.
	gone chan struct{}
	// unwatch ends the watch on the context.
	unwatch func() bool

	// Guarded by the server's lock. target and session are set when transmission begins.
	target   *target
	session  *session
	draining bool
	// severed is set by cut.
	severed bool
}

// connect registers conn, which is closed when that is refused.
func (s *Server) connect(ctx context.Context, conn net.Conn, client bool) (*link, error) {
	l := &link{srv: s, conn: conn, client: client, gone: make(chan struct{})}
	s.mu.Lock()
	switch {
	case s.closing:
		s.mu.Unlock()
		_ = conn.Close()
		return nil, fmt.Errorf("nbd: %w", ErrServerClosed)
	case client && s.clients >= s.opts.MaxConns:
		s.mu.Unlock()
		_ = conn.Close()
		return nil, fmt.Errorf("nbd: %w (%d)", ErrTooManyConnections, s.opts.MaxConns)
	}
	if client {
		s.clients++
	}
	s.links[l] = struct{}{}
	s.mu.Unlock()
	l.unwatch = context.AfterFunc(ctx, l.cut)
	return l, nil
}

// disconnect ends what connect began.
func (l *link) disconnect() {
	l.unwatch()
	_ = l.conn.Close()
	l.srv.mu.Lock()
	delete(l.srv.links, l)
	if l.client {
		l.srv.clients--
	}
	l.srv.mu.Unlock()
	close(l.gone)
}

// transmit serves the transmission phase on conn, which is l's own or TLS on top of it.
func (l *link) transmit(conn net.Conn, t *target, agreed terms, rd *wireReader, stall time.Duration) error {
	wire := transport(conn)
	abort := io.Closer(l.conn)
	if conn == l.conn {
		wire = takeOver(conn)
		abort = wire
	}
	defer wire.Close()
	s := newSession(l.srv, wire, t, agreed, rd, stall)
	s.abortConn = abort
	l.srv.mu.Lock()
	// The export may have been removed, or the server told to drain, since the handshake looked it up.
	if l.draining || l.severed || l.client && l.srv.exports[t.Name] != t {
		l.srv.mu.Unlock()
		return nil
	}
	l.target, l.session = t, s
	l.srv.mu.Unlock()
	err := s.serve()
	if s.unread && l.client {
		linger(wire)
	}
	if err != nil {
		return fmt.Errorf("nbd: export %q: %w", t.Name, err)
	}
	return nil
}

// lingerTime is how long linger waits for the client to hang up.
const lingerTime = 500 * time.Millisecond

// linger says that nothing more will come and throws away what the client still sends. Without it, closing a connection
// with unread requests resets it, and over TCP a reset overtakes replies that are still on their way. It is not for
// socket pairs, whose unread requests a successor of this process answers.
func linger(conn transport) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, conn)
}

// drain asks the connection to end after the requests it has read.
func (l *link) drain() {
	l.srv.mu.Lock()
	l.draining = true
	s := l.session
	l.srv.mu.Unlock()
	if s == nil {
		// Nothing has been promised during a handshake.
		_ = l.conn.Close()
		return
	}
	s.rd.drain()
}

// cut ends the connection at once.
func (l *link) cut() {
	l.srv.mu.Lock()
	l.severed = true
	s := l.session
	l.srv.mu.Unlock()
	if s != nil {
		s.abort()
	}
	_ = l.conn.Close()
}

// linksOf collects links; the lock is held.
func (s *Server) linksOf(want func(*link) bool) []*link {
	var found []*link
	for l := range s.links {
		if want(l) {
			found = append(found, l)
		}
	}
	return found
}

// drainAll drains links and waits until they are gone; those that are left when ctx ends are cut off.
func drainAll(ctx context.Context, links []*link) error {
	for _, l := range links {
		l.drain()
	}
	for i, l := range links {
		select {
		case <-l.gone:
		case <-ctx.Done():
			left := 0
			for _, l := range links[i:] {
				select {
				case <-l.gone:
				default:
					left++
					l.cut()
				}
			}
			if left == 0 {
				return nil
			}
			return fmt.Errorf("%d connections had requests under way and were cut off: %w", left, ctx.Err())
		}
	}
	return nil
}
