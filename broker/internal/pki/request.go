package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
)

// maxRequest bounds a certificate request, in bytes.
const maxRequest = 16 << 10

// ErrRequest says that a certificate request is not acceptable.
var ErrRequest = errors.New("the certificate request is not acceptable: send one PEM block CERTIFICATE REQUEST, signed by its own ECDSA P-256, P-384, Ed25519 or RSA (2048 to 4096 bits) key")

// requestedKey reads a request and checks that its sender holds the key.
func requestedKey(csr []byte) (crypto.PublicKey, error) {
	if len(csr) > maxRequest {
		return nil, ErrRequest
	}
	block, rest := pem.Decode(csr)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 && hasPEM(rest) {
		return nil, ErrRequest
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, ErrRequest
	}
	switch key := req.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, ErrRequest
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 4096 {
			return nil, ErrRequest
		}
	default:
		return nil, ErrRequest
	}
	if err := req.CheckSignature(); err != nil {
		return nil, ErrRequest
	}
	return req.PublicKey, nil
}

func hasPEM(b []byte) bool {
	block, _ := pem.Decode(b)
	return block != nil
}
