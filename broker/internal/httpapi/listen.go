package httpapi

import (
	"crypto/tls"
	"io"
	"net"
	"time"
)

// What a closing connection still takes from its peer.
const (
	lingerTime  = time.Second
	lingerBytes = 16 << 20
)

// Secure makes a TLS listener on top of a TCP one. Its connections close in a way that lets the peer read the answer: a
// client that sends a body that is too large would otherwise see a reset connection instead of the problem document. By
// the clock they know when they began.
func Secure(ln net.Listener, config *tls.Config, clock func() time.Time) net.Listener {
	return tls.NewListener(lingering{ln, clock}, config)
}

type lingering struct {
	net.Listener
	clock func() time.Time
}

func (l lingering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		return &lingeringConn{tcp, l.clock()}, nil
	}
	return c, nil
}

type lingeringConn struct {
	*net.TCPConn
	began time.Time
}

// began is when a connection of Secure was accepted, before its handshake.
func began(c net.Conn) (time.Time, bool) {
	secure, ok := c.(*tls.Conn)
	if !ok {
		return time.Time{}, false
	}
	l, ok := secure.NetConn().(*lingeringConn)
	if !ok {
		return time.Time{}, false
	}
	return l.began, true
}

// Close ends our side at once, and the whole connection when the peer has ended its side or a second has passed. Unread
// bytes at the time of the last close would make the kernel reset the connection and drop the answer.
func (c *lingeringConn) Close() error {
	if err := c.CloseWrite(); err != nil {
		return c.TCPConn.Close()
	}
	go func() {
		defer c.TCPConn.Close()
		if c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.CopyN(io.Discard, c.TCPConn, lingerBytes)
		}
	}()
	return nil
}
