package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Blob is a key as its TPM gives it out: the public area (TPMT_PUBLIC), and the private one encrypted to that TPM.
type Blob struct {
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
}

// Keys are a machine's keys in its TPM.
type Keys struct {
	// Identity signs TLS; nil when the machine's key is in a file.
	Identity *Blob `json:"identity,omitempty"`
	// Attestation signs only what the TPM itself states.
	Attestation Blob `json:"attestation"`
}

func signer(restricted bool) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true,
			Restricted: restricted, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}})}
}

// NewKeys makes an attestation key and, with identity, a key for TLS.
func (d *Device) NewKeys(identity bool) (keys Keys, err error) {
	return keys, d.do(func(t transport.TPM) error {
		parent, err := storage(t)
		if err != nil {
			return err
		}
		defer parent.flush(t)
		create := func(restricted bool) (Blob, error) {
			r, err := tpm2.Create{ParentHandle: parent.auth(), InPublic: tpm2.New2B(signer(restricted))}.Execute(t)
			if err != nil {
				return Blob{}, fmt.Errorf("make a key: %w", err)
			}
			return Blob{Public: r.OutPublic.Bytes(), Private: r.OutPrivate.Buffer}, nil
		}
		if keys.Attestation, err = create(true); err != nil || !identity {
			return err
		}
		b, err := create(false)
		keys.Identity = &b
		return err
	})
}

// Signer is a key in the TPM, for crypto/tls and crypto/x509.
type Signer struct {
	device *Device
	blob   Blob
	public *ecdsa.PublicKey
}

// Signer loads the key once, so that a key of another TPM is found here and not in the first connection.
func (d *Device) Signer(b Blob) (*Signer, error) {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](b.Public)
	if err != nil {
		return nil, fmt.Errorf("read the machine key's public area: %w", err)
	}
	public, err := tpm2.Pub(*area)
	if err != nil {
		return nil, fmt.Errorf("read the machine key's public area: %w", err)
	}
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("the machine key in the TPM is not an ECDSA key; enrol the machine again")
	}
	s := &Signer{device: d, blob: b, public: key}
	return s, d.do(func(t transport.TPM) error { return with(t, b, func(loaded) error { return nil }) })
}

// Public implements crypto.Signer.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Sign implements crypto.Signer; digest is a SHA-256.
func (s *Signer) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) (der []byte, err error) {
	if o.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, errors.New("the machine key in the TPM signs SHA-256 digests only")
	}
	return der, s.device.do(func(t transport.TPM) error {
		return with(t, s.blob, func(key loaded) error {
			r, err := tpm2.Sign{KeyHandle: key.auth(), Digest: tpm2.TPM2BDigest{Buffer: digest},
				InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
				Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck}}.Execute(t)
			if err != nil {
				return fmt.Errorf("sign: %w", err)
			}
			ecc, err := r.Signature.Signature.ECDSA()
			if err != nil {
				return err
			}
			der, err = asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)})
			return err
		})
	})
}
