package inventory

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/attest"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// challengeLife is how long a TPM has to read its challenge.
const challengeLife = 5 * time.Minute

// RegisterTPM looks at what a machine shows of its TPM and answers a secret that only that TPM can read.
func (s *Service) RegisterTPM(ctx context.Context, p tenant.Principal, in api.TPMRegistration) (api.TPMChallenge, error) {
	var out api.TPMChallenge
	var refusal error
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		out, refusal = api.TPMChallenge{}, nil
		t := tx.Tenant(p.AccountID)
		inst, err := store.In[store.Instance](t).First(store.Eq("id", p.Instance), store.ForUpdate())
		if err != nil {
			return fmt.Errorf("reading the machine: %w", err)
		}
		found, ak, ek, err := s.examine(t, inst, in)
		if err == nil && inst.TPM != nil && inst.EKHash != found.EndorsementSHA256 {
			err = errors.New("the machine has another TPM than it had; enrol it again if its board was changed")
		}
		if err != nil {
			refusal = problem.New(403, "tpm-refused", "The TPM does not count", "What the machine shows of its TPM is refused: "+err.Error()+".",
				"Check the TPM's firmware and the broker's --tpm-roots; with tpm: off in its configuration the machine goes on without.")
			return audit.Append(t, audit.Entry{Category: "agent", Event: "instance.tpm-refused", Actor: p.Actor(), Subject: inst.ID,
				Detail: map[string]string{"host_name": inst.HostName, "reason": err.Error(), "address": p.Address}})
		}
		secret := make([]byte, 32)
		rand.Read(secret)
		if out.CredentialBlob, out.EncryptedSecret, err = ek.Challenge(ak.Name, secret); err != nil {
			return problem.Invalid("endorsement_key", err.Error())
		}
		sum := sha256.Sum256(secret)
		inst.TPMChallenge = &store.TPMChallenge{TPM: found, SecretHash: sum[:], ExpiresAt: t.Now().Add(challengeLife)}
		return store.In[store.Instance](t).Update(&inst)
	})
	if err == nil {
		err = refusal
	}
	return out, err
}

// examine checks all that can be known of a TPM without asking it.
func (s *Service) examine(t *store.Tenant, inst store.Instance, in api.TPMRegistration) (found store.TPM, ak attest.Key, ek attest.Endorsement, err error) {
	if ek, err = attest.ParseEndorsement(in.EndorsementKey); err != nil {
		return found, ak, ek, err
	}
	if ak, err = attest.ParseAttestationKey(in.AttestationKey); err != nil {
		return found, ak, ek, err
	}
	sum := sha256.Sum256(in.EndorsementKey)
	found = store.TPM{AttestationKey: in.AttestationKey, TPMInfo: api.TPMInfo{EndorsementSHA256: hex.EncodeToString(sum[:]), RegisteredAt: t.Now()}}
	if s.TPMRoots != nil {
		if found.Maker, err = ek.CheckCertificate(in.EndorsementCertificate, s.TPMRoots, t.Now()); err != nil {
			return found, ak, ek, err
		}
	}
	if len(in.IdentityKey) == 0 {
		return found, ak, ek, nil
	}
	identity, err := attest.ParseIdentityKey(in.IdentityKey)
	if err != nil {
		return found, ak, ek, err
	}
	if err := ak.CheckCertified(identity, in.CertifyInfo, in.CertifySignature); err != nil {
		return found, ak, ek, fmt.Errorf("identity key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(identity.Public)
	if err != nil {
		return found, ak, ek, err
	}
	if sum := sha256.Sum256(der); hex.EncodeToString(sum[:]) != inst.KeyHash {
		return found, ak, ek, errors.New("identity key: the machine's certificate is for another key")
	}
	found.HoldsKey = true
	return found, ak, ek, nil
}

// ActivateTPM takes the secret of the challenge back: who knows it has the TPM. A TPM belongs to one machine: another
// that had it before loses it.
func (s *Service) ActivateTPM(ctx context.Context, p tenant.Principal, in api.TPMActivation) (api.TPMInfo, error) {
	var out api.TPMInfo
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		instances := store.In[store.Instance](t)
		inst, err := instances.First(store.Eq("id", p.Instance), store.ForUpdate())
		if err != nil {
			return fmt.Errorf("reading the machine: %w", err)
		}
		sum := sha256.Sum256(in.Secret)
		c := inst.TPMChallenge
		if c == nil || !c.ExpiresAt.After(t.Now()) || subtle.ConstantTimeCompare(sum[:], c.SecretHash) != 1 {
			return problem.New(403, "tpm-challenge-refused", "The answer to the TPM's challenge does not count",
				"It is not the secret that this machine's TPM was given within the last five minutes.", "Register the TPM again.")
		}
		before, err := instances.List(store.Eq("ek_hash", c.EndorsementSHA256), store.Ne("id", inst.ID))
		if err != nil {
			return err
		}
		for _, other := range before {
			other.TPM, other.EKHash = nil, ""
			if err := instances.Update(&other); err != nil {
				return err
			}
			if err := audit.Append(t, audit.Entry{Category: "agent", Event: "instance.tpm-moved", Actor: p.Actor(), Subject: other.ID,
				Detail: map[string]string{"host_name": other.HostName, "to": inst.ID, "endorsement_key": c.EndorsementSHA256}}); err != nil {
				return err
			}
		}
		news := inst.TPM == nil || inst.TPM.HoldsKey != c.HoldsKey || inst.TPM.Maker != c.Maker
		inst.TPM, inst.EKHash, inst.TPMChallenge = &c.TPM, c.EndorsementSHA256, nil
		if err := instances.Update(&inst); err != nil {
			return err
		}
		out = inst.TPM.TPMInfo
		if !news {
			return nil // an agent does this at each start
		}
		s.publish(t, feed.TopicInstances)
		return audit.Append(t, audit.Entry{Category: "agent", Event: "instance.tpm-registered", Actor: p.Actor(), Subject: inst.ID,
			Detail: map[string]string{"host_name": inst.HostName, "endorsement_key": c.EndorsementSHA256, "maker": c.Maker,
				"holds_key": strconv.FormatBool(c.HoldsKey), "address": p.Address}})
	})
	return out, err
}
