package inventory

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// issued is a certificate with what the broker remembers of it.
type issued struct {
	pem, fingerprint []byte
	keyHash          string // SHA-256 of the SubjectPublicKeyInfo, hexadecimal
	ends             time.Time
}

// issue signs the key of a certificate request under a common name.
func (s *Service) issue(name, accountID, csr string) (issued, error) {
	cert, err := s.Issuer.IssueClient([]byte(csr), name, accountID, s.CertLife)
	if err != nil {
		return issued{}, problem.Invalid("csr", err.Error())
	}
	block, _ := pem.Decode(cert)
	if block == nil {
		return issued{}, errors.New("the issued certificate is not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return issued{}, fmt.Errorf("reading the issued certificate: %w", err)
	}
	fingerprint, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return issued{pem: cert, fingerprint: fingerprint[:], keyHash: hex.EncodeToString(key[:]), ends: leaf.NotAfter}, nil
}

// certify signs the request's key, binds it to the machine, and makes this the only certificate that counts.
func (s *Service) certify(inst *store.Instance, csr string) ([]byte, error) {
	c, err := s.issue(inst.ID, inst.AccountID, csr)
	if err != nil {
		return nil, err
	}
	bind(inst, c)
	return c.pem, nil
}

func bind(inst *store.Instance, c issued) {
	inst.CertFingerprint, inst.FormerCertificate, inst.CertExpiresAt, inst.KeyHash = c.fingerprint, "", c.ends, c.keyHash
	inst.RevokedAt, inst.KeyConflict = nil, nil
	inst.TPM, inst.TPMChallenge, inst.EKHash, inst.CloudIdentity = nil, nil, "", "" // of who held the former key
}

// Renew gives the calling machine another certificate for the key that it has. The one it called with counts until it
// ends: the answer may be lost, and whoever has the one has the other.
func (s *Service) Renew(ctx context.Context, p tenant.Principal, call idempotency.Call, in api.RenewRequest) (api.RenewResponse, error) {
	return idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (api.RenewResponse, error) {
		var none api.RenewResponse
		if err := CheckClock(t.Now(), in.Time); err != nil {
			return none, err
		}
		inst, err := store.In[store.Instance](t).Get(p.Instance)
		if err != nil {
			return none, fmt.Errorf("reading the machine: %w", err)
		}
		c, err := s.issue(inst.ID, inst.AccountID, in.CSR)
		if err != nil {
			return none, err
		}
		if c.keyHash != inst.KeyHash {
			return none, problem.New(403, "key-changed", "The certificate request is for another key",
				"A certificate is renewed for the key that the machine enrolled with, and for no other.",
				"Enrol the machine again with a new token to give it another key.")
		}
		inst.CertFingerprint, inst.FormerCertificate, inst.CertExpiresAt = c.fingerprint, p.Certificate, c.ends
		if err := store.In[store.Instance](t).Update(&inst); err != nil {
			return none, err
		}
		if err := audit.Append(t, audit.Entry{Category: "agent", Event: "instance.certificate-renewed", Actor: p.Actor(), Subject: inst.ID,
			Detail: map[string]string{"host_name": inst.HostName, "certificate": hex.EncodeToString(c.fingerprint),
				"expires": c.ends.UTC().Format(time.RFC3339), "address": p.Address}}); err != nil {
			return none, err
		}
		s.publish(t, feed.TopicInstances)
		return api.RenewResponse{Certificate: string(c.pem), CA: string(s.Issuer.CACert())}, nil
	})
}

// RevokeCertificate ends a machine's certificate at once. It can call no more, so what it holds ends with its lease.
func (s *Service) RevokeCertificate(ctx context.Context, p tenant.Principal, id string, d api.Decision) error {
	return s.decideInstance(ctx, p, id, d, "instance.certificate-revoked", func(t *store.Tenant, inst *store.Instance) error {
		if inst.RevokedAt != nil {
			return problem.Conflict("The machine's certificate is revoked already.", "A new token lets the machine enrol again.")
		}
		now := t.Now()
		inst.FormerCertificate, inst.RevokedAt = "", &now
		inst.TPM, inst.TPMChallenge, inst.EKHash, inst.CloudIdentity = nil, nil, "", "" // free for who follows
		return nil
	})
}

// decideInstance carries out what a person decides about a machine's identity.
func (s *Service) decideInstance(ctx context.Context, p tenant.Principal, id string, d api.Decision, event string, change func(*store.Tenant, *store.Instance) error) error {
	if err := checkReason(d.Reason); err != nil {
		return err
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		inst, err := store.In[store.Instance](t).First(store.Eq("id", id), store.ForUpdate())
		if errors.Is(err, store.ErrNotFound) {
			return problem.NotFound("instance")
		}
		if err != nil {
			return err
		}
		detail := map[string]string{"host_name": inst.HostName, "reason": d.Reason}
		if inst.KeyConflict != nil {
			detail["other_key"] = inst.KeyConflict.KeySHA256
		}
		if err := change(t, &inst); err != nil {
			return err
		}
		if err := store.In[store.Instance](t).Update(&inst); err != nil {
			return err
		}
		s.publish(t, feed.TopicInstances, feed.TopicKeyRequests)
		return audit.Append(t, audit.Entry{Category: "user", Event: event, Actor: p.Actor(), Subject: id, Detail: detail})
	})
}

// RevokeImageCertificate ends the certificate by which machines of an image enrol. Machines that are enrolled stay so.
func (s *Service) RevokeImageCertificate(ctx context.Context, p tenant.Principal, id string, d api.Decision) error {
	if err := checkReason(d.Reason); err != nil {
		return err
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		image, err := store.In[store.Image](t).Get(id)
		if err != nil {
			return noImage(err)
		}
		if image.Certificate == "" {
			return problem.Conflict("The image has no certificate.", "Machines enrol by token until its template is enrolled with --template.")
		}
		detail := map[string]string{"name": image.Name, "reason": d.Reason, "certificate": image.Certificate}
		image.Certificate, image.CertExpiresAt = "", nil
		if err := store.In[store.Image](t).Update(&image); err != nil {
			return err
		}
		s.publish(t, feed.TopicImages)
		return audit.Append(t, audit.Entry{Category: "user", Event: "image.certificate-revoked", Actor: p.Actor(), Subject: id, Detail: detail})
	})
}

func checkReason(reason string) error {
	f := faults{}
	f.text("reason", strings.NewReplacer("\r", " ", "\n", " ", "\t", " ").Replace(reason), 0, 1024)
	return f.err()
}
