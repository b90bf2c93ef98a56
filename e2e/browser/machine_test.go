package browser

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
)

// machine speaks to a broker as an agent does, without a disk: the browser is what is under test.
type machine struct {
	*client.Agent
	t       *testing.T
	id      api.EnrolResponse
	info    api.InstanceInfo
	private *client.DeliveryKey
	nonce   string
}

func must[T any](t *testing.T, what string) func(T, error) T {
	t.Helper()
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return value
	}
}

// enrol trades the token text of the console for a certificate.
func enrol(t *testing.T, url, account, token string) *machine {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t, "machine key")(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	csr := must[[]byte](t, "certificate request")(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	m := &machine{t: t, info: api.InstanceInfo{Identity: "i-browser", HostName: "db-01.example.org", Location: "rack 4", ImageIdentity: "ami-browser", ImageName: "Debian 12", AgentVersion: "1.0.0"}}
	m.id = must[api.EnrolResponse](t, "enrol")(client.Enrol(t.Context(), client.EnrolOptions{URL: url, Token: token, Request: api.EnrolRequest{AccountID: account,
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), Provider: "native", Instance: m.info, Time: time.Now()}}))
	der := must[[]byte](t, "machine key")(x509.MarshalPKCS8PrivateKey(key))
	pair := must[tls.Certificate](t, "machine certificate")(tls.X509KeyPair([]byte(m.id.Certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	m.Agent = must[*client.Agent](t, "agent")(client.NewAgent(client.AgentOptions{URL: url, CA: []byte(m.id.CA), Cert: pair}))
	t.Cleanup(m.Close)
	return m
}

// publish shows one empty disk.
func (m *machine) publish(name string) {
	m.t.Helper()
	must[api.DeviceList](m.t, "publish")(m.PublishInventory(m.t.Context(), api.InventoryReport{Provider: "native", Instance: m.info,
		Devices: []api.InventoryDevice{{Identity: "disk-" + name, Name: name, Size: 512 << 20, Information: "browser test", Contents: "empty"}}}))
}

// encrypt carries out the encrypt command that the console ordered.
func (m *machine) encrypt() {
	m.t.Helper()
	ctx := m.t.Context()
	list := must[api.CommandList](m.t, "commands")(m.Commands(ctx, 20*time.Second))
	i := slices.IndexFunc(list.Commands, func(c api.Command) bool { return c.Kind == api.CommandEncrypt })
	if i < 0 {
		m.t.Fatalf("no encrypt command in %+v", list.Commands)
	}
	c := list.Commands[i]
	private := must[*client.DeliveryKey](m.t, "delivery key")(client.NewDeliveryKey())
	nonce := must[api.NonceResponse](m.t, "nonce")(m.Nonce(ctx))
	d := must[api.KeyDelivery](m.t, "key of the job")(m.JobKey(ctx, c.JobID, api.JobKeyRequest{PublicKey: private.PublicKey(), Nonce: nonce.Nonce}))
	key := must[[]byte](m.t, "open the delivery")(private.Open(d, api.DeliveryBinding{Purpose: "encrypt-job", AccountID: m.id.AccountID, RequestID: c.JobID, DeviceID: c.DeviceID,
		InstanceID: m.id.InstanceID, Nonce: nonce.Nonce, LeaseSeconds: d.LeaseSeconds}))
	v := &api.VolumeRecord{UUID: uuid.NewString(), Cipher: "aes-xts-plain64", KeyBits: c.Device.KeyBits, SectorSize: 4096, DataOffset: 16 << 20, DataSize: 496 << 20,
		DigestSalt: make([]byte, 32), DigestIterations: 1000, Epoch: 1, HeaderHash: make([]byte, 32), Broker: m.id.Broker, Account: m.id.AccountID, Device: c.DeviceID}
	rand.Read(v.DigestSalt)
	v.Digest = must[[]byte](m.t, "digest")(pbkdf2.Key(sha256.New, string(key), v.DigestSalt, v.DigestIterations, 32))
	if err := m.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: v}); err != nil {
		m.t.Fatalf("report the job: %v", err)
	}
}

// request asks for the key of the machine's device.
func (m *machine) request(hostName string) api.KeyRequestStatus {
	m.t.Helper()
	ctx := m.t.Context()
	devices := must[api.DeviceList](m.t, "devices")(m.Devices(ctx))
	m.private = must[*client.DeliveryKey](m.t, "delivery key")(client.NewDeliveryKey())
	m.nonce = must[api.NonceResponse](m.t, "nonce")(m.Nonce(ctx)).Nonce
	fact := func(name api.FactName, values ...string) api.Fact {
		return api.Fact{Name: name, Values: values, Source: "browser test", Grade: api.GradeSelfReported, At: time.Now()}
	}
	return must[api.KeyRequestStatus](m.t, "request")(m.Request(ctx, api.KeyRequest{DeviceID: devices.Devices[0].ID, Nonce: m.nonce, PublicKey: m.private.PublicKey(), Time: time.Now(),
		Evidence: api.Evidence{Nonce: m.nonce, CollectedAt: time.Now(), Facts: []api.Fact{fact(api.FactHostName, hostName), fact(api.FactGuestOS, "linux"), fact(api.FactTCPPorts, "22", "5432")}}}))
}

// collect fetches the key of an approved request.
func (m *machine) collect(r api.KeyRequestStatus) {
	m.t.Helper()
	d := must[api.KeyDelivery](m.t, "delivery")(m.Delivery(m.t.Context(), r.ID, api.DeliveryRequest{PublicKey: m.private.PublicKey()}))
	must[[]byte](m.t, "open the delivery")(m.private.Open(d, api.DeliveryBinding{Purpose: "key-request", AccountID: m.id.AccountID, RequestID: r.ID, DeviceID: r.DeviceID,
		InstanceID: m.id.InstanceID, Nonce: m.nonce, LeaseSeconds: d.LeaseSeconds}))
	if err := m.Report(m.t.Context(), r.ID, api.RequestEvent{Event: api.EventMounted, Location: "/mnt/data"}); err != nil {
		m.t.Fatalf("report the mount: %v", err)
	}
}
