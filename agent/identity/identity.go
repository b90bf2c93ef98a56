// Package identity keeps who a machine is towards its broker: a private key made on the machine, the client certificate
// that the broker issued for it, and the broker's own authority. It is the only credential an agent has.
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"keyward/agent/identity/tpm"
	"keyward/broker/api"
)

// GradeKeyFile names how well the private key is kept: in a file that only root can read. A key in a TPM has its own
// grade, because a copy of the disk is then no copy of the machine.
const GradeKeyFile = "software key"

// ErrNotEnrolled is returned by Load on a machine that has no certificate yet.
var ErrNotEnrolled = errors.New("this machine is not enrolled; run: keyward-agent enrol --account ID --token TOKEN --url URL")

// Identity is an enrolled machine. The zero value is not useful; Load makes one.
type Identity struct {
	InstanceID string
	// ImageID is set in place of InstanceID in an image's identity.
	ImageID string
	// Machine is the provider's name for the machine that enrolled; "" when it enrolled with an agent that kept none.
	Machine     string
	AccountID   string
	AccountName string
	// Broker is the broker's name; it is written into volume headers. URL is where its agents' interface answers.
	Broker string
	URL    string
	// Certificate is ready for tls.Config; its PrivateKey signs and cannot be copied out by callers of this package.
	Certificate tls.Certificate
	// CA is the PEM chain that the broker's own certificate must lead to.
	CA []byte
	// Grade says how the private key is kept.
	Grade string
}

// NotAfter is when the certificate ends.
func (i *Identity) NotAfter() time.Time { return i.Certificate.Leaf.NotAfter }

// RenewAt is when the certificate should be renewed: with a third of its life left, so that weeks without a broker do
// no harm.
func (i *Identity) RenewAt() time.Time {
	leaf := i.Certificate.Leaf
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
}

// record is the file that holds everything but the private key. One file, so that a rename replaces all of it at once.
type record struct {
	InstanceID  string `json:"instance_id,omitempty"`
	ImageID     string `json:"image_id,omitempty"`
	Machine     string `json:"machine,omitempty"`
	AccountID   string `json:"account_id"`
	AccountName string `json:"account_name"`
	Broker      string `json:"broker"`
	URL         string `json:"url"`
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
}

// assemble checks that the certificate belongs to key and to the enrolled machine before anything relies on it.
func (r record) assemble(key crypto.Signer) (*Identity, error) {
	id, name := r.InstanceID, r.InstanceID
	if r.ImageID != "" && r.InstanceID == "" {
		id, name = r.ImageID, api.ImageName+r.ImageID
	}
	for field, value := range map[string]string{"instance_id": id, "account_id": r.AccountID, "url": r.URL} {
		if value == "" {
			return nil, fmt.Errorf("%s is missing; enrol the machine again", field)
		}
	}
	chain, err := certificates(r.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	public, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("the certificate was issued for another key; enrol the machine again")
	}
	if cn := chain[0].Subject.CommonName; cn != name {
		return nil, fmt.Errorf("the certificate names %q, the enrolment %q; enrol the machine again", cn, name)
	}
	if _, err := certificates(r.CA); err != nil {
		return nil, fmt.Errorf("broker's authority: %w", err)
	}
	pair := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return &Identity{InstanceID: r.InstanceID, ImageID: r.ImageID, Machine: r.Machine, AccountID: r.AccountID, AccountName: r.AccountName, Broker: r.Broker, URL: r.URL,
		Certificate: pair, CA: []byte(r.CA), Grade: gradeOf(key)}, nil
}

func gradeOf(key crypto.Signer) string {
	if _, sealed := key.(*tpm.Signer); sealed {
		return GradeTPM
	}
	return GradeKeyFile
}

// fromResponse turns the broker's answer into what is kept.
func fromResponse(a api.EnrolResponse, url string) record {
	return record{InstanceID: a.InstanceID, ImageID: a.ImageID, AccountID: a.AccountID, AccountName: a.AccountName, Broker: a.Broker, URL: url,
		Certificate: a.Certificate, CA: a.CA}
}

// certificates parses a PEM chain of at least one and at most eight certificates.
func certificates(text string) ([]*x509.Certificate, error) {
	const most = 8
	var chain []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q where a certificate belongs", block.Type)
		}
		if len(chain) == most {
			return nil, fmt.Errorf("more than %d certificates in a chain", most)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("no PEM certificate found")
	}
	return chain, nil
}
