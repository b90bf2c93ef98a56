package client

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
)

// asking is an agent and a broker that judges nonces and notes what came.
type asking struct {
	t     *testing.T
	agent *Agent
	calls *atomic.Int64

	mu    sync.Mutex
	older bool // the broker knows no nonces of connections
	// busy answers a key request in place of the broker where it returns true. n counts from 1.
	busy  func(n int, w http.ResponseWriter) bool
	given string
	// from and keys are the connections and idempotency keys of what came, but nonces.
	from, keys []string
	// answered are the nonces for which evidence was collected.
	answered []string
}

func newAsking(t *testing.T) *asking {
	t.Helper()
	a := &asking{t: t, given: "given"}
	a.agent, _, a.calls = broker(t, a.serve)
	return a
}

func (a *asking) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.URL.Path == api.PathNonce {
		_ = json.NewEncoder(w).Encode(api.NonceResponse{Nonce: a.given})
		return
	}
	a.from, a.keys = append(a.from, r.RemoteAddr), append(a.keys, r.Header.Get(api.HeaderIdempotencyKey))
	if r.URL.Path != api.PathKeyRequests {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if a.busy != nil && a.busy(len(a.from), w) {
		return
	}
	var in api.KeyRequest
	if json.NewDecoder(r.Body).Decode(&in) != nil || in.Nonce != a.given && (a.older || in.Nonce != nonceOf(r, in.Nonce)) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(Problem{Type: "urn:keyward:problem:nonce-refused", Title: "The nonce does not count"})
		return
	}
	_ = json.NewEncoder(w).Encode(api.KeyRequestStatus{ID: in.Nonce})
}

// nonceOf is the nonce of the request's connection with the random part of another.
func nonceOf(r *http.Request, other string) string {
	raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(other, api.ConnectionNoncePrefix))
	if len(raw) < api.ConnectionNonceRandom {
		return ""
	}
	nonce, _ := api.ConnectionNonce(r.TLS, [api.ConnectionNonceRandom]byte(raw))
	return nonce
}

// ask asks for a key; the answer must be to the nonce for which evidence was collected last.
func (a *asking) ask(while func()) error {
	a.t.Helper()
	last := ""
	out, err := a.agent.Ask(a.t.Context(), func(nonce string) (api.KeyRequest, error) {
		last = nonce
		a.answered = append(a.answered, nonce)
		while()
		return api.KeyRequest{Nonce: nonce}, nil
	})
	if err == nil && out.ID != last {
		a.t.Errorf("the answer is to %q, asked was with %q", out.ID, last)
	}
	return err
}

// did fails unless so many calls were made, for evidence that was collected for so many nonces, since it was last called.
func (a *asking) did(calls int64, nonces int) {
	a.t.Helper()
	if got := a.calls.Swap(0); got != calls || len(a.answered) != nonces {
		a.t.Errorf("%d calls and evidence for %q, want %d calls and %d nonces", got, a.answered, calls, nonces)
	}
	a.answered = nil
}

func nothing() {}

func TestAsk_isOneCallAndItsConnectionServesOthers(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	var nonces []string
	for range 3 {
		if err := a.ask(nothing); err != nil {
			t.Fatal(err)
		}
		nonces = append(nonces, a.answered...)
		a.did(1, 1)
		if err := a.agent.Report(t.Context(), "r", api.RequestEvent{}); err != nil {
			t.Fatal(err)
		}
		a.did(1, 0)
	}
	if len(slices.Compact(a.from)) != 1 {
		t.Errorf("several connections were made: %v", a.from)
	}
	slices.Sort(nonces)
	if len(slices.Compact(nonces)) != 3 {
		t.Errorf("a nonce came twice: %v", nonces)
	}
	a.agent.Close()
	if err := a.agent.Report(t.Context(), "r", api.RequestEvent{}); err != nil || a.from[len(a.from)-1] == a.from[0] {
		t.Errorf("after Close the old connection is used: %v, %v", a.from, err)
	}
}

