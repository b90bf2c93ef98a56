// Package brokertest is a broker in the test's own process: real mutual TLS, the agents' protocol of
// docs/agent-protocol.md, and no policy but what the test decides. It is not the broker and shares no code with it, so
// that agent tests judge the agent by the document.
package brokertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/client/recovery"
)

// AccountName and BrokerName are what the broker says of itself.
const (
	AccountName = "Example"
	BrokerName  = "broker.test"
)

// Broker is one fake broker. Its fields may be set before the first call.
type Broker struct {
	t         testing.TB
	AccountID string
	Lease     int64 // seconds
	Heartbeat int64 // seconds
	// Approve decides about a new request at once; nil leaves it pending.
	Approve func(api.KeyRequest) bool
	// Tamper may change a delivery before it is sent.
	Tamper func(*api.KeyDelivery)

	ca      *x509.Certificate
	caKey   *ecdsa.PrivateKey
	secret  string
	server  *httptest.Server
	address string

	mu       sync.Mutex
	wake     chan struct{} // closed and replaced at every change
	down     bool
	devices  []*Device
	requests []*Request
	jobs     []*Job
	nonces   map[string]bool // false once they are used
	given    int
	number   int64
	beats    []api.Heartbeat
	reports  []api.InventoryReport
	records  []api.OfflineRecord
	sealTo   *recovery.PublicKey
	pool     map[string]bool // devices in whose place another was given
}

// Device is a device as the broker has it.
type Device struct {
	api.AssignedDevice
	Key []byte // every byte inverted: a test may search the memory that this broker lives in
}

// Request is a key request.
type Request struct {
	api.KeyRequestStatus
	Asked     api.KeyRequest
	Events    []api.RequestEvent
	Revoke    api.RevokeMode // not empty: the agent is asked to give the key up
	collected bool
}

// Job is an encrypt job.
type Job struct {
	ID, DeviceID string
	Destroy      bool
	Progress     []api.JobProgress
	Taken        int
	silent       time.Time
}

// New starts a broker that ends with the test.
func New(t testing.TB) *Broker {
	b := &Broker{t: t, AccountID: uuid.NewString(), Lease: 60, Heartbeat: 1, wake: make(chan struct{}), nonces: map[string]bool{}, number: 100}
	b.secret = base64.RawURLEncoding.EncodeToString(random(32))
	b.makeCA()
	b.Start()
	t.Cleanup(b.Stop)
	return b
}

// Start listens, on the former address after a Stop.
func (b *Broker) Start() {
	b.t.Helper()
	b.server = httptest.NewUnstartedServer(b.routes())
	b.server.EnableHTTP2 = false
	b.server.Config.ErrorLog = discardLog()
	if b.address != "" {
		b.server.Listener.Close()
		l, err := net.Listen("tcp", b.address)
		if err != nil {
			b.t.Fatalf("start the broker again: %v", err)
		}
		b.server.Listener = l
	}
	pool := x509.NewCertPool()
	pool.AddCert(b.ca)
	b.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven,
		Certificates: []tls.Certificate{b.serverCert()}}
	b.server.StartTLS()
	b.address = b.server.Listener.Addr().String()
	b.mu.Lock()
	b.down = false
	b.mu.Unlock()
}

// Stop ends the broker as a crash would: connections break, the state stays.
func (b *Broker) Stop() {
	b.mu.Lock()
	was := b.down
	b.down = true
	b.changed()
	b.mu.Unlock()
	if was {
		return
	}
	b.server.CloseClientConnections()
	b.server.Close()
}

// URL is the agents' interface.
func (b *Broker) URL() string { return "https://" + b.address }

// Token is an enrolment token in its text form.
func (b *Broker) Token() string {
	return api.TokenPrefix + ".tok." + b.secret + "." + client.PinOf(b.ca)
}

// changed wakes every long poll. The caller holds b.mu.
func (b *Broker) changed() {
	close(b.wake)
	b.wake = make(chan struct{})
}

// poll runs check under the lock until it is satisfied, the time is over or the broker stops.
func (b *Broker) poll(r *http.Request, wait time.Duration, check func() bool) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		b.mu.Lock()
		wake, done := b.wake, check() || b.down
		b.mu.Unlock()
		if done {
			return
		}
		select {
		case <-wake:
		case <-deadline.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func random(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.Read(p)
	return p
}

func (b *Broker) makeCA() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.t.Fatal(err)
	}
	b.caKey = key
	if b.ca, err = x509.ParseCertificate(der); err != nil {
		b.t.Fatal(err)
	}
}

// sign issues a certificate.
func (b *Broker) sign(template *x509.Certificate, public any) []byte {
	template.SerialNumber = new(big.Int).SetBytes(random(15))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(12*time.Hour)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, b.ca, public, b.caKey)
	if err != nil {
		b.t.Fatal(err)
	}
	return der
}

func (b *Broker) serverCert() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	der := b.sign(&x509.Certificate{Subject: pkix.Name{CommonName: BrokerName}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key.Public())
	return tls.Certificate{Certificate: [][]byte{der, b.ca.Raw}, PrivateKey: key}
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (b *Broker) device(id string) *Device {
	i := slices.IndexFunc(b.devices, func(d *Device) bool { return d.ID == id || d.Identity == id })
	if i < 0 {
		return nil
	}
	return b.devices[i]
}

func (b *Broker) request(id string) *Request {
	i := slices.IndexFunc(b.requests, func(r *Request) bool { return r.ID == id })
	if i < 0 {
		return nil
	}
	return b.requests[i]
}

// newest is the newest request of a device.
func (b *Broker) newest(deviceID string) *Request {
	for _, r := range slices.Backward(b.requests) {
		if r.DeviceID == deviceID {
			return r
		}
	}
	return nil
}

// set moves a request on. The caller holds b.mu.
func (b *Broker) set(r *Request, s api.KeyStatus, reason string) {
	r.Status, r.Reason = s, reason
	r.Version++
	b.changed()
}
