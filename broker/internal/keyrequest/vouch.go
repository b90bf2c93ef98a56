package keyrequest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/attest"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// vouch fills in what is signed in a machine's evidence, what the broker knows of its key, and what managers say of it. It changes inst, which the
// caller stores. errQuote says that a quote is not what it should be.
func (s *Service) vouch(t *store.Tenant, p tenant.Principal, inst *store.Instance, e *api.Evidence, purpose, nonce string, publicKey []byte) error {
	e.Verified, e.Unused = []api.Fact{identityKey(*inst, t.Now())}, nil
	if err := s.vouchCloud(t, p, inst, e); err != nil {
		return err
	}
	if s.Managers != nil {
		var confirmed []api.Fact
		confirmed, e.Unused = s.Managers.Confirmed(*inst, *e, p.Address)
		e.Verified = append(e.Verified, confirmed...)
	}
	if e.TPM == nil {
		return nil
	}
	if inst.TPM == nil {
		return errQuote{errors.New("the machine has registered no TPM")}
	}
	ak, err := attest.ParseAttestationKey(inst.TPM.AttestationKey)
	if err != nil {
		return fmt.Errorf("reading the machine's attestation key: %w", err)
	}
	err = ak.VerifyQuote(*e.TPM, api.QuoteBinding{Purpose: purpose, AccountID: t.AccountID(), InstanceID: inst.ID, Nonce: nonce, PublicKey: publicKey})
	if err != nil {
		return errQuote{err}
	}
	for _, pcr := range e.TPM.PCRs {
		e.Verified = append(e.Verified, api.Fact{Name: api.FactTPMPCR, Subject: strconv.Itoa(pcr.Index), Values: []string{hex.EncodeToString(pcr.Value)},
			Source: "TPM quote, " + endorsed(inst.TPM.TPMInfo), Grade: api.GradeHardwareSigned, At: t.Now().UTC()})
	}
	return nil
}

// errQuote is a quote that was refused.
type errQuote struct{ why error }

func (e errQuote) Error() string { return "the TPM's quote is refused: " + e.why.Error() }

func endorsed(i api.TPMInfo) string {
	if i.Maker != "" {
		return "endorsed by " + i.Maker
	}
	return "pinned at first sight"
}

// identityKey is where the key of the certificate lives that the call was made with.
func identityKey(inst store.Instance, now time.Time) api.Fact {
	f := api.Fact{Name: api.FactIdentityKey, Values: []string{api.KeyInSoftware}, Source: "no TPM holds it", Grade: api.GradeBrokerObserved, At: now.UTC()}
	if inst.TPM == nil || !inst.TPM.HoldsKey {
		return f
	}
	f.Values[0], f.Source, f.Grade = api.KeyInTPM, "certified by its TPM, "+endorsed(inst.TPM.TPMInfo), api.GradeHardwareSigned
	if inst.TPM.Maker != "" {
		f.Values[0] = api.KeyInCertifiedTPM
	}
	return f
}

// refuseQuote refuses a request with a bad quote: a machine that is sound has none. The record stays.
func refuseQuote(t *store.Tenant, p tenant.Principal, inst store.Instance, deviceID string, why error) error {
	err := audit.Append(t, audit.Entry{Category: "key", Event: "key-request.refused", Actor: p.Actor(), Subject: deviceID,
		Detail: map[string]string{"host_name": inst.HostName, "reason": why.Error(), "address": p.Address}})
	if err != nil {
		return err
	}
	return idempotency.Keep(problem.New(403, "quote-refused", "The TPM's quote does not count", why.Error()+".",
		"Register the TPM (the agent does at its start), fetch a new nonce, and ask again."))
}

// vouchHeartbeat is vouch for a heartbeat. A quote that is refused must not end leases by itself: its facts are missing,
// rules on them fail, and the log says why.
func (s *Service) vouchHeartbeat(t *store.Tenant, p tenant.Principal, inst *store.Instance, e *api.Evidence) error {
	nonce := ""
	if e.TPM != nil {
		nonce = e.TPM.Nonce
		if err := s.Challenges.Spend(t, p, nonce); err != nil {
			return err
		}
	}
	err := s.vouch(t, p, inst, e, api.QuoteForHeartbeat, nonce, nil)
	var bad errQuote
	if !errors.As(err, &bad) {
		return err
	}
	e.TPM = nil
	return audit.Append(t, audit.Entry{Category: "agent", Event: "instance.quote-refused", Actor: p.Actor(), Subject: inst.ID,
		Detail: map[string]string{"host_name": inst.HostName, "reason": bad.Error(), "address": p.Address}})
}

// vouchCloud verifies a cloud's document and binds its instance to the machine's key at first sight. The document has no
// nonce: who reads it once has it for ever. So one that comes with another key is worth nothing, and raises suspicion.
func (s *Service) vouchCloud(t *store.Tenant, p tenant.Principal, inst *store.Instance, e *api.Evidence) error {
	if e.Cloud == nil {
		return nil
	}
	doc, err := s.Clouds.Verify(*e.Cloud)
	if err != nil {
		e.Verified = append(e.Verified, cloudFacts(doc, t.Now(), err.Error())...)
		return nil
	}
	if inst.CloudIdentity == "" {
		others, err := store.In[store.Instance](t).List(store.Eq("cloud_identity", doc.Identity()), store.Only("id", "host_name"), store.Limit(1))
		if err != nil {
			return err
		}
		if len(others) > 0 {
			why := fmt.Sprintf("The cloud instance %s belongs to machine %q, which has another key: its document was copied, or the machine enrolled twice.",
				doc.InstanceID, others[0].HostName)
			e.Verified = append(e.Verified, cloudFacts(attest.CloudDocument{}, t.Now(), why)...)
			return s.suspect(t, p, inst, why)
		}
		inst.CloudIdentity = doc.Identity()
		if err := audit.Append(t, audit.Entry{Category: "agent", Event: "instance.cloud-bound", Actor: p.Actor(), Subject: inst.ID,
			Detail: map[string]string{"host_name": inst.HostName, "cloud_instance": inst.CloudIdentity, "address": p.Address}}); err != nil {
			return err
		}
	}
	if inst.CloudIdentity != doc.Identity() {
		why := fmt.Sprintf("The machine's key is bound to cloud instance %s and is used on %s: it was copied.", inst.CloudIdentity, doc.Identity())
		e.Verified = append(e.Verified, cloudFacts(attest.CloudDocument{}, t.Now(), why)...)
		return s.suspect(t, p, inst, why)
	}
	e.Verified = append(e.Verified, cloudFacts(doc, t.Now(), "")...)
	return nil
}

// cloudFacts are what a cloud signed, or why nothing of it counts.
func cloudFacts(d attest.CloudDocument, now time.Time, missing string) []api.Fact {
	var out []api.Fact
	for _, f := range []struct {
		name  api.FactName
		value string
	}{{api.FactCloudProvider, d.Provider}, {api.FactCloudAccount, d.Account}, {api.FactCloudRegion, d.Region}, {api.FactLocation, d.Zone},
		{api.FactCloudInstance, d.InstanceID}, {api.FactCloudImage, d.ImageID}, {api.FactCloudInstanceType, d.InstanceType}} {
		fact := api.Fact{Name: f.name, Values: []string{f.value}, Source: "EC2 instance identity document", Grade: api.GradeCloudSigned, At: now.UTC()}
		if missing != "" {
			if f.name == api.FactLocation {
				continue // the machine's own word stays, graded as such
			}
			fact.Values, fact.Missing = []string{}, missing
		} else if f.value == "" {
			continue
		}
		out = append(out, fact)
	}
	return out
}
