package inventory

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// enrolImage gives an image the certificate by which machines that are started from it enrol. An earlier one is worth
// nothing any more.
func (s *Service) enrolImage(t *store.Tenant, who tenant.Principal, tokenID string, image store.Image, csr string) (api.EnrolResponse, error) {
	c, err := s.issue(api.ImageName+image.ID, t.AccountID(), csr)
	if err != nil {
		return api.EnrolResponse{}, err
	}
	image.Certificate, image.CertExpiresAt = hex.EncodeToString(c.fingerprint), &c.ends
	if err := store.In[store.Image](t).Update(&image); err != nil {
		return api.EnrolResponse{}, fmt.Errorf("recording the image's certificate: %w", err)
	}
	who.Image = image.ID
	if err := audit.Append(t, audit.Entry{Category: "agent", Event: "image.certificate-issued", Actor: who.Actor(), Subject: image.ID,
		Detail: map[string]string{"name": image.Name, "provider": image.Provider, "address": who.Address, "token": tokenID,
			"certificate": image.Certificate}}); err != nil {
		return api.EnrolResponse{}, err
	}
	out, err := s.answer(t, c.pem)
	out.ImageID = image.ID
	return out, err
}

// EnrolInstance gives a machine, at its first boot, a certificate of its own. The call carries its image's certificate,
// which every copy of the image has: so the key that comes first for a machine is bound to it, and another one that
// claims to be the same machine waits for a person.
func (s *Service) EnrolInstance(ctx context.Context, p tenant.Principal, call idempotency.Call, in api.EnrolRequest) (api.EnrolResponse, error) {
	f := faults{}
	if in.Token != "" || in.Template {
		f["token"] = "goes to the other call: here the image's certificate stands for it"
	}
	if in.AccountID != p.AccountID {
		f["account_id"] = "is not the account of the image's certificate"
	}
	if err := f.err(); err != nil {
		return api.EnrolResponse{}, err
	}
	if err := checkEnrolment(in); err != nil {
		return api.EnrolResponse{}, err
	}
	return idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (api.EnrolResponse, error) {
		if err := CheckClock(t.Now(), in.Time); err != nil {
			return api.EnrolResponse{}, err
		}
		return s.firstBoot(t, p, in)
	})
}

func (s *Service) firstBoot(t *store.Tenant, p tenant.Principal, in api.EnrolRequest) (api.EnrolResponse, error) {
	none := api.EnrolResponse{}
	inst, err := store.In[store.Instance](t).First(store.Eq("provider", in.Provider), store.Eq("identity", in.Instance.Identity), store.ForUpdate())
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return none, err
	}
	known := err == nil
	if !known {
		id, err := uuid.NewV7()
		if err != nil {
			return none, fmt.Errorf("making an ID: %w", err)
		}
		inst = store.Instance{Base: store.Base{ID: id.String(), AccountID: t.AccountID()}, Provider: in.Provider,
			Identity: in.Instance.Identity, FirstSeenAt: t.Now()}
		inst.EnrolledAt = inst.FirstSeenAt
	}
	c, err := s.issue(inst.ID, t.AccountID(), in.CSR)
	if err != nil {
		return none, err
	}
	same := known && inst.KeyHash == c.keyHash && inst.RevokedAt == nil // an answer was lost
	if known && !same {
		if err := s.otherKey(t, p, &inst, c, in.Instance.HostName); err != nil {
			return none, err
		}
		inst.EnrolledAt = t.Now()
		inst.RunID, inst.BootID, inst.Generation, inst.RunSince, inst.FormerRuns = "", "", 0, nil, nil
		inst.Suspicion, inst.SuspectedAt = "", nil
		if err := leaveHome(t, inst.ID); err != nil {
			return none, err
		}
	}
	bind(&inst, c)
	inst.FromImage = true
	describe(&inst, p.Image, in.Instance)
	inst.SourceIP = p.Address
	return s.enrolled(t, inst, known, c.pem, map[string]string{"address": p.Address, "image": p.Image})
}

// otherKey returns nil when a person has accepted that this key is the machine's from now on. Otherwise it leaves the
// conflict for a person and refuses.
func (s *Service) otherKey(t *store.Tenant, p tenant.Principal, inst *store.Instance, c issued, hostName string) error {
	hash := c.keyHash
	found := inst.KeyConflict != nil && inst.KeyConflict.KeySHA256 == hash
	if found && inst.KeyConflict.Decision == api.KeyAccepted {
		return nil
	}
	// A decision on one key is not overwritten by the next that comes: who has the image could else hide what was refused.
	if !found && (inst.KeyConflict == nil || inst.KeyConflict.Decision != "") {
		inst.KeyConflict = &api.KeyConflict{KeySHA256: hash, HostName: cut(hostName, maxName), Address: p.Address, At: t.Now()}
		if err := store.In[store.Instance](t).Update(inst); err != nil {
			return err
		}
		if err := audit.Append(t, audit.Entry{Category: "agent", Event: "instance.key-conflict", Actor: p.Actor(), Subject: inst.ID,
			Detail: map[string]string{"host_name": inst.HostName, "identity": inst.Identity, "other_key": hash, "address": p.Address}}); err != nil {
			return err
		}
		s.publish(t, feed.TopicInstances, feed.TopicKeyRequests)
	}
	if found && inst.KeyConflict.Decision == api.KeyRefused {
		return problem.New(403, "key-refused", "This key may not be this machine's",
			"A person has decided that the machine keeps the key that it enrolled with.", "Ask an administrator of the account if that was a mistake.")
	}
	return idempotency.Keep(problem.New(409, "identity-bound", "The machine is known with another key",
		"A machine with this identity enrolled before, with a key that this one does not have: it is a copy, or the machine lost its key.",
		"An administrator accepts or refuses the new key on the machine's page under Running Instances; then try again."))
}

// AcceptKey lets the key of a conflict enrol as the machine. The machine's former certificate ends then, and its keys
// wait for a person.
func (s *Service) AcceptKey(ctx context.Context, p tenant.Principal, id string, d api.Decision) error {
	return s.decideInstance(ctx, p, id, d, "instance.key-accepted", decideKey(api.KeyAccepted))
}

// RefuseKey keeps the key of a conflict out.
func (s *Service) RefuseKey(ctx context.Context, p tenant.Principal, id string, d api.Decision) error {
	return s.decideInstance(ctx, p, id, d, "instance.key-refused", decideKey(api.KeyRefused))
}

func decideKey(decision string) func(*store.Tenant, *store.Instance) error {
	return func(_ *store.Tenant, inst *store.Instance) error {
		if inst.KeyConflict == nil {
			return problem.Conflict("No other key claims to be this machine.", "Look at the machine's page again; it may have been settled.")
		}
		decided := *inst.KeyConflict
		decided.Decision = decision
		inst.KeyConflict = &decided
		return nil
	}
}