// Who asks has the connection alone; calls at the same time go out on others.
func TestAsk_isNotInTheWayOfOtherCalls(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	if err := a.ask(func() {
		if err := a.agent.Report(t.Context(), "r", api.RequestEvent{}); err != nil {
			t.Error(err)
		}
		if err := a.askInside(); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	seen := slices.Clone(a.from)
	slices.Sort(seen)
	if len(seen) != 3 || len(slices.Compact(seen)) != 3 {
		t.Errorf("want three connections: %v", a.from)
	}
}

func (a *asking) askInside() error {
	_, err := a.agent.Ask(a.t.Context(), func(nonce string) (api.KeyRequest, error) { return api.KeyRequest{Nonce: nonce}, nil })
	return err
}

func TestAsk_aBusyBrokerIsAskedAgainOnTheSameConnection(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	a.busy = func(n int, w http.ResponseWriter) bool {
		if n < 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return n < 4
	}
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	a.did(4, 1)
	if len(slices.Compact(a.from)) != 1 || len(slices.Compact(a.keys)) != 1 {
		t.Errorf("connections %v, idempotency keys %v", a.from, a.keys)
	}
}

// The same call is repeated on a new connection first, because it may have been carried out; only then is evidence
// collected for another nonce.
func TestAsk_aBrokenConnectionIsNotForEver(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	a.busy = func(n int, w http.ResponseWriter) bool {
		if n == 1 {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	a.did(4, 2) // broken, refused, nonce, taken
	if a.keys[0] != a.keys[1] || a.keys[1] == a.keys[2] || a.from[0] == a.from[1] {
		t.Errorf("connections %v, idempotency keys %v", a.from, a.keys)
	}
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	a.did(1, 1)
}

func TestAsk_anOlderBrokerGivesTheNonce(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	a.older = true
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	a.did(3, 2)
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	a.did(2, 1) // it is remembered
}

func TestAsk_isNeverRefusedMoreThanTwice(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	a.older = true
	a.busy = func(n int, w http.ResponseWriter) bool {
		a.given = strconv.Itoa(n) // and so the one that was given before does not count
		return false
	}
	if err := a.ask(nothing); !Is(err, "nonce-refused") {
		t.Fatalf("%v, want the refusal", err)
	}
	a.did(3, 2)
}

func TestAsk_anotherRefusalIsFinal(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	a.busy = func(_ int, w http.ResponseWriter) bool { w.WriteHeader(http.StatusForbidden); return true }
	if err := a.ask(nothing); StatusOf(err) != http.StatusForbidden {
		t.Fatal(err)
	}
	a.did(1, 1)
	own := errors.New("no evidence")
	_, err := a.agent.Ask(t.Context(), func(string) (api.KeyRequest, error) { return api.KeyRequest{}, own })
	if !errors.Is(err, own) {
		t.Errorf("%v, want the collector's error", err)
	}
	a.did(0, 0)
}

func TestAsk_nothingIsDialledPastAProxy(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	a.agent.call.lines.calls.Proxy = func(r *http.Request) (*url.URL, error) {
		if r.URL.Host != a.agent.call.base.Host {
			t.Errorf("asked for the proxy of %q", r.URL.Host)
		}
		return url.Parse("http://127.0.0.1:1")
	}
	if _, err := a.agent.call.lines.take(t.Context(), a.agent.call.base); !errors.Is(err, errProxied) {
		t.Errorf("%v, want that a proxy is on the way", err)
	}
	var op *net.OpError
	if err := a.ask(nothing); !errors.As(err, &op) || op.Op != "proxyconnect" {
		t.Errorf("%v, want that the proxy was asked", err)
	}
	a.did(0, 0)
}

func TestAsk_aBrokerThatIsGoneIsAnErrorAsOfAnyCall(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	a := newAsking(t)
	a.agent.call.base.Host = ln.Addr().String()
	_, want := a.agent.Nonce(t.Context())
	if got := a.ask(nothing); want == nil || got == nil || got.Error() != want.Error() {
		t.Errorf("%v, want %v", got, want)
	}
	a.did(0, 0)
}

// A connection that was idle for long is not used again, nor one that is too old for a nonce of it.
func TestLines_areYoungAndInUse(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	lines := a.agent.call.lines
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	lines.idle[0].since = time.Now().Add(-youngLine)
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	if a.from[0] == a.from[1] || len(lines.idle) != 2 {
		t.Errorf("an old connection gave a nonce: %v", a.from)
	}
	for _, l := range lines.idle {
		l.used = time.Now().Add(-2 * idleTime)
	}
	if err := a.agent.Report(t.Context(), "r", api.RequestEvent{}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(a.from[:2], a.from[2]) || len(lines.idle) != 0 {
		t.Errorf("a connection that was idle for long is used: %v", a.from)
	}
	for range 2 * idleLines {
		l, err := lines.take(t.Context(), a.agent.call.base)
		if err != nil {
			t.Fatal(err)
		}
		defer lines.put(l)
	}
	t.Cleanup(func() {
		if len(lines.idle) != idleLines {
			t.Errorf("%d connections are kept, want %d", len(lines.idle), idleLines)
		}
	})
}

// What is sent on a connection that the broker has just closed is sent again at once, as net/http does it.
func TestLines_aConnectionThatWasClosedWhileIdleIsNoError(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	a.agent.call.pause = nil // no attempt but the first
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	l := a.agent.call.lines.idle[0]
	a.busy = func(n int, w http.ResponseWriter) bool {
		if n == 2 {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	in := api.KeyRequest{Nonce: "given"}
	if _, err := a.agent.Request(t.Context(), in); err != nil || a.from[1] != a.from[0] || a.from[2] == a.from[0] || a.keys[1] != a.keys[2] {
		t.Errorf("%v over %v with keys %v", err, a.from, a.keys)
	}
	if l.open() {
		t.Error("the connection still counts as open")
	}
}

// A new certificate must show: connections of the former one end with the call that they carry.
func TestLines_closeEndsWhatIsInUseAfterItsCall(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	if err := a.ask(nothing); err != nil {
		t.Fatal(err)
	}
	l := a.agent.call.lines.idle[0]
	came, finish := make(chan struct{}), make(chan struct{})
	a.busy = func(int, http.ResponseWriter) bool { close(came); <-finish; return false }
	done := make(chan error, 1)
	go func() {
		_, err := a.agent.Request(t.Context(), api.KeyRequest{Nonce: "given"})
		done <- err
	}()
	<-came
	a.agent.Close()
	if !l.open() {
		t.Error("the call was cut off")
	}
	close(finish)
	if err := <-done; err != nil || a.from[0] != a.from[1] {
		t.Errorf("%v over %v", err, a.from)
	}
	for end := time.Now().Add(time.Minute); l.open(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection stays open")
		}
	}
}
