package client

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"keyward/broker/api"
)

// EnrolOptions says where and with what a machine enrols.
type EnrolOptions struct {
	// URL is the broker's agent interface, https://HOST[:PORT].
	URL string
	// Token is the enrolment token's text form.
	Token string
	// Request is what the machine says of itself; its Token field is filled from Token.
	Request api.EnrolRequest
	Proxy   func(*http.Request) (*url.URL, error)
	// UserAgent is sent with the request; empty means "keyward-agent".
	UserAgent string
}

// PinError says that the server is not the broker that made the enrolment token. Nothing was sent to it.
type PinError struct{ Host, Reason string }

// Error implements error.
func (e *PinError) Error() string {
	return fmt.Sprintf("%s is not the broker that this enrolment token belongs to: %s; nothing was sent to it; check the URL, or get a token from this broker", e.Host, e.Reason)
}

// Enrol trades an enrolment token for a client certificate. The token pins the broker's CA: the pin is compared within
// the TLS handshake, before the secret or anything else of the request is sent. The certificate that comes back is
// checked to be for the request's own key, from the pinned CA and for the account that was named.
func Enrol(ctx context.Context, o EnrolOptions) (api.EnrolResponse, error) {
	token, err := ParseToken(o.Token)
	if err != nil {
		return api.EnrolResponse{}, err
	}
	pin, err := base64.RawURLEncoding.DecodeString(token.Pin)
	if err != nil {
		return api.EnrolResponse{}, fmt.Errorf("enrolment token: decode its pin: %w", err)
	}
	u, err := url.Parse(o.URL)
	if err != nil {
		return api.EnrolResponse{}, fmt.Errorf("broker URL %q: %w", o.URL, err)
	}
	if o.UserAgent == "" {
		o.UserAgent = "keyward-agent"
	}
	host := u.Hostname()
	k, err := newCaller(o.URL, &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The usual check needs the CA, which the machine does not have yet; VerifyConnection does all of it with the pin.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return checkPin(host, pin, cs.PeerCertificates)
		},
	}, o.Proxy, o.UserAgent)
	if err != nil {
		return api.EnrolResponse{}, err
	}
	defer k.http.CloseIdleConnections()
	in := o.Request
	in.Token = token.ID + "." + token.Secret
	var out api.EnrolResponse
	if err := k.do(ctx, call{method: http.MethodPost, path: api.PathEnrol, in: in, out: &out}); err != nil {
		return api.EnrolResponse{}, fmt.Errorf("enrol with the broker at %s: %w", u.Host, err)
	}
	if err := checkIdentity(out, in, pin); err != nil {
		return api.EnrolResponse{}, fmt.Errorf("enrol with the broker at %s: its answer is refused: %w", u.Host, err)
	}
	return out, nil
}

// PinOf is the SHA-256 of a CA certificate's SubjectPublicKeyInfo in the form that enrolment tokens carry.
func PinOf(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// checkPin accepts a chain whose CA has the pinned key and whose leaf is a server certificate for host from that CA.
func checkPin(host string, pin []byte, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return &PinError{host, "it sent no certificate"}
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain {
		if pinned(c, pin) && c.IsCA {
			roots.AddCert(c)
			found = true
			continue
		}
		others.AddCert(c)
	}
	if !found {
		return &PinError{host, "its CA has another key than the token names"}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		DNSName: host, Roots: roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return &PinError{host, err.Error()}
	}
	return nil
}

func pinned(c *x509.Certificate, pin []byte) bool {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return subtle.ConstantTimeCompare(sum[:], pin) == 1
}

// checkIdentity makes sure that what came back can be used, and trusts no CA but the pinned one.
func checkIdentity(out api.EnrolResponse, in api.EnrolRequest, pin []byte) error {
	ca, err := firstCertificate(out.CA)
	if err != nil {
		return fmt.Errorf("CA: %w", err)
	}
	if !pinned(ca, pin) {
		return errors.New("CA: not the one that the token pins")
	}
	return checkIssued(out, in, ca)
}

// checkIssued makes sure that a certificate is from ca, for the request's own key, and for the account that was named.
func checkIssued(out api.EnrolResponse, in api.EnrolRequest, ca *x509.Certificate) error {
	leaf, err := firstCertificate(out.Certificate)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if err := leaf.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	block, _ := pem.Decode([]byte(in.CSR))
	if block == nil {
		return errors.New("the certificate request is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("the certificate request: %w", err)
	}
	key, ok := leaf.PublicKey.(interface{ Equal(x crypto.PublicKey) bool })
	if !ok || !key.Equal(csr.PublicKey) {
		return errors.New("certificate: it is for another key")
	}
	if name, id := leaf.Subject.CommonName, out.InstanceID; !in.Template && (name != id || id == "") {
		return errors.New("certificate: its common name is not the instance ID")
	} else if in.Template && (name != api.ImageName+out.ImageID || out.ImageID == "") {
		return errors.New("certificate: its common name is not the image ID")
	}
	if len(leaf.Subject.Organization) != 1 || leaf.Subject.Organization[0] != out.AccountID || out.AccountID != in.AccountID {
		return errors.New("certificate: its organization is not the account that was asked for")
	}
	return nil
}

func firstCertificate(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate in it")
	}
	return x509.ParseCertificate(block.Bytes)
}
