package attest

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"keyward/broker/api"
)

// PCRs is how many platform configuration registers a PC's TPM has; those of a quote are among them.
const PCRs = 24

// VerifyQuote checks that the attestation key signed exactly these values for exactly this binding. The values of an
// accepted quote are what the TPM had then.
func (k Key) VerifyQuote(e api.TPMEvidence, b api.QuoteBinding) error {
	if len(e.PCRs) == 0 || len(e.PCRs) > PCRs {
		return fmt.Errorf("a quote is over 1 to %d PCRs, not %d", PCRs, len(e.PCRs))
	}
	a, err := k.attested(e.Quote, e.Signature)
	if err != nil {
		return err
	}
	if a.Type != tpm2.TPMSTAttestQuote {
		return errors.New("the statement is not a quote")
	}
	want := b.Digest()
	if subtle.ConstantTimeCompare(a.ExtraData.Buffer, want[:]) != 1 {
		return errors.New("the quote was made for another nonce, request key or machine")
	}
	q, err := a.Attested.Quote()
	if err != nil {
		return err
	}
	selected, err := selection(e.PCRs)
	if err != nil {
		return err
	}
	if s := q.PCRSelect.PCRSelections; len(s) != 1 || s[0].Hash != tpm2.TPMAlgSHA256 || !bytes.Equal(trim(s[0].PCRSelect), trim(selected)) {
		return errors.New("the quote is over other PCRs than those that came with it")
	}
	h := sha256.New()
	for _, pcr := range e.PCRs {
		h.Write(pcr.Value)
	}
	if subtle.ConstantTimeCompare(h.Sum(nil), q.PCRDigest.Buffer) != 1 {
		return errors.New("the PCR values are not those that were signed")
	}
	return nil
}

// selection is the TPM's bit map of the PCRs, which must be in ascending order, as the TPM digests them.
func selection(pcrs []api.TPMPCR) ([]byte, error) {
	out := make([]byte, PCRs/8)
	last := -1
	for _, p := range pcrs {
		if p.Index <= last || p.Index >= PCRs || len(p.Value) != sha256.Size {
			return nil, fmt.Errorf("PCRs come once each, in ascending order below %d, with %d bytes", PCRs, sha256.Size)
		}
		out[p.Index/8] |= 1 << (p.Index % 8)
		last = p.Index
	}
	return out, nil
}

func trim(b []byte) []byte { return bytes.TrimRight(b, "\x00") }

// CheckCertified makes sure that the attestation key says that identity lives in its TPM.
func (k Key) CheckCertified(identity Key, info, signature []byte) error {
	a, err := k.attested(info, signature)
	if err != nil {
		return err
	}
	if a.Type != tpm2.TPMSTAttestCertify {
		return errors.New("the statement does not certify a key")
	}
	c, err := a.Attested.Certify()
	if err != nil {
		return err
	}
	if !bytes.Equal(c.Name.Buffer, identity.Name) {
		return errors.New("the statement certifies another key")
	}
	return nil
}
