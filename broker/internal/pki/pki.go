// Package pki is the broker's own certificate authority: one ECDSA P-256 root that signs the broker's server certificates
// and the client certificates of enrolled machines. Enrolment tokens pin its key.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// The lives of certificates. Server certificates are made anew at every start, so theirs only has to outlast a run.
const (
	caLife     = 20 * 365 * 24 * time.Hour
	ServerLife = 397 * 24 * time.Hour
	// backdate allows for machines whose clocks are behind.
	backdate = time.Hour
)

// CA signs certificates. It is safe for concurrent use.
type CA struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	clock func() time.Time
}

// NewCA makes a new authority. name is for people who look at its certificate.
func NewCA(name string, clock func() time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the CA's key: %w", err)
	}
	now := clock()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name, Organization: []string{"Keyward"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the CA's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{cert: cert, key: key, clock: clock}, nil
}

// OpenCA continues with an authority from its PEM certificate and its key (PKCS #8 DER).
func OpenCA(certPEM, keyDER []byte, clock func() time.Time) (*CA, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("the CA's certificate is not PEM; restore it from a backup")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the CA's certificate: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, errors.New("the CA's key is damaged; restore it from a backup")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, errors.New("the CA's key and certificate do not belong together; restore both from one backup")
	}
	return &CA{cert: cert, key: key, clock: clock}, nil
}

// KeyDER is the private key as PKCS #8, to be wrapped by the root key and nothing else.
func (c *CA) KeyDER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(c.key) }

// CACert is the PEM certificate that both sides trust.
func (c *CA) CACert() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Pool holds the authority alone.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

// Pin is the SHA-256 of the authority's SubjectPublicKeyInfo.
func (c *CA) Pin() []byte {
	sum := sha256.Sum256(c.cert.RawSubjectPublicKeyInfo)
	return sum[:]
}

// NotAfter is when the authority ends.
func (c *CA) NotAfter() time.Time { return c.cert.NotAfter }

// IssueServer makes a key and a server certificate for hosts, which are DNS names and IP addresses. The result is the
// certificate, then the authority's, and the key as PKCS #8 DER.
func (c *CA) IssueServer(hosts []string) (chain [][]byte, key *ecdsa.PrivateKey, err error) {
	if len(hosts) == 0 {
		return nil, nil, errors.New("a server certificate needs at least one host name or address")
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, fmt.Errorf("making a server key: %w", err)
	}
	now := c.clock()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: clip(hosts[0])},
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(ServerLife), c.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(h); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(a.Unmap().AsSlice()))
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := c.sign(template, key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("signing a server certificate: %w", err)
	}
	return [][]byte{der, c.cert.Raw}, key, nil
}

// IssueClient signs the key of a PEM certificate request for an instance (common name) of an account (organization) and
// returns the PEM certificate. Whatever else the request asks for is ignored.
func (c *CA) IssueClient(csr []byte, instanceID, accountID string, life time.Duration) ([]byte, error) {
	key, err := requestedKey(csr)
	if err != nil {
		return nil, err
	}
	now := c.clock()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: instanceID, Organization: []string{accountID}},
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(life), c.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := c.sign(template, key)
	if err != nil {
		return nil, fmt.Errorf("signing a client certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func (c *CA) sign(template *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	if !c.clock().Before(c.cert.NotAfter) {
		return nil, fmt.Errorf("the broker's CA ended on %s; check the clock", c.cert.NotAfter.Format(time.DateOnly))
	}
	return x509.CreateCertificate(rand.Reader, template, c.cert, key, c.key)
}

// serial has 127 random bits, as RFC 5280 wants: positive, and not to be guessed.
func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// clip keeps a common name within the 64 characters of RFC 5280; names are checked by the other extension anyway.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}
