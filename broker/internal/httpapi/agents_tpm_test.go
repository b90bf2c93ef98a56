package httpapi_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"keyward/agent/identity"
	"keyward/agent/identity/tpm"
	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/e2e/lab"
)

// sealed is a machine whose key lives in a TPM.
type sealed struct {
	*box
	chip   *lab.TPM
	device *tpm.Device
	keys   tpm.Keys
}

func newChip(t *testing.T) (*lab.TPM, *tpm.Device) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kwt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	chip, err := lab.StartTPM(t.Context(), dir)
	if errors.Is(err, lab.ErrNoTPM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chip.Stop)
	device, err := tpm.Open(chip.Socket)
	if err != nil {
		t.Fatal(err)
	}
	return chip, device
}

// sealedMachine enrols a machine with a key in a TPM, and registers the TPM.
func (o *org) sealedMachine(host string) *sealed {
	o.t.Helper()
	chip, device := newChip(o.t)
	m := &sealed{chip: chip, device: device}
	var err error
	if m.keys, err = device.NewKeys(true); err != nil {
		o.t.Fatal(err)
	}
	signer, err := device.Signer(*m.keys.Identity)
	if err != nil {
		o.t.Fatal(err)
	}
	_, in := o.enrolment(host)
	if in.CSR, err = identity.CSR(signer); err != nil {
		o.t.Fatal(err)
	}
	res, err := client.Enrol(o.t.Context(), client.EnrolOptions{URL: o.agentsAt, Token: o.token(1), Request: in})
	if err != nil {
		o.t.Fatal(err)
	}
	cert := pair(o.t, res.Certificate, signer)
	m.box = &box{org: o, Agent: o.agent(cert), id: res.InstanceID, host: host, cert: cert, held: map[string]bool{}}
	if _, err := m.register(m.device, m.keys); err != nil {
		o.t.Fatalf("register the TPM: %v", err)
	}
	return m
}

// register shows a TPM to the broker as this machine's.
func (b *box) register(device *tpm.Device, keys tpm.Keys) (api.TPMInfo, error) {
	b.t.Helper()
	in, err := device.Register(keys)
	if err != nil {
		b.t.Fatal(err)
	}
	challenge, err := b.RegisterTPM(b.t.Context(), in)
	if err != nil {
		return api.TPMInfo{}, err
	}
	secret, err := device.Activate(keys, challenge)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.ActivateTPM(b.t.Context(), api.TPMActivation{Secret: secret})
}

// quoted asks with a quote; change may spoil it.
func (m *sealed) quoted(deviceID string, change func(*api.KeyRequest)) (api.KeyRequestStatus, error) {
	m.t.Helper()
	in, _ := m.prepare(deviceID)
	quote, err := m.device.Quote(m.keys, api.QuoteBinding{Purpose: api.QuoteForRequest, AccountID: m.org.id, InstanceID: m.id, Nonce: in.Nonce, PublicKey: in.PublicKey})
	if err != nil {
		m.t.Fatal(err)
	}
	in.Evidence.TPM = quote
	if change != nil {
		change(&in)
	}
	return m.Request(m.t.Context(), in)
}

// pcrRule approves machines whose PCR 8 has a value and whose key is in a TPM.
func pcrRule(name string, value []byte) api.Policy {
	return api.Policy{Name: name, OnMatch: api.ActionApprove, OnFailure: api.ActionManual, Rules: []api.Rule{
		{Fact: api.FactTPMPCR, Subject: "8", Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: hex.EncodeToString(value)}}},
		{Fact: api.FactIdentityKey, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpNotEqual, Value: api.KeyInSoftware}}},
	}}
}

func finding(v api.Verdict, name api.FactName) (out api.Finding) {
	for _, f := range v.Findings {
		if f.Fact == name && f.Status != api.RuleInformational {
			return f
		}
	}
	return out
}

