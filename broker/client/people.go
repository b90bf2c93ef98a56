package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"keyward/broker/api"
)

// People calls the people's interface of one broker with a session. It is safe for concurrent use.
type People struct {
	call  *caller
	mu    sync.Mutex
	token string
}

// NewPeople prepares a person's calls to https://HOST[:PORT]; it sends nothing. An empty CA means the system's roots.
func NewPeople(base string, caPEM []byte) (*People, error) {
	roots, err := rootsOf(caPEM)
	if err != nil {
		return nil, err
	}
	c, err := newCaller(base, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, nil, "keyward-client")
	if err != nil {
		return nil, err
	}
	c.writeOnce = true
	p := &People{call: c}
	c.headers = func(h http.Header) {
		if t := p.Token(); t != "" {
			h.Set("Authorization", "Bearer "+t)
		}
	}
	return p, nil
}

// Token is the session's token, empty before LogOn.
func (p *People) Token() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.token
}

// UseToken continues a session that was opened elsewhere.
func (p *People) UseToken(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.token = token
}

// Close drops idle connections; the session stays.
func (p *People) Close() { p.call.http.CloseIdleConnections() }

// Do calls any path of the interface, such as "/api/v1/users". in and out are JSON bodies; either may be nil.
func (p *People) Do(ctx context.Context, method, path string, in, out any) error {
	u, err := url.Parse(path)
	if err != nil {
		return fmt.Errorf("path %q: %w", path, err)
	}
	return p.call.do(ctx, call{method: method, path: u.Path, query: u.Query(), in: in, out: out})
}

// Download writes the body of an answer to w.
func (p *People) Download(ctx context.Context, method, path string, in any, w io.Writer) error {
	u, err := url.Parse(path)
	if err != nil {
		return fmt.Errorf("path %q: %w", path, err)
	}
	return p.call.do(ctx, call{method: method, path: u.Path, query: u.Query(), in: in, raw: w, accept: "*/*"})
}

// LogOn opens a session and uses it from now on.
func (p *People) LogOn(ctx context.Context, in api.LogOn) (out api.LoggedOn, err error) {
	if err := p.Do(ctx, http.MethodPost, "/api/v1/sessions", in, &out); err != nil {
		return out, err
	}
	p.UseToken(out.Token)
	return out, nil
}

// LogOff closes the session.
func (p *People) LogOff(ctx context.Context) error {
	err := p.Do(ctx, http.MethodDelete, "/api/v1/sessions/current", nil, nil)
	if err == nil {
		p.UseToken("")
	}
	return err
}

// CreateToken makes an enrolment token; its text is only in this answer.
func (p *People) CreateToken(ctx context.Context, in api.EnrolmentTokenWrite) (out api.EnrolmentTokenInfo, err error) {
	return out, p.Do(ctx, http.MethodPost, "/api/v1/enrolment-tokens", in, &out)
}

// Account describes the account of the session.
func (p *People) Account(ctx context.Context) (out api.Account, err error) {
	return out, p.Do(ctx, http.MethodGet, "/api/v1/account", nil, &out)
}

// AuditExport writes the account's whole log to w as JSON Lines, as `keyward-broker audit verify` reads it.
func (p *People) AuditExport(ctx context.Context, w io.Writer) error {
	return p.Download(ctx, http.MethodGet, "/api/v1/audit/export", nil, w)
}
