package httpapi_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/pki"
	"keyward/broker/internal/store/storetest"
)

// lossy stands between an agent and its broker and cuts the connection when the next replies arrive: the broker has
// committed, and the agent does not know.
type lossy struct {
	url  string
	drop atomic.Int32

	mu   sync.Mutex
	open []net.Conn
}

// cut ends every connection that is open.
func (l *lossy) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
}

func (r *rig) lossy() *lossy {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	l := &lossy{url: "https://" + ln.Addr().String()}
	r.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go l.pass(c, strings.TrimPrefix(r.agentsAt, "https://"))
		}
	}()
	return l
}

func (l *lossy) pass(c net.Conn, to string) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	l.mu.Lock()
	l.open = append(l.open, c)
	l.mu.Unlock()
	go func() { _, _ = io.Copy(s, c) }()
	buf := make([]byte, 64<<10)
	for {
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		if l.drop.Load() > 0 {
			l.drop.Add(-1)
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A reply that is lost after the commit is fetched again by the same call, and nothing happens twice.
func TestLostReply_nothingIsLostAndNothingHappensTwice(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		l := r.lossy()
		key, in := o.enrolment("db1")
		token := o.token(1)
		res, err := client.Enrol(ctx, client.EnrolOptions{URL: l.url, Token: token, Request: in})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(res.Certificate))
		cert := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
		agent := must[*client.Agent](t)(client.NewAgent(client.AgentOptions{URL: l.url, CA: r.ca.CACert(), Cert: cert}))
		t.Cleanup(agent.Close)
		b := &box{org: o, Agent: agent, id: res.InstanceID, host: "db1", cert: cert, held: map[string]bool{}}

		lose := func(f func()) {
			t.Helper()
			if _, err := agent.Devices(ctx); err != nil { // the connection is open: what is cut is the reply
				t.Fatal(err)
			}
			l.drop.Store(1)
			f()
			eq(t, "replies still to be lost", l.drop.Load(), 0)
		}
		var id string
		lose(func() { id = b.publish(disk("data"))["data"].ID })
		eq(t, "devices added", len(o.events("device.added")), 1)
		b.configured(id, "/mnt/data")
		if _, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data"}); err != nil {
			t.Fatal(err)
		}
		c := b.command(api.CommandEncrypt)
		private := must[*client.DeliveryKey](t)(client.NewDeliveryKey())
		nonce := must[api.NonceResponse](t)(b.Nonce(ctx))
		var d api.KeyDelivery
		lose(func() {
			d = must[api.KeyDelivery](t)(b.JobKey(ctx, c.JobID, api.JobKeyRequest{PublicKey: private.PublicKey(), Nonce: nonce.Nonce}))
		})
		volumeKey := must[[]byte](t)(private.Open(d, api.DeliveryBinding{Purpose: "encrypt-job", AccountID: o.id, RequestID: c.JobID,
			DeviceID: id, InstanceID: b.id, Nonce: nonce.Nonce, LeaseSeconds: d.LeaseSeconds}))
		lose(func() {
			if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: b.record(*c.Device, volumeKey)}); err != nil {
				t.Fatal(err)
			}
		})
		eq(t, "encryptions", len(o.events("device.encrypted")), 1)

		body, delivery := b.prepare(id)
		a := &asked{box: b, private: delivery, nonce: body.Nonce}
		lose(func() { a.KeyRequestStatus = must[api.KeyRequestStatus](t)(b.Request(ctx, body)) })
		eq(t, "requests", len(o.events("key-request.pending")), 1)
		a.approve()
		var got []byte
		lose(func() { got = a.collect() })
		if !bytes.Equal(got, volumeKey) {
			t.Fatal("another key")
		}
		eq(t, "deliveries", len(o.events("key-request.delivered")), 1)
		lose(func() { a.report(api.EventMounted) })
		lose(func() { eq(t, "leases", len(b.beat(a).Leases), 1) })
		eq(t, "mounts", len(o.events("key.mounted")), 1)
		a.is(api.KeyDelivered)
	})
}

// The broker is gone between commit and reply. The next one on the same database gives the same sealed answer to the
// same idempotency key, for ten minutes, and to no other.
func TestLostReply_anotherBrokerGivesTheStoredAnswer(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		ca := must[*pki.CA](t)(pki.NewCA("Keyward test", time.Now))
		root := must[keystore.Root](t)(keystore.CreateRootFile(filepath.Join(t.TempDir(), "root.key")))
		one := start(t, dsn, ca, root, "127.0.0.1:0")
		o := one.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID).approve()
		body := must[[]byte](t)(json.Marshal(api.DeliveryRequest{PublicKey: a.private.PublicKey()}))
		status, first := post(t, one, b, a.ID, "key-1", body)
		eq(t, "status", status, 200)
		one.stop()

		two := start(t, dsn, ca, root, "127.0.0.1:0")
		status, second := post(t, two, b, a.ID, "key-1", body)
		if status != 200 || !bytes.Equal(first, second) {
			t.Fatalf("the second broker answers %d %.200s", status, second)
		}
		for what, c := range map[string]struct {
			key, body, slug string
		}{
			"another key":  {"key-2", string(body), "already-delivered"},
			"another body": {"key-1", string(body) + " ", "idempotency-key-reused"},
			"no key":       {"", string(body), "already-delivered"},
			"endless key":  {strings.Repeat("k", 200), string(body), "idempotency-key-invalid"},
		} {
			if status, text := post(t, two, b, a.ID, c.key, []byte(c.body)); status < 400 || !bytes.Contains(text, []byte(c.slug)) {
				t.Errorf("%s: %d %s", what, status, text)
			}
		}
		two.offset.Add(int64(11 * time.Minute))
		if status, text := post(t, two, b, a.ID, "key-1", body); status != 409 || !bytes.Contains(text, []byte("already-delivered")) {
			t.Errorf("after eleven minutes: %d %s", status, text)
		}
	})
}

func post(t *testing.T, r *rig, b *box, id, key string, body []byte) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.agentsAt+strings.Replace(api.PathDelivery, "{id}", id, 1), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set(api.HeaderIdempotencyKey, key)
	}
	res, err := r.browser(b.cert).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode, must[[]byte](t)(io.ReadAll(res.Body))
}