// The life of a machine with a TPM: its quote opens by policy, what was started changes and the rule fails; a quote that
// is replayed, spoilt, of another key, machine or TPM is refused.
func TestTPM_quoteDecidesAndBadOnesAreRefused(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		m := o.sealedMachine("db1")
		d, _ := m.encrypted("data")
		first, err := m.device.Quote(m.keys, api.QuoteBinding{})
		if err != nil {
			t.Fatal(err)
		}
		o.policy(pcrRule("measured", first.PCRs[8].Value), d)
		got, err := m.quoted(d.ID, nil)
		if err != nil || got.Status != api.KeyApproved {
			t.Fatalf("with a good quote: %+v, %v", got, err)
		}
		detail := must[api.KeyRequestDetail](t)(o.admin.KeyRequest(t.Context(), got.ID))
		for _, name := range []api.FactName{api.FactTPMPCR, api.FactIdentityKey} {
			if f := finding(detail.Verdict, name); f.Grade != api.GradeHardwareSigned || f.Status != api.RulePassed {
				t.Errorf("%s is shown as %+v", name, f)
			}
		}
		if i := o.instance(m.id); i.TPM == nil || !i.TPM.HoldsKey || i.TPM.Maker != "" {
			t.Errorf("the machine's page shows %+v", i.TPM)
		}

		none, err := m.quoted(d.ID, func(in *api.KeyRequest) { in.Evidence.TPM = nil })
		if err != nil || none.Status != api.KeyPending {
			t.Errorf("without a quote: %+v, %v", none, err)
		}
		claimed, err := m.quoted(d.ID, func(in *api.KeyRequest) {
			fact := api.Fact{Name: api.FactTPMPCR, Subject: "8", Values: []string{hex.EncodeToString(first.PCRs[8].Value)}, Grade: api.GradeHardwareSigned}
			in.Evidence.TPM, in.Evidence.Facts, in.Evidence.Verified = nil, append(in.Evidence.Facts, fact), []api.Fact{fact}
		})
		if err != nil || claimed.Status != api.KeyPending {
			t.Errorf("with the value as the machine's word: %+v, %v", claimed, err)
		}

		_, otherTPM := newChip(t)
		otherKeys, err := otherTPM.NewKeys(true)
		if err != nil {
			t.Fatal(err)
		}
		var kept api.TPMEvidence
		if _, err := m.quoted(d.ID, func(in *api.KeyRequest) { kept = *in.Evidence.TPM }); err != nil {
			t.Fatal(err)
		}
		requote := func(device *tpm.Device, keys tpm.Keys, change func(*api.QuoteBinding)) func(*api.KeyRequest) {
			return func(in *api.KeyRequest) {
				b := api.QuoteBinding{Purpose: api.QuoteForRequest, AccountID: o.id, InstanceID: m.id, Nonce: in.Nonce, PublicKey: in.PublicKey}
				if change != nil {
					change(&b)
				}
				q, err := device.Quote(keys, b)
				if err != nil {
					t.Fatal(err)
				}
				in.Evidence.TPM = q
			}
		}
		for name, change := range map[string]func(*api.KeyRequest){
			"replayed":            func(in *api.KeyRequest) { in.Evidence.TPM = &kept },
			"for another nonce":   requote(m.device, m.keys, func(b *api.QuoteBinding) { b.Nonce += "x" }),
			"for another key":     requote(m.device, m.keys, func(b *api.QuoteBinding) { b.PublicKey = make([]byte, len(b.PublicKey)) }),
			"for another machine": requote(m.device, m.keys, func(b *api.QuoteBinding) { b.InstanceID = "x" }),
			"for a heartbeat":     requote(m.device, m.keys, func(b *api.QuoteBinding) { b.Purpose = api.QuoteForHeartbeat }),
			"of another TPM":      requote(otherTPM, otherKeys, nil),
			"with unsigned PCRs":  func(in *api.KeyRequest) { in.Evidence.TPM.PCRs[8].Value = bytes.Repeat([]byte{1}, 32) },
			"cut off":             func(in *api.KeyRequest) { in.Evidence.TPM.Quote = in.Evidence.TPM.Quote[:20] },
		} {
			if _, err := m.quoted(d.ID, change); !client.Is(err, "quote-refused") {
				t.Errorf("a quote %s: %v", name, err)
			}
		}
		eq(t, "refusals in the log", o.count("key-request.refused"), 8)

		if err := m.chip.Extend(8, sha256.Sum256([]byte("another kernel"))); err != nil {
			t.Fatal(err)
		}
		changed, err := m.quoted(d.ID, nil)
		if err != nil || changed.Status != api.KeyPending || changed.Integrity != api.IntegrityBad {
			t.Errorf("after another boot: %+v, %v", changed, err)
		}
	})
}

