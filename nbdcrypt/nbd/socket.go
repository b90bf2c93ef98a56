package nbd

import (
	"net"
	"time"
)

// transport is a connection in its transmission phase: a socket outside the runtime's poller where that is possible, the
// net.Conn itself elsewhere, as for TLS.
type transport interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	Close() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// vectorWriter is a transport that sends many pieces in one system call.
type vectorWriter interface {
	// writeAll sends all pieces, which it may change.
	writeAll(pieces [][]byte) error
}

// gather is the vectorWriter of connections that the net package can send many pieces on.
type gather struct {
	conn    net.Conn
	pending net.Buffers
}

func (g *gather) writeAll(pieces [][]byte) error {
	g.pending = pieces // net.Buffers consumes the slice it is given
	_, err := g.pending.WriteTo(g.conn)
	return err
}
