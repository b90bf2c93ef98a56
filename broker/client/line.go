package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"time"

	"keyward/broker/api"
)

const (
	// idleLines and idleTime bound the connections that nobody uses, of lines and of other calls alike.
	idleLines = 4
	idleTime  = 60 * time.Second
	// youngLine is how old a line may be when a nonce is made of it; the other half of its life is for the evidence.
	youngLine = api.NonceLife / 2
)

// line is a connection that one call has for itself, because the call answers for the connection.
type line struct {
	conn  *http.ClientConn
	state tls.ConnectionState
	since time.Time // before it was dialled: the broker never thinks it older
	used  time.Time // guarded by lines.mu
	// left says that a repetition of the call went another way, since the connection was gone.
	left bool
}

// nonce makes another nonce of the connection.
func (l *line) nonce() (string, error) {
	var random [api.ConnectionNonceRandom]byte
	rand.Read(random[:])
	return api.ConnectionNonce(&l.state, random)
}

// open says whether a call can still go out on the connection.
func (l *line) open() bool { return l.conn.Err() == nil }

// lines is the transport of a caller: one of net/http, and beside it connections that were opened for one call and serve
// all others afterwards. Nobody who opens none notices any of it. It is safe for concurrent use.
type lines struct {
	calls  *http.Transport
	direct *http.Transport // dials lines

	mu   sync.Mutex
	idle []*line // or in use by an ordinary call
}

var errProxied = errors.New("a proxy is on the way to the broker")

// newLines makes the transport. Lines are dialled as calls dials its connections, but never through a proxy.
func newLines(calls *http.Transport) *lines {
	direct := calls.Clone()
	direct.Proxy = nil
	return &lines{calls: calls, direct: direct}
}

// take returns a connection to the broker that nobody else uses until put. It is young enough to make a nonce of it.
func (p *lines) take(ctx context.Context, broker *url.URL) (*line, error) {
	if l := p.young(); l != nil {
		return l, nil
	}
	proxy, err := p.calls.Proxy(&http.Request{Method: http.MethodPost, URL: broker, Host: broker.Host, Header: http.Header{}})
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		return nil, errProxied
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l := &line{since: time.Now()}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{TLSHandshakeDone: func(s tls.ConnectionState, _ error) { l.state = s }})
	port := broker.Port()
	if port == "" {
		port = "443"
	}
	if l.conn, err = p.direct.NewClientConn(ctx, broker.Scheme, net.JoinHostPort(broker.Hostname(), port)); err != nil {
		return nil, err
	}
	return l, nil
}

func (p *lines) young() *line {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, l := range p.idle {
		if time.Since(l.since) < youngLine && l.conn.Reserve() == nil {
			l.conn.Release()
			p.idle = slices.Delete(p.idle, i, i+1)
			return l
		}
	}
	return nil
}

// put hands a connection on to other calls.
func (p *lines) put(l *line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.open() {
		return
	}
	if len(p.idle) >= idleLines {
		l.conn.Close()
		return
	}
	l.left, l.used = false, time.Now()
	p.idle = append(p.idle, l)
}

// reserve returns a connection for one call, nil where there is none.
func (p *lines) reserve() *line {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.idle = slices.DeleteFunc(p.idle, func(l *line) bool {
		if l.conn.Available() == 0 { // in use, or gone
			l.used = now
			return !l.open()
		}
		if now.Sub(l.used) > idleTime {
			l.conn.Close()
			return true
		}
		return false
	})
	for _, l := range p.idle {
		if l.conn.Reserve() == nil {
			l.used = now
			return l
		}
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (p *lines) RoundTrip(req *http.Request) (*http.Response, error) {
	l := p.reserve()
	if l == nil {
		return p.calls.RoundTrip(req)
	}
	res, err := l.conn.RoundTrip(req)
	if err == nil || req.Context().Err() != nil || req.GetBody == nil {
		return res, err
	}
	// The broker may close an idle connection at any moment. As net/http does, what may be repeated is sent again at once;
	// of an agent's calls that is all.
	body, bodyErr := req.GetBody()
	if bodyErr != nil {
		return nil, err
	}
	again := req.Clone(req.Context())
	again.Body = body
	return p.calls.RoundTrip(again)
}

// CloseIdleConnections drops what nobody uses now, and what is in use after that.
func (p *lines) CloseIdleConnections() {
	p.calls.CloseIdleConnections()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.idle {
		if l.conn.Reserve() == nil {
			l.conn.Close()
			continue
		}
		l.conn.SetStateHook(func(c *http.ClientConn) {
			if c.Available() > 0 {
				c.Close()
			}
		})
	}
	p.idle = nil
}
