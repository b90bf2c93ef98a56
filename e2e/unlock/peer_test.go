package unlock

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
)

// peer speaks to the broker as another machine would: this computer can be only one machine of an account.
type peer struct {
	*client.Agent
	t       *testing.T
	id      api.EnrolResponse
	info    api.InstanceInfo
	pair    tls.Certificate
	private *client.DeliveryKey
	nonce   string
}

// newCSR makes a machine's key and the request for its certificate.
func newCSR(t *testing.T) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
}

func machineInfo(name string) api.InstanceInfo {
	return api.InstanceInfo{Identity: uuid.NewString(), HostName: name, ImageIdentity: uuid.NewString(), AgentVersion: "1.0.0"}
}

// enrolAs trades a token in an account; what it returns is refused or accepted by the broker alone.
func (s *site) enrolAs(ctx context.Context, account, token, csr string, info api.InstanceInfo) (api.EnrolResponse, error) {
	return client.Enrol(ctx, client.EnrolOptions{URL: s.broker.AgentURL, Token: token, Request: api.EnrolRequest{AccountID: account,
		CSR: csr, Provider: "Native", Instance: info, Time: time.Now()}})
}

// peer enrols another machine in the account.
func (a *account) peer(info api.InstanceInfo) *peer {
	a.t.Helper()
	key, csr := newCSR(a.t)
	p := &peer{t: a.t, info: info}
	var err error
	if p.id, err = a.site.enrolAs(a.t.Context(), a.setup.AccountID, a.token(), csr, info); err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	if p.pair, err = tls.X509KeyPair([]byte(p.id.Certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		a.t.Fatal(err)
	}
	if p.Agent, err = client.NewAgent(client.AgentOptions{URL: a.site.broker.AgentURL, CA: []byte(p.id.CA), Cert: p.pair}); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(p.Close)
	return p
}

// attach shows a disk that another machine showed before, as when it was moved over or is reached by both.
func (p *peer) attach(d api.Device) {
	p.t.Helper()
	_, err := p.PublishInventory(p.t.Context(), api.InventoryReport{Provider: "Native", Instance: p.info, Devices: []api.InventoryDevice{
		{Identity: d.Identity, Name: d.Name, Size: d.Size, Contents: "LUKS2"}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

// ask asks for a device's key with little evidence.
func (p *peer) ask(device string) (api.KeyRequestStatus, error) {
	p.t.Helper()
	ctx := p.t.Context()
	nonce, err := p.Nonce(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.private, err = client.NewDeliveryKey(); err != nil {
		p.t.Fatal(err)
	}
	p.nonce = nonce.Nonce
	facts := []api.Fact{{Name: api.FactGuestOS, Values: []string{"linux"}, Source: "test", Grade: api.GradeSelfReported, At: time.Now()}}
	return p.Request(ctx, api.KeyRequest{DeviceID: device, Nonce: p.nonce, PublicKey: p.private.PublicKey(), Time: time.Now(),
		Evidence: api.Evidence{Nonce: p.nonce, CollectedAt: time.Now(), Facts: facts}})
}

// collect fetches the key of an approved request and returns its length in bytes.
func (p *peer) collect(r api.KeyRequestStatus) int {
	p.t.Helper()
	d, err := p.Delivery(p.t.Context(), r.ID, api.DeliveryRequest{PublicKey: p.private.PublicKey()})
	if err != nil {
		p.t.Fatal(err)
	}
	key, err := p.private.Open(d, api.DeliveryBinding{Purpose: "key-request", AccountID: p.id.AccountID, RequestID: r.ID,
		DeviceID: r.DeviceID, InstanceID: p.id.InstanceID, Nonce: p.nonce, LeaseSeconds: d.LeaseSeconds})
	if err != nil {
		p.t.Fatal(err)
	}
	return len(key)
}

// refusedAs fails the test unless err is the broker's problem of that name.
func refusedAs(t *testing.T, what string, err error, slug string) {
	t.Helper()
	if !client.Is(err, slug) {
		t.Errorf("%s: %v, want the problem %q", what, err, slug)
	}
}
