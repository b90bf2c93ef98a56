package keyrequest

import (
	"context"
	"errors"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Deny refuses a request whose key has not been delivered.
func (s *Service) Deny(ctx context.Context, p tenant.Principal, id string, in api.Decision) error {
	return s.decide(ctx, p, id, in, EventDenied, "Denied by "+p.UserName+".")
}

// Revoke takes a delivered key back.
func (s *Service) Revoke(ctx context.Context, p tenant.Principal, id string, in api.Decision) error {
	return s.decide(ctx, p, id, in, EventRevokedByPerson, "Revoked by "+p.UserName+".")
}

// Ignore keeps a key that a failed check is about to revoke.
func (s *Service) Ignore(ctx context.Context, p tenant.Principal, id string, in api.Decision) error {
	return s.decide(ctx, p, id, in, EventIgnored, "The failed check is ignored by "+p.UserName+".")
}

func (s *Service) decide(ctx context.Context, p tenant.Principal, id string, in api.Decision, e Event, what string) error {
	return s.decision(ctx, p, id, in, func(t *store.Tenant, r *store.KeyRequest, reason string) error {
		c := change{event: e, reason: what}
		if reason != "" {
			c.reason += " Reason: " + reason
		}
		now := t.Now()
		r.DecidedBy, r.DecidedAt = p.UserName, &now
		_, err := s.move(t, p, r, c)
		return err
	})
}

// decision checks what all decisions have in common and carries one out on the version that the person saw.
func (s *Service) decision(ctx context.Context, p tenant.Principal, id string, in api.Decision, carry func(*store.Tenant, *store.KeyRequest, string) error) error {
	reason, err := approval.Reason(in.Reason)
	if err != nil {
		return err
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := request(t, id)
		if err != nil {
			return err
		}
		if in.Version != 0 {
			now, err := version(t, id)
			if err != nil {
				return err
			}
			if now != in.Version {
				return problem.Stale("key request")
			}
		}
		return carry(t, &r, reason)
	})
}

// deliverable refuses to approve what could not be delivered.
func deliverable(t *store.Tenant, r store.KeyRequest) error {
	d, err := store.In[store.Device](t).Get(r.DeviceID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err != nil || d.Volume == nil {
		return problem.Conflict("The device was deleted or unconfigured since the request, so there is no key to approve.",
			"Deny the request, or let the machine ask again.")
	}
	return exclusive(t, d, r.InstanceID, r.ID)
}

// unknown are the ratings of requests that no policy could judge because of who is in it.
var unknown = []api.Integrity{api.IntegrityUnknownDevPolicy, api.IntegrityUnknownImgPolicy, api.IntegrityUnknownMismatch, api.IntegrityUnknownNoRules}

// AssignPolicy moves the device of an Unknown request into a policy, the machine's image too where it is not in it yet,
// and has the request judged by it on the evidence that came with it.
func (s *Service) AssignPolicy(ctx context.Context, p tenant.Principal, id string, in api.PolicyAssignment) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := request(t, id)
		if err != nil {
			return err
		}
		if r.Status != api.KeyPending || !slices.Contains(unknown, r.Integrity) {
			return problem.Conflict("A policy is assigned from a pending request that is rated Unknown.", "Move the device by editing the policy instead.")
		}
		pol, err := store.In[store.Policy](t).Get(in.PolicyID)
		if errors.Is(err, store.ErrNotFound) {
			return problem.Invalid("policy_id", "there is no such policy")
		}
		if err != nil {
			return err
		}
		if err := policyset.MoveDevice(t, p, r.DeviceID, pol.ID); err != nil {
			return err
		}
		inst, err := store.In[store.Instance](t).Get(r.InstanceID)
		if err != nil {
			return err
		}
		if err := policyset.AddImage(t, p, inst.ImageID, pol.ID); err != nil {
			return err
		}
		d, err := s.remap(t, p, r.DeviceID, inst)
		if err != nil {
			return err
		}
		verdict, err := appraise(t, pol, d, inst, r.Evidence, r.SourceIP, r.CreatedAt)
		if err != nil {
			return err
		}
		decides, err := mayDecide(t, r)
		if err != nil {
			return err
		}
		r.PolicyID, r.Verdict, r.ImageID, r.AssignedBy = pol.ID, verdict, inst.ImageID, p.UserID
		// The demands only grow: a lax policy is no way around a strict one. What was approved was another judgement.
		r.ApprovalsNeeded, r.SeparateApprover = max(r.ApprovalsNeeded, pol.ApprovalsNeeded), r.SeparateApprover || pol.SeparateApprover
		if _, err := store.In[store.KeyRequestApproval](t).DeleteWhere(store.Eq("request_id", r.ID)); err != nil {
			return err
		}
		_, err = s.move(t, p, &r, change{event: EventPolicyAssigned, reason: verdict.Reason, ctx: Ctx{Verdict: verdict, PolicyDecides: decides},
			detail: map[string]string{"policy_name": pol.Name}})
		return err
	})
}

// remap gives a device that moved to a machine of another image to that image, where its status allows it.
func (s *Service) remap(t *store.Tenant, p tenant.Principal, deviceID string, inst store.Instance) (store.Device, error) {
	d, err := store.In[store.Device](t).Get(deviceID)
	if errors.Is(err, store.ErrNotFound) {
		return d, problem.NotFound("device")
	}
	if d.RAIDSetID != "" { // a set keeps the image that it was made for
		return d, err
	}
	if err != nil || d.ImageID == inst.ImageID || d.Access == api.AccessReadOnly || !inventory.Allowed(d.Status).CanRemapImage {
		return d, err
	}
	from := d.ImageID
	d.ImageID = inst.ImageID
	if err := store.In[store.Device](t).Update(&d); err != nil {
		return d, err
	}
	return d, audit.Append(t, audit.Entry{Category: audit.User, Event: "device.image-changed", Actor: p.Actor(), Subject: d.ID,
		Detail: map[string]string{"name": d.Name, "from": from, "to": d.ImageID}})
}
