package challenge

import (
	"crypto/tls"
	"encoding/base64"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/pki"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// connection is what the two ends of a real TLS connection know of it.
type connection struct{ machine, broker tls.ConnectionState }

// connect makes a connection of a version of TLS.
func connect(t testing.TB, version uint16) connection {
	t.Helper()
	ca, err := pki.NewCA("test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := ca.IssueServer([]string{"broker.test"})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	client := tls.Client(near, &tls.Config{RootCAs: ca.Pool(), ServerName: "broker.test", MinVersion: version, MaxVersion: version})
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}, MinVersion: version, MaxVersion: version,
		SessionTicketsDisabled: true}) // nobody reads one from the pipe
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()) }()
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return connection{client.ConnectionState(), server.ConnectionState()}
}

// nonce is the machine's nonce of the connection for a byte of its choice.
func (c connection) nonce(t testing.TB, choice byte) string {
	t.Helper()
	value, err := api.ConnectionNonce(&c.machine, [api.ConnectionNonceRandom]byte{choice})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestIssuer_aNonceOfTheConnectionCountsOnceOnItInItsTime(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		var offset atomic.Int64
		st := storetest.Open(t, dsn, func() time.Time { return time.Now().Add(time.Duration(offset.Load())) })
		p, i := enrolled(t, st), New(nil)
		on := func(c connection, began time.Time) tenant.Principal {
			p := p
			p.Connection = &tenant.Connection{State: &c.broker, Began: began}
			return p
		}
		spend := func(p tenant.Principal, value string) error {
			_, err := idempotency.Tx(t.Context(), st, p.AccountID, idempotency.Call{}, func(t *store.Tenant) (struct{}, error) {
				return struct{}{}, i.Spend(t, p, value)
			})
			return err
		}
		one, two := connect(t, tls.VersionTLS13), connect(t, tls.VersionTLS13)
		here, there := on(one, st.Now()), on(two, st.Now())

		wantCount(t, "on another connection", spend(there, one.nonce(t, 8)), false)
		wantCount(t, "refused elsewhere, and late on its connection", spend(here, one.nonce(t, 8)), false)
		wantCount(t, "without a connection", spend(p, one.nonce(t, 9)), false)
		wantCount(t, "on its connection", spend(here, one.nonce(t, 1)), true)
		wantCount(t, "the same again", spend(here, one.nonce(t, 1)), false)
		wantCount(t, "the same choice on another connection", spend(there, two.nonce(t, 1)), true)
		wantCount(t, "another choice on the same connection", spend(here, one.nonce(t, 2)), true)
		wantCount(t, "one that the broker gave, on a connection", spend(here, i.Give(p, st.Now())), true)

		wantCount(t, "in the last minute of its time", spend(on(one, st.Now().Add(time.Minute-Life)), one.nonce(t, 3)), true)
		wantCount(t, "of a connection that is too old", spend(on(one, st.Now().Add(-Life)), one.nonce(t, 4)), false)
		offset.Store(int64(Life + time.Second))
		wantCount(t, "of a connection that grew too old", spend(here, one.nonce(t, 5)), false)
		wantCount(t, "one that was used, after all are forgotten", func() error {
			if err := st.Tx(t.Context(), func(tx *store.Tx) error { return Clean(tx.Tenant(p.AccountID)) }); err != nil {
				t.Fatal(err)
			}
			return spend(here, one.nonce(t, 1))
		}(), false)
	})
}

func TestIssuer_aNonceOfTheConnectionCountsOnlyWhole(t *testing.T) {
	t.Parallel()
	i, c := New(nil), connect(t, tls.VersionTLS13)
	p := tenant.Principal{AccountID: "a", Instance: "i", Connection: &tenant.Connection{State: &c.broker, Began: time.Now()}}
	value := c.nonce(t, 7)
	if _, ok := i.verify(p, value); !ok {
		t.Fatal("the whole one does not count")
	}
	text := strings.TrimPrefix(value, api.ConnectionNoncePrefix)
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for at := range raw {
		changed := append([]byte{}, raw...)
		changed[at] ^= 1
		if _, ok := i.verify(p, api.ConnectionNoncePrefix+base64.RawURLEncoding.EncodeToString(changed)); ok {
			t.Errorf("byte %d changed and it counts", at)
		}
	}
	for what, odd := range map[string]string{"only the prefix": api.ConnectionNoncePrefix, "no prefix": text, "another prefix": "tls2." + text,
		"cut off": value[:len(value)-1], "longer": value + "A", "padded": value + "=", "a line more": value + "\n", "a line within": value[:20] + "\n" + value[21:],
		"standard base64": strings.Replace(value, value[30:31], "+", 1)} {
		if _, ok := i.verify(p, odd); ok {
			t.Errorf("%s: it counts", what)
		}
	}
}

// Below TLS 1.3 what is exported need not be one connection's alone (RFC 9266), whatever a listener allows.
func TestConnectionNonce_needsTLS13(t *testing.T) {
	t.Parallel()
	c := connect(t, tls.VersionTLS12)
	for what, state := range map[string]*tls.ConnectionState{"TLS 1.2": &c.machine, "its other end": &c.broker, "no handshake": {}, "nothing": nil} {
		if value, err := api.ConnectionNonce(state, [api.ConnectionNonceRandom]byte{}); err == nil || value != "" {
			t.Errorf("%s: %q, %v", what, value, err)
		}
	}
}
