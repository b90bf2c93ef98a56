// Package attest verifies what hardware and clouds sign: TPM 2.0 keys, credential activation and quotes, and EC2 instance
// identity documents. It is pure: no clock, no store, no network. Sizes are checked before anything is parsed.
package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// Limits of what a machine sends, bytes.
const (
	maxPublic    = 2 << 10
	maxAttest    = 4 << 10
	maxSignature = 1 << 10
)

// Key is an ECDSA P-256 key in a TPM.
type Key struct {
	Public *ecdsa.PublicKey
	// Name is the TPM's own digest of the key's public area: algorithm and attributes included.
	Name []byte
}

// ParseAttestationKey reads a TPMT_PUBLIC and makes sure that its key can only ever sign what its own TPM made.
func ParseAttestationKey(public []byte) (Key, error) {
	k, attributes, err := parseSigner(public)
	if err != nil {
		return Key{}, fmt.Errorf("attestation key: %w", err)
	}
	if !attributes.Restricted {
		return Key{}, errors.New("attestation key: it is not restricted, so it signs what anybody makes up")
	}
	return k, nil
}

// ParseIdentityKey reads a TPMT_PUBLIC of a key for TLS that cannot leave its TPM.
func ParseIdentityKey(public []byte) (Key, error) {
	k, attributes, err := parseSigner(public)
	if err != nil {
		return Key{}, fmt.Errorf("identity key: %w", err)
	}
	if attributes.Restricted {
		return Key{}, errors.New("identity key: it is restricted, so it cannot sign TLS")
	}
	return k, nil
}

func parseSigner(b []byte) (Key, tpm2.TPMAObject, error) {
	none := tpm2.TPMAObject{}
	pub, err := parsePublic(b)
	if err != nil {
		return Key{}, none, err
	}
	a := pub.ObjectAttributes
	if !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.SignEncrypt || a.Decrypt {
		return Key{}, none, errors.New("its attributes do not keep it in its TPM as a signing key")
	}
	if pub.Type != tpm2.TPMAlgECC || pub.NameAlg != tpm2.TPMAlgSHA256 {
		return Key{}, none, errors.New("it is not an ECC key named by SHA-256")
	}
	parameters, err := pub.Parameters.ECCDetail()
	if err != nil {
		return Key{}, none, err
	}
	if parameters.CurveID != tpm2.TPMECCNistP256 {
		return Key{}, none, errors.New("its curve is not P-256")
	}
	point, err := pub.Unique.ECC()
	if err != nil {
		return Key{}, none, err
	}
	if len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return Key{}, none, errors.New("its point is not of P-256")
	}
	public, err := tpm2.ECDSAPub(parameters, point)
	if err != nil {
		return Key{}, none, err
	}
	if _, err := public.ECDH(); err != nil { // on the curve
		return Key{}, none, errors.New("its point is not on P-256")
	}
	name, err := tpm2.ObjectName(pub)
	if err != nil {
		return Key{}, none, err
	}
	return Key{Public: public, Name: name.Buffer}, a, nil
}

// parsePublic reads a TPMT_PUBLIC that is written in the one way there is.
func parsePublic(b []byte) (*tpm2.TPMTPublic, error) {
	if len(b) == 0 || len(b) > maxPublic {
		return nil, fmt.Errorf("a public area has 1 to %d bytes, not %d", maxPublic, len(b))
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
	if err != nil {
		return nil, fmt.Errorf("not a TPMT_PUBLIC: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(pub), b) {
		return nil, errors.New("not a TPMT_PUBLIC: something is left over")
	}
	return pub, nil
}

// attested checks the signature over a TPMS_ATTEST and reads it.
func (k Key) attested(attest, signature []byte) (*tpm2.TPMSAttest, error) {
	if len(attest) == 0 || len(attest) > maxAttest || len(signature) == 0 || len(signature) > maxSignature {
		return nil, fmt.Errorf("the statement has %d bytes and its signature %d; at most %d and %d are possible", len(attest), len(signature), maxAttest, maxSignature)
	}
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil {
		return nil, fmt.Errorf("not a TPMT_SIGNATURE: %w", err)
	}
	if s.SigAlg != tpm2.TPMAlgECDSA {
		return nil, errors.New("the signature is not ECDSA")
	}
	ecc, err := s.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	if ecc.Hash != tpm2.TPMAlgSHA256 {
		return nil, errors.New("the signature is not over SHA-256")
	}
	sum := sha256.Sum256(attest)
	if !ecdsa.Verify(k.Public, sum[:], new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)) {
		return nil, errors.New("the signature is not by the attestation key")
	}
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](attest)
	if err != nil {
		return nil, fmt.Errorf("not a TPMS_ATTEST: %w", err)
	}
	if a.Magic != tpm2.TPMGeneratedValue {
		return nil, errors.New("the statement was not made by a TPM")
	}
	return a, nil
}
