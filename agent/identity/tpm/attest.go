package tpm

import (
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keyward/broker/api"
)

// Where makers put endorsement certificates (TCG EK Credential Profile 2.2.1.4, 2.2.1.5).
const (
	certificateRSA tpm2.TPMHandle = 0x01c00002
	certificateECC tpm2.TPMHandle = 0x01c0000a
)

// mostCertificate bounds what is read of one, bytes.
const mostCertificate = 8 << 10

// Register returns what shows this TPM and the keys in it to a broker.
func (d *Device) Register(keys Keys) (out api.TPMRegistration, err error) {
	return out, d.do(func(t transport.TPM) error {
		certificate, template, err := endorsement(t)
		if err != nil {
			return err
		}
		ek, err := primary(t, tpm2.TPMRHEndorsement, template)
		if err != nil {
			return fmt.Errorf("make the endorsement key: %w", err)
		}
		ek.flush(t)
		out = api.TPMRegistration{EndorsementKey: ek.public.Bytes(), EndorsementCertificate: certificate, AttestationKey: keys.Attestation.Public}
		if keys.Identity == nil {
			return nil
		}
		out.IdentityKey = keys.Identity.Public
		return with(t, *keys.Identity, func(identity loaded) error {
			return with(t, keys.Attestation, func(attestation loaded) error {
				r, err := tpm2.Certify{ObjectHandle: identity.auth(), SignHandle: attestation.auth(), InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(t)
				if err != nil {
					return fmt.Errorf("certify the machine's key: %w", err)
				}
				out.CertifyInfo, out.CertifySignature = r.CertifyInfo.Bytes(), tpm2.Marshal(r.Signature)
				return nil
			})
		})
	})
}

// endorsement is the maker's certificate with the template of its key: RSA where the TPM has an RSA certificate, or none.
func endorsement(t transport.TPM) ([]byte, tpm2.TPMTPublic, error) {
	for _, at := range []struct {
		index    tpm2.TPMHandle
		template tpm2.TPMTPublic
	}{{certificateRSA, tpm2.RSAEKTemplate}, {certificateECC, tpm2.ECCEKTemplate}} {
		c, err := readNV(t, at.index)
		if err != nil {
			return nil, at.template, err
		}
		if c != nil {
			return c, at.template, nil
		}
	}
	return nil, tpm2.ECCEKTemplate, nil // the faster one
}

// readNV returns nil for an index that is not there.
func readNV(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the endorsement certificate: %w", err)
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("look for the endorsement certificate: %w", err)
	}
	if area.DataSize > mostCertificate {
		return nil, fmt.Errorf("the endorsement certificate has %d bytes, more than %d", area.DataSize, mostCertificate)
	}
	const part = 512 // every TPM gives so much at a time
	var out []byte
	for len(out) < int(area.DataSize) {
		r, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName}, Size: min(part, area.DataSize-uint16(len(out))), Offset: uint16(len(out))}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("read the endorsement certificate: %w", err)
		}
		if len(r.Data.Buffer) == 0 {
			return nil, errors.New("read the endorsement certificate: the TPM gives less than it says")
		}
		out = append(out, r.Data.Buffer...)
	}
	var der asn1.RawValue // makers fill the area up behind it
	if _, err := asn1.Unmarshal(out, &der); err != nil {
		return nil, fmt.Errorf("read the endorsement certificate: %w", err)
	}
	return der.FullBytes, nil
}

// Activate reads a broker's challenge, which only the TPM of both the endorsement and the attestation key can.
func (d *Device) Activate(keys Keys, c api.TPMChallenge) (secret []byte, err error) {
	return secret, d.do(func(t transport.TPM) error {
		_, template, err := endorsement(t)
		if err != nil {
			return err
		}
		ek, err := primary(t, tpm2.TPMRHEndorsement, template)
		if err != nil {
			return fmt.Errorf("make the endorsement key: %w", err)
		}
		defer ek.flush(t)
		return with(t, keys.Attestation, func(attestation loaded) error {
			r, err := tpm2.ActivateCredential{ActivateHandle: attestation.auth(),
				KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: ek.name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, byEndorsement)},
				CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.CredentialBlob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: c.EncryptedSecret}}.Execute(t)
			if err != nil {
				return fmt.Errorf("activate the broker's credential: %w", err)
			}
			secret = r.CertInfo.Buffer
			return nil
		})
	})
}

// byEndorsement is the policy of the endorsement key's template: TPM2_PolicySecret with the endorsement hierarchy.
func byEndorsement(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(t)
	return err
}

// quoted are the PCRs of a quote: those of the firmware, the boot loader and the operating system. PCR 16 and those from
// 20 on can be reset by programs.
var quoted = []uint{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// Quote signs the SHA-256 PCRs for one binding.
func (d *Device) Quote(keys Keys, b api.QuoteBinding) (*api.TPMEvidence, error) {
	digest := b.Digest()
	all := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(quoted...)}}}
	out := &api.TPMEvidence{}
	return out, d.do(func(t transport.TPM) error {
		return with(t, keys.Attestation, func(key loaded) error {
			// A PCR that is extended between reading and quoting makes the two differ; then both are taken again.
			for range 3 {
				before, err := readPCRs(t)
				if err != nil {
					return err
				}
				r, err := tpm2.Quote{SignHandle: key.auth(), QualifyingData: tpm2.TPM2BData{Buffer: digest[:]},
					InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: all}.Execute(t)
				if err != nil {
					return fmt.Errorf("quote: %w", err)
				}
				after, err := readPCRs(t)
				if err != nil {
					return err
				}
				out.Quote, out.Signature, out.PCRs = r.Quoted.Bytes(), tpm2.Marshal(r.Signature), after
				if equal(before, after) {
					return nil
				}
			}
			return errors.New("quote: the PCRs change all the time; try again")
		})
	})
}

// readPCRs reads them eight at a time, as many as one answer holds.
func readPCRs(t transport.TPM) ([]api.TPMPCR, error) {
	var out []api.TPMPCR
	for at := 0; at < len(quoted); at += 8 {
		part := quoted[at:min(at+8, len(quoted))]
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
			Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(part...)}}}}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("read the PCRs: %w", err)
		}
		if len(r.PCRValues.Digests) != len(part) {
			return nil, errors.New("read the PCRs: the TPM has no SHA-256 bank; enable it in the firmware's settings")
		}
		for i, v := range r.PCRValues.Digests {
			out = append(out, api.TPMPCR{Index: int(part[i]), Value: v.Buffer})
		}
	}
	return out, nil
}

func equal(a, b []api.TPMPCR) bool {
	for i := range a {
		if string(a[i].Value) != string(b[i].Value) {
			return false
		}
	}
	return true
}
