package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/httpapi"
	"keyward/broker/internal/problem"
)

// TestMain lets the test binary be a broker of its own, for tests that kill it, and the clients of a benchmark.
func TestMain(m *testing.M) {
	if os.Getenv("KEYWARD_TEST_CLIENTS") != "" {
		if err := beClients(os.Stdin, os.Stdout); err != nil {
			slog.Error(err.Error())
			os.Exit(1)
		}
		return
	}
	if text := os.Getenv("KEYWARD_TEST_BROKER"); text != "" {
		c := Defaults()
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			panic(err)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Run(ctx, c); err != nil {
			slog.Error(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// silent drops log lines; tests that look at them use their own logger.
var silent = slog.New(slog.DiscardHandler)

// newConfig sets a broker up with an account "Acme" and returns how to start it.
func newConfig(t testing.TB, dsn string) (Config, *Setup) {
	t.Helper()
	dir := t.TempDir()
	c := Defaults()
	c.Data, c.RootKey, c.DSN, c.Version = filepath.Join(dir, "data"), filepath.Join(dir, "keys", "root.key"), dsn, "v0-test"
	c.PeopleListen, c.AgentListen, c.ServiceURL = "127.0.0.1:0", "127.0.0.1:0", "https://127.0.0.1:8444"
	c.Logger = silent
	setup, err := Init(context.Background(), c, "Acme", "ann", "kim")
	if err != nil {
		t.Fatal(err)
	}
	return c, setup
}

// rig is a broker whose apps listen on ports of their own.
type rig struct {
	t              testing.TB
	b              *Broker
	people, agents string
}

func start(t testing.TB, c Config) *rig {
	t.Helper()
	b, err := New(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, b: b}
	done := make(chan error, 2)
	serve := func(app *fiber.App, tlsConfig *tls.Config) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- app.Listener(httpapi.Secure(ln, tlsConfig, b.config.Clock)) }()
		return "https://" + ln.Addr().String()
	}
	r.people = serve(b.PeopleApp(), b.PeopleTLS())
	r.agents = serve(b.AgentApp(), b.AgentTLS())
	t.Cleanup(func() {
		b.endRequests()
		for _, err := range []error{b.PeopleApp().ShutdownWithTimeout(5 * time.Second), b.AgentApp().ShutdownWithTimeout(5 * time.Second), <-done, <-done, b.Close()} {
			if err != nil {
				t.Errorf("stopping the test's broker: %v", err)
			}
		}
	})
	return r
}

// client trusts the broker's CA and shows the certificates.
func clientOf(t testing.TB, ca []byte, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// person is a client with a session.
type person struct {
	t     testing.TB
	http  *http.Client
	url   string
	token string
}

func (r *rig) stranger() *person {
	return &person{t: r.t, http: clientOf(r.t, r.b.CACert()), url: r.people}
}

func (r *rig) logOn(account string, l Login) *person {
	r.t.Helper()
	p := r.stranger()
	p.logOn(account, l)
	return p
}

func (p *person) logOn(account string, l Login) {
	p.t.Helper()
	var on api.LoggedOn
	if pr := p.call("POST", "/api/v1/sessions", api.LogOn{Account: account, User: l.Name, Password: l.Password}, &on); pr.Status != 201 {
		p.t.Fatalf("log-on of %s: %+v", l.Name, pr)
	}
	p.token = on.Token
}

// call returns the problem; of a success, one that has only a status.
func (p *person) call(method, path string, in, out any, headers ...string) problem.Problem {
	p.t.Helper()
	var body io.Reader
	switch v := in.(type) {
	case nil:
	case string:
		body = strings.NewReader(v)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			p.t.Fatal(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, p.url+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := p.http.Do(req)
	if err != nil {
		return problem.Problem{Detail: err.Error()}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return problem.Problem{Detail: err.Error()}
	}
	if res.StatusCode >= 400 {
		var pr problem.Problem
		if err := json.Unmarshal(b, &pr); err != nil || res.Header.Get("Content-Type") != "application/problem+json" {
			p.t.Errorf("%s %s: %d without a problem document: %s", method, path, res.StatusCode, b)
		}
		pr.Status = res.StatusCode
		return pr
	}
	if w, ok := out.(*[]byte); ok {
		*w = b
	} else if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			p.t.Errorf("%s %s: %v in %s", method, path, err, b)
		}
	}
	return problem.Problem{Status: res.StatusCode}
}
