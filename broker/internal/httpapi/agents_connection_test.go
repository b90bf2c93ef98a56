package httpapi_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
)

// wire is one connection of a machine, on which a test says what is sent.
type wire struct {
	*box
	conn *tls.Conn
	in   *bufio.Reader
}

func (b *box) wire() *wire {
	b.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.ca.CACert())
	conn, err := tls.Dial("tcp", strings.TrimPrefix(b.agentsAt, "https://"), &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{b.cert}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return &wire{b, conn, bufio.NewReader(conn)}
}

// nonce makes a nonce of the connection.
func (w *wire) nonce() string {
	w.t.Helper()
	state := w.conn.ConnectionState()
	var random [api.ConnectionNonceRandom]byte
	rand.Read(random[:])
	return must[string](w.t)(api.ConnectionNonce(&state, random))
}

// request is the body of a key request that answers a nonce.
func (b *box) request(deviceID, nonce string) (api.KeyRequest, *client.DeliveryKey) {
	b.t.Helper()
	private := must[*client.DeliveryKey](b.t)(client.NewDeliveryKey())
	return api.KeyRequest{DeviceID: deviceID, Nonce: nonce, Evidence: b.evidence(nonce), PublicKey: private.PublicKey(), Time: b.now()}, private
}

// ask sends a key request with an idempotency key.
func (w *wire) ask(key string, in api.KeyRequest) (int, []byte) {
	w.t.Helper()
	body := must[[]byte](w.t)(json.Marshal(in))
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.agentsAt+api.PathKeyRequests, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(api.HeaderIdempotencyKey, key)
	if err := req.Write(w.conn); err != nil {
		w.t.Fatal(err)
	}
	res, err := http.ReadResponse(w.in, req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode, must[[]byte](w.t)(io.ReadAll(res.Body))
}

func (w *wire) taken(what string, in api.KeyRequest) {
	w.t.Helper()
	if status, text := w.ask(uuid.NewString(), in); status != http.StatusOK {
		w.t.Errorf("%s: %d %s", what, status, text)
	}
}

func (w *wire) refused(what string, in api.KeyRequest) {
	w.t.Helper()
	if status, text := w.ask(uuid.NewString(), in); status != http.StatusConflict || !bytes.Contains(text, []byte("nonce-refused")) {
		w.t.Errorf("%s: %d %s", what, status, text)
	}
}

func TestAsk_aNonceOfTheConnectionCountsOnceAndOnlyThere(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, _ := b.encrypted("data")
		w := b.wire()
		in, _ := b.request(d.ID, w.nonce())
		w.taken("the first", in)
		w.refused("the same again", in)
		in, _ = b.request(d.ID, w.nonce())
		b.wire().refused("on another connection of the machine", in)
		c.wire().refused("on a connection of another machine", in)
		w.refused("late, after it was refused elsewhere", in)

		in, _ = b.request(d.ID, w.nonce())
		in.Nonce = in.Nonce[:len(in.Nonce)-4] + "AAAA"
		in.Evidence.Nonce = in.Nonce
		w.refused("garbled", in)
		in, _ = b.request(d.ID, api.ConnectionNoncePrefix)
		w.refused("only the prefix", in)
		in, _ = b.request(d.ID, must[api.NonceResponse](t)(b.Nonce(t.Context())).Nonce)
		w.taken("a nonce that was fetched", in)

		r.later(6 * time.Minute)
		in, _ = b.request(d.ID, w.nonce())
		w.refused("the connection is six minutes old", in)
		w = b.wire()
		in, _ = b.request(d.ID, w.nonce())
		w.taken("a new connection", in)
	})
}

