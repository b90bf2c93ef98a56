package attest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Endorsement is the key by which a TPM is known for all its life.
type Endorsement struct {
	area   *tpm2.TPMTPublic
	public any // *rsa.PublicKey or *ecdh.PublicKey
}

// ParseEndorsement reads a TPMT_PUBLIC that has a default template of the TCG EK Credential Profile: a key that only
// decrypts, and only inside its TPM.
func ParseEndorsement(public []byte) (Endorsement, error) {
	area, err := parsePublic(public)
	if err != nil {
		return Endorsement{}, fmt.Errorf("endorsement key: %w", err)
	}
	template := tpm2.RSAEKTemplate
	if area.Type == tpm2.TPMAlgECC {
		template = tpm2.ECCEKTemplate
	}
	template.Unique = area.Unique
	if area.Type != template.Type || !bytes.Equal(tpm2.Marshal(template), public) {
		return Endorsement{}, errors.New("endorsement key: it has not the default template for RSA 2048 or ECC P-256")
	}
	e := Endorsement{area: area}
	if area.Type == tpm2.TPMAlgECC {
		e.public, err = endorsementECC(area)
	} else {
		e.public, err = endorsementRSA(area)
	}
	if err != nil {
		return Endorsement{}, fmt.Errorf("endorsement key: %w", err)
	}
	return e, nil
}

func endorsementRSA(area *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	parameters, err := area.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	n, err := area.Unique.RSA()
	if err != nil {
		return nil, err
	}
	key, err := tpm2.RSAPub(parameters, n)
	if err != nil {
		return nil, err
	}
	if key.N.BitLen() != 2048 || key.N.Bit(0) == 0 {
		return nil, errors.New("its modulus has not 2048 bits")
	}
	return key, nil
}

func endorsementECC(area *tpm2.TPMTPublic) (*ecdh.PublicKey, error) {
	parameters, err := area.Parameters.ECCDetail()
	if err != nil {
		return nil, err
	}
	point, err := area.Unique.ECC()
	if err != nil {
		return nil, err
	}
	if len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return nil, errors.New("its point is not of P-256")
	}
	key, err := tpm2.ECDSAPub(parameters, point)
	if err != nil {
		return nil, err
	}
	return key.ECDH() // refuses what is not on the curve
}

// Challenge encrypts a secret so that only a TPM that holds both the endorsement key and the key of that name can read it
// (TPM2_MakeCredential).
func (e Endorsement) Challenge(name, secret []byte) (blob, encrypted []byte, err error) {
	key, err := tpm2.ImportEncapsulationKey(e.area)
	if err != nil {
		return nil, nil, fmt.Errorf("endorsement key: %w", err)
	}
	return tpm2.CreateCredential(rand.Reader, key, name, secret)
}

// maxCertificate bounds an endorsement certificate, bytes.
const maxCertificate = 8 << 10

// subjectAltName is critical in endorsement certificates, because their subject is empty, and holds the TPM's maker and
// model as a directory name, which crypto/x509 does not read.
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// CheckCertificate makes sure that the certificate is for this key and leads to one of the roots, and returns who issued
// it.
func (e Endorsement) CheckCertificate(der []byte, roots *x509.CertPool, now time.Time) (issuer string, err error) {
	if len(der) == 0 {
		return "", errors.New("the TPM has no endorsement certificate")
	}
	if len(der) > maxCertificate {
		return "", fmt.Errorf("the endorsement certificate has more than %d bytes", maxCertificate)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return "", fmt.Errorf("the endorsement certificate: %w", err)
	}
	public := c.PublicKey
	if k, ok := public.(*ecdsa.PublicKey); ok {
		if public, err = k.ECDH(); err != nil {
			return "", errors.New("the endorsement certificate's key is not on its curve")
		}
	}
	switch own := e.public.(type) {
	case *rsa.PublicKey:
		if !own.Equal(public) {
			return "", errors.New("the endorsement certificate is for another key")
		}
	case *ecdh.PublicKey:
		if !own.Equal(public) {
			return "", errors.New("the endorsement certificate is for another key")
		}
	}
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, subjectAltName.Equal)
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return "", fmt.Errorf("the endorsement certificate: %w", err)
	}
	if issuer = c.Issuer.CommonName; issuer == "" {
		issuer = c.Issuer.String()
	}
	return issuer, nil
}
