package attest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"keyward/agent/identity/tpm"
	"keyward/broker/api"
	"keyward/broker/internal/attest"
	"keyward/e2e/lab"
)

// chip is a TPM in software, switched on for one test. Its socket needs a short path.
func chip(t testing.TB) (*lab.TPM, *tpm.Device) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kwt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s, err := lab.StartTPM(t.Context(), dir)
	if errors.Is(err, lab.ErrNoTPM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	d, err := tpm.Open(s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	return s, d
}

func keysOf(t testing.TB, d *tpm.Device) (tpm.Keys, attest.Key) {
	t.Helper()
	keys, err := d.NewKeys(true)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := attest.ParseAttestationKey(keys.Attestation.Public)
	if err != nil {
		t.Fatal(err)
	}
	return keys, ak
}

func binding() api.QuoteBinding {
	return api.QuoteBinding{Purpose: api.QuoteForRequest, AccountID: "a", InstanceID: "i", Nonce: "n", PublicKey: []byte("hpke")}
}

// A quote counts for its key, nonce, request key, machine and purpose, with the values that were signed, and for nothing
// else.
func TestVerifyQuote_countsForWhatWasSignedAndNothingElse(t *testing.T) {
	t.Parallel()
	s, d := chip(t)
	keys, ak := keysOf(t, d)
	_, other := chip(t)
	otherKeys, _ := keysOf(t, other)
	quote, err := d.Quote(keys, binding())
	if err != nil {
		t.Fatal(err)
	}
	if err := ak.VerifyQuote(*quote, binding()); err != nil {
		t.Fatalf("a good quote: %v", err)
	}
	foreign, err := other.Quote(otherKeys, binding())
	if err != nil {
		t.Fatal(err)
	}
	registration, err := d.Register(keys)
	if err != nil {
		t.Fatal(err)
	}
	before := quote.PCRs[8].Value
	if err := s.Extend(8, sha256.Sum256([]byte("another kernel"))); err != nil {
		t.Fatal(err)
	}
	extended, err := d.Quote(keys, binding())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(extended.PCRs[8].Value, before) || ak.VerifyQuote(*extended, binding()) != nil {
		t.Errorf("after extending PCR 8 it is %x, before %x", extended.PCRs[8].Value, before)
	}
	change := func(f func(*api.TPMEvidence)) api.TPMEvidence {
		e := *quote
		e.PCRs = append([]api.TPMPCR(nil), quote.PCRs...)
		f(&e)
		return e
	}
	for name, e := range map[string]api.TPMEvidence{
		"another TPM's":             *foreign,
		"values that nobody signed": change(func(e *api.TPMEvidence) { e.PCRs[8].Value = extended.PCRs[8].Value }),
		"a value left out":          change(func(e *api.TPMEvidence) { e.PCRs = e.PCRs[:15] }),
		"a value added":             change(func(e *api.TPMEvidence) { e.PCRs = append(e.PCRs, api.TPMPCR{Index: 16, Value: make([]byte, 32)}) }),
		"values exchanged":          change(func(e *api.TPMEvidence) { e.PCRs[0], e.PCRs[1] = e.PCRs[1], e.PCRs[0] }),
		"a value twice":             change(func(e *api.TPMEvidence) { e.PCRs[1].Index = 0 }),
		"no values":                 change(func(e *api.TPMEvidence) { e.PCRs = nil }),
		"an index out of range":     change(func(e *api.TPMEvidence) { e.PCRs[15].Index = 1 << 20 }),
		"a negative index":          change(func(e *api.TPMEvidence) { e.PCRs[0].Index = -1 }),
		"another quote's signature": change(func(e *api.TPMEvidence) { e.Signature = extended.Signature }),
		"a changed byte":            change(func(e *api.TPMEvidence) { e.Quote = append([]byte{}, e.Quote...); e.Quote[20] ^= 1 }),
		"an empty one":              {},
		"a huge one":                change(func(e *api.TPMEvidence) { e.Quote = make([]byte, 1<<20) }),
		"a certificate of the key": change(func(e *api.TPMEvidence) {
			e.Quote, e.Signature = registration.CertifyInfo, registration.CertifySignature
		}),
	} {
		if err := ak.VerifyQuote(e, binding()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, f := range map[string]func(*api.QuoteBinding){
		"another nonce (replayed)": func(b *api.QuoteBinding) { b.Nonce = "later" },
		"another request key":      func(b *api.QuoteBinding) { b.PublicKey = []byte("mine") },
		"another machine":          func(b *api.QuoteBinding) { b.InstanceID = "j" },
		"another account":          func(b *api.QuoteBinding) { b.AccountID = "b" },
		"another purpose":          func(b *api.QuoteBinding) { b.Purpose = api.QuoteForHeartbeat },
	} {
		b := binding()
		f(&b)
		if err := ak.VerifyQuote(*quote, b); err == nil || !strings.Contains(err.Error(), "another nonce") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The secret of a challenge comes out of the TPM that has both keys, and of no other.
func TestChallenge_onlyTheTPMWithBothKeysReadsIt(t *testing.T) {
	t.Parallel()
	_, d := chip(t)
	keys, ak := keysOf(t, d)
	registration, err := d.Register(keys)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := attest.ParseEndorsement(registration.EndorsementKey)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("0123456789abcdef0123456789abcdef")
	blob, encrypted, err := ek.Challenge(ak.Name, secret)
	if err != nil {
		t.Fatal(err)
	}
	challenge := api.TPMChallenge{CredentialBlob: blob, EncryptedSecret: encrypted}
	got, err := d.Activate(keys, challenge)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("activated %q, %v", got, err)
	}
	again, err := d.NewKeys(false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Activate(again, challenge); err == nil {
		t.Error("another attestation key of the same TPM read it")
	}
	_, other := chip(t)
	otherKeys, _ := keysOf(t, other)
	if _, err := other.Activate(otherKeys, challenge); err == nil {
		t.Error("another TPM read it")
	}
}

// What a registration shows is believed as far as it proves it.
func TestRegistration_keysAreWhatTheySay(t *testing.T) {
	t.Parallel()
	_, d := chip(t)
	keys, ak := keysOf(t, d)
	r, err := d.Register(keys)
	if err != nil {
		t.Fatal(err)
	}
	id, err := attest.ParseIdentityKey(r.IdentityKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := ak.CheckCertified(id, r.CertifyInfo, r.CertifySignature); err != nil {
		t.Fatalf("the certified key: %v", err)
	}
	others, err := d.NewKeys(true)
	if err != nil {
		t.Fatal(err)
	}
	another, err := attest.ParseIdentityKey(others.Identity.Public)
	if err != nil {
		t.Fatal(err)
	}
	if ak.CheckCertified(another, r.CertifyInfo, r.CertifySignature) == nil {
		t.Error("the statement counts for another key")
	}
	quote, err := d.Quote(keys, binding())
	if err != nil {
		t.Fatal(err)
	}
	if ak.CheckCertified(id, quote.Quote, quote.Signature) == nil {
		t.Error("a quote counts as a certificate of a key")
	}
	if _, err := attest.ParseAttestationKey(r.IdentityKey); err == nil {
		t.Error("an unrestricted key counts as an attestation key")
	}
	if _, err := attest.ParseIdentityKey(r.AttestationKey); err == nil {
		t.Error("a restricted key counts as an identity key")
	}
	for name, b := range map[string][]byte{"empty": nil, "huge": make([]byte, 1<<16), "with something behind it": append(append([]byte{}, r.EndorsementKey...), 0),
		"the attestation key": r.AttestationKey, "cut off": r.EndorsementKey[:40]} {
		if _, err := attest.ParseEndorsement(b); err == nil {
			t.Errorf("an endorsement key that is %s was taken", name)
		}
	}
	weak := bytes.Clone(r.EndorsementKey)
	weak[7] ^= 0x40 // userWithAuth
	if _, err := attest.ParseEndorsement(weak); err == nil {
		t.Error("an endorsement key with other attributes was taken")
	}
}

// An endorsement certificate counts when it is for the key and leads to a root that was named.
func TestCheckCertificate_leadsToTheMaker(t *testing.T) {
	t.Parallel()
	s, d := chip(t)
	maker, err := lab.NewMaker("Chips Inc. CA")
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.Endorse(s); err != nil {
		t.Fatal(err)
	}
	keys, _ := keysOf(t, d)
	r, err := d.Register(keys)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := attest.ParseEndorsement(r.EndorsementKey)
	if err != nil {
		t.Fatal(err)
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(maker.Root())
	stranger, err := lab.NewMaker("Another CA")
	if err != nil {
		t.Fatal(err)
	}
	others.AddCert(stranger.Root())
	if issuer, err := ek.CheckCertificate(r.EndorsementCertificate, roots, time.Now()); err != nil || issuer != "Chips Inc. CA" {
		t.Fatalf("issued by %q, %v", issuer, err)
	}
	_, second := chip(t)
	secondKeys, _ := keysOf(t, second)
	r2, err := second.Register(secondKeys)
	if err != nil {
		t.Fatal(err)
	}
	ek2, err := attest.ParseEndorsement(r2.EndorsementKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"another root":  func() error { _, err := ek.CheckCertificate(r.EndorsementCertificate, others, time.Now()); return err },
		"none":          func() error { _, err := ek2.CheckCertificate(r2.EndorsementCertificate, roots, time.Now()); return err },
		"another TPM's": func() error { _, err := ek2.CheckCertificate(r.EndorsementCertificate, roots, time.Now()); return err },
		"one that has ended": func() error {
			_, err := ek.CheckCertificate(r.EndorsementCertificate, roots, time.Now().AddDate(1, 0, 0))
			return err
		},
		"rubbish":    func() error { _, err := ek.CheckCertificate([]byte("x"), roots, time.Now()); return err },
		"a huge one": func() error { _, err := ek.CheckCertificate(make([]byte, 1<<20), roots, time.Now()); return err },
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The machine's key signs TLS from inside the TPM, and its blobs are worth nothing to another one.
func TestSigner_staysInItsTPM(t *testing.T) {
	t.Parallel()
	_, d := chip(t)
	keys, _ := keysOf(t, d)
	signer, err := d.Signer(*keys.Identity)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA256}, signer)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil || request.CheckSignature() != nil {
		t.Fatalf("the request: %v, %v", err, request.CheckSignature())
	}
	_, other := chip(t)
	if _, err := other.Signer(*keys.Identity); err == nil || !strings.Contains(err.Error(), "another TPM") {
		t.Errorf("another TPM loads the key: %v", err)
	}
}

func FuzzVerifyQuote(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	ak := attest.Key{Public: &key.PublicKey, Name: []byte{0}}
	f.Add([]byte{0xff, 'T', 'C', 'G', 0x80, 0x18}, []byte{0, 0x18, 0, 0x0b, 0, 1, 1, 0, 1, 1})
	f.Fuzz(func(t *testing.T, quote, signature []byte) {
		if ak.VerifyQuote(api.TPMEvidence{Quote: quote, Signature: signature, PCRs: []api.TPMPCR{{Value: make([]byte, 32)}}}, binding()) == nil {
			t.Error("a quote of no TPM was accepted")
		}
	})
}

func FuzzPublicAreas(f *testing.F) {
	f.Add([]byte{0, 0x23, 0, 0x0b, 0, 5, 4, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 0, 0, 0})
	f.Add([]byte{0, 1, 0, 0x0b, 0, 3, 0, 0xb2})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := attest.ParseEndorsement(b); err == nil {
			if _, _, err := e.Challenge(make([]byte, 34), make([]byte, 32)); err != nil {
				t.Errorf("no challenge for an accepted key: %v", err)
			}
			_, _ = e.CheckCertificate(b, x509.NewCertPool(), time.Now())
		}
		if k, err := attest.ParseAttestationKey(b); err == nil && len(k.Name) != 34 {
			t.Errorf("a name of %d bytes", len(k.Name))
		}
		_, _ = attest.ParseIdentityKey(b)
	})
}