// A reply that was lost is fetched on another connection, by the same idempotency key and body. What was not taken is
// refused there, and from then on everywhere: the agent goes on with another request, which the first must not overtake.
func TestAsk_aRepetitionOnAnotherConnectionGetsTheAnswerOrNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		w := b.wire()
		in, _ := b.request(d.ID, w.nonce())
		status, first := w.ask("one", in)
		eq(t, "status", status, http.StatusOK)
		status, second := b.wire().ask("one", in)
		if status != http.StatusOK || !bytes.Equal(first, second) {
			t.Errorf("repeated elsewhere: %d %s, first %s", status, second, first)
		}
		if status, text := b.wire().ask("two", in); status != http.StatusConflict || !bytes.Contains(text, []byte("nonce-refused")) {
			t.Errorf("with another key: %d %s", status, text)
		}
		eq(t, "requests", len(o.events("key-request.pending")), 1)

		in, _ = b.request(d.ID, w.nonce())
		for what, on := range map[string]*wire{"elsewhere": b.wire(), "elsewhere again": b.wire()} {
			if status, text := on.ask("three", in); status != http.StatusConflict || !bytes.Contains(text, []byte("nonce-refused")) {
				t.Fatalf("%s: %d %s", what, status, text)
			}
		}
		if status, text := w.ask("three", in); status != http.StatusConflict || !bytes.Contains(text, []byte("nonce-refused")) {
			t.Errorf("late: %d %s", status, text)
		}
		eq(t, "requests", len(o.events("key-request.pending")), 1)
	})
}

// asking asks as agents do and counts how often evidence was collected. before runs when it was, the request still here.
func (b *box) asking(deviceID string, before func(nonce string)) (*asked, int) {
	b.t.Helper()
	a, collected := &asked{box: b}, 0
	a.KeyRequestStatus = must[api.KeyRequestStatus](b.t)(b.Ask(b.t.Context(), func(nonce string) (api.KeyRequest, error) {
		collected++
		var in api.KeyRequest
		in, a.private = b.request(deviceID, nonce)
		a.nonce = nonce
		before(nonce)
		return in, nil
	}))
	return a, collected
}

func TestAsk_oneCallBringsTheRequest(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, key := b.encrypted("data")
		nonces := r.calls.count("POST " + api.PathNonce)
		for n := 1; n <= 3; n++ { // on one connection, each with a nonce of its own
			a, collected := b.asking(d.ID, func(string) {})
			eq(t, "evidence collected", collected, 1)
			eq(t, "requests", r.calls.count("POST "+api.PathKeyRequests), n)
			if n == 3 && !bytes.Equal(a.approve().collect(), key) {
				t.Error("another key")
			}
		}
		eq(t, "nonces fetched", r.calls.count("POST "+api.PathNonce), nonces)

		r.later(6 * time.Minute) // the broker's clock: the agent thinks its connection young
		_, collected := b.asking(d.ID, func(string) {})
		eq(t, "evidence collected, the connection too old", collected, 2)
		eq(t, "nonces fetched, the connection too old", r.calls.count("POST "+api.PathNonce), nonces+1)
	})
}

func TestAsk_aLostReplyOrConnectionCostsNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		l := r.lossy()
		agent := must[*client.Agent](t)(client.NewAgent(client.AgentOptions{URL: l.url, CA: r.ca.CACert(), Cert: b.cert}))
		t.Cleanup(agent.Close)
		b.Agent = agent
		pending := func() int { return len(o.events("key-request.pending")) }

		b.asking(d.ID, func(string) {}) // the connection is open: what is cut is the reply
		eq(t, "requests", pending(), 1)
		a, collected := b.asking(d.ID, func(string) { l.drop.Store(1) })
		eq(t, "replies still to be lost", l.drop.Load(), 0)
		eq(t, "evidence collected, the reply lost", collected, 1)
		eq(t, "requests, the reply lost", pending(), 2)
		a.is(api.KeyPending)

		first := ""
		a, collected = b.asking(d.ID, func(nonce string) {
			if first == "" {
				first = nonce
				l.cut()
			}
		})
		eq(t, "evidence collected, the connection lost", collected, 2)
		eq(t, "requests, the connection lost", pending(), 3)
		if !strings.HasPrefix(first, api.ConnectionNoncePrefix) || strings.HasPrefix(a.nonce, api.ConnectionNoncePrefix) {
			t.Errorf("asked with %q and then %q", first, a.nonce)
		}
		_, collected = b.asking(d.ID, func(string) {})
		eq(t, "evidence collected afterwards", collected, 1)
	})
}