// A TPM counts once it has read its secret, for the machine that showed it, and a machine keeps the TPM that it had.
func TestTPM_registrationIsProvedAndBound(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		m := o.sealedMachine("db1")
		_, other := newChip(t)
		otherKeys, err := other.NewKeys(true)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.register(other, tpm.Keys{Attestation: otherKeys.Attestation})
		wantProblem(t, err, 403, "tpm-refused") // the machine has another TPM

		soft := o.machine("web1")
		_, err = soft.register(other, otherKeys)
		wantProblem(t, err, 403, "tpm-refused") // its certificate is not for the key in the TPM
		in, err := other.Register(tpm.Keys{Attestation: otherKeys.Attestation})
		if err != nil {
			t.Fatal(err)
		}
		challenge, err := soft.RegisterTPM(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		_, err = soft.ActivateTPM(t.Context(), api.TPMActivation{Secret: challenge.EncryptedSecret[:32]})
		wantProblem(t, err, 403, "tpm-challenge-refused")
		_, err = m.ActivateTPM(t.Context(), api.TPMActivation{Secret: make([]byte, 32)})
		wantProblem(t, err, 403, "tpm-challenge-refused")
		info, err := soft.register(other, tpm.Keys{Attestation: otherKeys.Attestation})
		if err != nil || info.HoldsKey {
			t.Fatalf("a software key beside a TPM: %+v, %v", info, err)
		}
		third := o.machine("web2") // the same board, installed anew
		if _, err := third.register(other, tpm.Keys{Attestation: otherKeys.Attestation}); err != nil {
			t.Fatal(err)
		}
		if o.instance(soft.id).TPM != nil || o.instance(third.id).TPM == nil {
			t.Error("a TPM belongs to two machines")
		}
		eq(t, "moved", o.count("instance.tpm-moved"), 1)
		for name, change := range map[string]func(*api.TPMRegistration){
			"no endorsement key":   func(in *api.TPMRegistration) { in.EndorsementKey = []byte{0} },
			"another AK":           func(in *api.TPMRegistration) { in.AttestationKey = in.EndorsementKey },
			"an uncertified key":   func(in *api.TPMRegistration) { in.IdentityKey = otherKeys.Identity.Public },
			"something behind the": func(in *api.TPMRegistration) { in.EndorsementKey = append([]byte{}, append(in.EndorsementKey, 1)...) },
		} {
			bad := in
			change(&bad)
			if _, err := third.RegisterTPM(t.Context(), bad); !client.Is(err, "tpm-refused") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// With roots of makers only TPMs that they endorse count, and rules may ask for that.
func TestTPM_makersRootsAreAsked(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		maker, err := lab.NewMaker("Chips Inc. CA")
		if err != nil {
			t.Fatal(err)
		}
		r.desk.Service.TPMRoots = x509.NewCertPool()
		r.desk.Service.TPMRoots.AddCert(maker.Root())
		o := r.org("acme")
		chip, device := newChip(t)
		keys, err := device.NewKeys(false)
		if err != nil {
			t.Fatal(err)
		}
		b := o.machine("db1")
		_, err = b.register(device, keys)
		wantProblem(t, err, 403, "tpm-refused")
		if !strings.Contains(err.Error(), "no endorsement certificate") {
			t.Errorf("the refusal says %v", err)
		}
		if err := maker.Endorse(chip); err != nil {
			t.Fatal(err)
		}
		if info, err := b.register(device, keys); err != nil || info.Maker != "Chips Inc. CA" {
			t.Errorf("an endorsed TPM: %+v, %v", info, err)
		}
	})
}

// The identity document of a cloud instance is bound to the first key that brings it. Its facts are shown as signed;
// from another key they are worth nothing, and the request waits for a person.
func TestCloud_documentIsBoundToTheFirstKey(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		document := must[api.CloudDocument](t)(r.cloud.Document("i-0123456789abcdef0"))
		rule := func(d api.Device, name string) {
			o.policy(api.Policy{Name: name, OnMatch: api.ActionApprove, OnFailure: api.ActionManual, Rules: []api.Rule{
				{Fact: api.FactLocation, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "eu-central-1b"}}},
				{Fact: api.FactCloudAccount, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "123456789012"}}}}}, d)
		}
		ask := func(b *box, device string, doc *api.CloudDocument) (api.KeyRequestStatus, api.KeyRequestDetail) {
			in, _ := b.prepare(device)
			in.Evidence.Cloud = doc
			s := must[api.KeyRequestStatus](t)(b.Request(t.Context(), in))
			return s, must[api.KeyRequestDetail](t)(o.admin.KeyRequest(t.Context(), s.ID))
		}
		a := o.machine("db1")
		d, _ := a.encrypted("data")
		rule(d, "in Frankfurt")
		s, detail := ask(a, d.ID, &document)
		eq(t, "with its document", s.Status, api.KeyApproved)
		for _, name := range []api.FactName{api.FactLocation, api.FactCloudAccount} {
			if f := finding(detail.Verdict, name); f.Grade != api.GradeCloudSigned || f.Source != "EC2 instance identity document" {
				t.Errorf("%s is shown as %+v", name, f)
			}
		}
		eq(t, "bound to", o.instance(a.id).CloudIdentity, "aws/123456789012/eu-central-1/i-0123456789abcdef0")
		s, _ = ask(a, d.ID, nil)
		eq(t, "without it", s.Status, api.KeyPending)

		thief := o.machine("web1")
		e, _ := thief.encrypted("other")
		rule(e, "also there")
		s, detail = ask(thief, e.ID, &document)
		eq(t, "a copied document", s.Status, api.KeyPending)
		if !strings.Contains(s.Reason, "db1") || !strings.Contains(finding(detail.Verdict, api.FactCloudAccount).Actual, "no data") {
			t.Errorf("it is shown as %q, %+v", s.Reason, finding(detail.Verdict, api.FactCloudAccount))
		}
		eq(t, "nothing bound", o.instance(thief.id).CloudIdentity, "")
		if o.instance(thief.id).Suspicion == "" {
			t.Error("no suspicion is shown")
		}

		moved := must[api.CloudDocument](t)(r.cloud.Document("i-0ffffffffffffffff"))
		s, _ = ask(a, d.ID, &moved)
		eq(t, "its key on another instance", s.Status, api.KeyPending)
		if !strings.Contains(s.Reason, "it was copied") {
			t.Errorf("it is shown as %q", s.Reason)
		}
		forger, err := lab.NewCloud("eu-central-1")
		if err != nil {
			t.Fatal(err)
		}
		third := o.machine("web2")
		f, _ := third.encrypted("third")
		rule(f, "third")
		forged := must[api.CloudDocument](t)(forger.Document("i-3"))
		s, detail = ask(third, f.ID, &forged)
		eq(t, "a forged document", s.Status, api.KeyPending)
		if why := finding(detail.Verdict, api.FactCloudAccount).Actual; !strings.Contains(why, "signature is not by") {
			t.Errorf("it is shown as %q", why)
		}
		eq(t, "bound once", o.count("instance.cloud-bound"), 1)
	})
}

// A heartbeat may carry a quote for a nonce of its own; a bad one ends no lease, but counts for nothing and is logged.
func TestTPM_heartbeatsCarryQuotes(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		m := o.sealedMachine("db1")
		beat := func(purpose string) error {
			nonce := must[api.NonceResponse](t)(m.Nonce(t.Context()))
			quote, err := m.device.Quote(m.keys, api.QuoteBinding{Purpose: purpose, AccountID: o.id, InstanceID: m.id, Nonce: nonce.Nonce})
			if err != nil {
				t.Fatal(err)
			}
			quote.Nonce = nonce.Nonce
			_, err = m.Heartbeat(t.Context(), api.Heartbeat{Held: []api.HeldKey{}, Time: o.now(), Evidence: api.Evidence{Facts: []api.Fact{},
				CollectedAt: o.now(), TPM: quote}})
			return err
		}
		if err := beat(api.QuoteForHeartbeat); err != nil {
			t.Fatal(err)
		}
		if err := beat(api.QuoteForRequest); err != nil {
			t.Fatalf("a refused quote ends the heartbeat: %v", err)
		}
		eq(t, "in the log", o.count("instance.quote-refused"), 1)
	})
}
