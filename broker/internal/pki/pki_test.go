package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func newCA(t testing.TB) *CA {
	t.Helper()
	ca, err := NewCA("test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func request(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func parse(t testing.TB, p []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(p)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIssueClient_takesTheKeyAndNothingElseFromTheRequest(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	csr := request(t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "another", Organization: []string{"other account"}},
		DNSNames: []string{"broker.example"}, IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)}})
	out, err := ca.IssueClient(csr, "instance-1", "account-1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, out)
	if c.Subject.CommonName != "instance-1" || len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != "account-1" {
		t.Errorf("subject %v", c.Subject)
	}
	if len(c.DNSNames)+len(c.IPAddresses) != 0 || c.IsCA || !key.PublicKey.Equal(c.PublicKey) {
		t.Errorf("the request's extensions were taken over: %v %v, CA %v", c.DNSNames, c.IPAddresses, c.IsCA)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("as a client: %v", err)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a machine's certificate would pass as a broker's")
	}
	if d := time.Until(c.NotAfter); d > time.Hour || d < 50*time.Minute {
		t.Errorf("it lives for %v, want an hour", d)
	}
}

func TestIssueClient_refusesBadRequests(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	good := request(t, p256, &x509.CertificateRequest{})
	if _, err := ca.IssueClient(request(t, ed, &x509.CertificateRequest{}), "i", "a", time.Hour); err != nil {
		t.Errorf("an Ed25519 key: %v", err)
	}
	block, _ := pem.Decode(good)
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	bad := map[string][]byte{
		"empty": nil, "text": []byte("hello"), "a certificate": ca.CACert(), "a weak curve": request(t, p224, &x509.CertificateRequest{}),
		"two requests": append(append([]byte(nil), good...), good...), "huge": []byte(strings.Repeat("x", 1<<20)),
		"a wrong signature": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged}),
	}
	if weak, err := rsa.GenerateKey(rand.Reader, 1024); err == nil {
		bad["a short RSA key"] = request(t, weak, &x509.CertificateRequest{})
	}
	for name, csr := range bad {
		if _, err := ca.IssueClient(csr, "i", "a", time.Hour); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v, want ErrRequest", name, err)
		}
	}
}

func TestIssueServer_isForItsHostsOnly(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	chain, key, err := ca.IssueServer([]string{"broker.example", "127.0.0.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(chain[0])
	if err != nil || len(chain) != 2 || !key.PublicKey.Equal(c.PublicKey) {
		t.Fatalf("chain of %d (%v)", len(chain), err)
	}
	for host, want := range map[string]bool{"broker.example": true, "127.0.0.1": true, "::1": true, "evil.example": false, "127.0.0.2": false} {
		_, err := c.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: host})
		if (err == nil) != want {
			t.Errorf("for %s: %v", host, err)
		}
	}
	if _, _, err := ca.IssueServer(nil); err == nil {
		t.Error("a certificate for nobody was made")
	}
}

func TestOpenCA_continues(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t), newCA(t)
	der, err := ca.KeyDER()
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenCA(ca.CACert(), der, time.Now)
	if err != nil || string(again.Pin()) != string(ca.Pin()) {
		t.Fatalf("opened another CA (%v)", err)
	}
	for name, f := range map[string]func() (*CA, error){
		"another's certificate": func() (*CA, error) { return OpenCA(other.CACert(), der, time.Now) },
		"a damaged key":         func() (*CA, error) { return OpenCA(ca.CACert(), der[:20], time.Now) },
		"no certificate":        func() (*CA, error) { return OpenCA(nil, der, time.Now) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
	ended, err := OpenCA(ca.CACert(), der, func() time.Time { return time.Now().Add(caLife + time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ended.IssueServer([]string{"h"}); err == nil {
		t.Error("a CA that has ended still signs")
	}
}

func FuzzRequestedKey(f *testing.F) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.Add(request(f, key, &x509.CertificateRequest{}))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, csr []byte) {
		if key, err := requestedKey(csr); err == nil && key == nil {
			t.Error("no key and no error")
		}
	})
}
