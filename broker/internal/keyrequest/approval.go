package keyrequest

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// approvers are the roles that may approve.
var approvers = approval.Roles(rbac.KeyRequestsDecide)

// Approve records the caller's approval of a pending request. The request is approved once as many people as its policy
// needs have approved it, each with a name of their own in the log.
func (s *Service) Approve(ctx context.Context, p tenant.Principal, id string, in api.Decision) error {
	return s.decision(ctx, p, id, in, func(t *store.Tenant, r *store.KeyRequest, reason string) error {
		if p.UserID == "" {
			return problem.Forbidden(string(rbac.KeyRequestsDecide))
		}
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		if err := deliverable(t, *r); err != nil {
			return err
		}
		demand, err := demandOf(t, *r)
		if err != nil {
			return err
		}
		if err := demand.refuses(t, *r, p.UserID); err != nil {
			return err
		}
		if r.Status == api.KeyPending { // else the machine of states refuses, and says why
			if err := approval.Give[store.KeyRequestApproval](t, p, r.ID, reason, fmt.Sprintf("Its policy needs %d people", demand.needed),
				"Ask another Key Approver or Account Administrator to approve it too."); err != nil {
				return err
			}
		}
		all, err := demand.approvals(t, *r)
		if err != nil {
			return err
		}
		return s.approved(t, p, r, demand, approval.Counting(all), reason)
	})
}

// approved moves a request by the approvals that count, the caller's among them.
func (s *Service) approved(t *store.Tenant, p tenant.Principal, r *store.KeyRequest, d demand, by []api.Approval, reason string) error {
	names := approval.Names(by)
	c := change{event: EventApproved, ctx: Ctx{Enough: true}, reason: "Approved by " + approval.Sentence(names) + "."}
	if len(by) < int(d.needed) {
		c = change{event: EventSeconded, reason: fmt.Sprintf("Approved by %s: %d of the %d people whom the policy needs.", approval.Sentence(names), len(by), d.needed)}
	} else {
		now := t.Now()
		r.DecidedBy, r.DecidedAt = strings.Join(names, ", "), &now
	}
	if d.needed > 1 {
		c.detail = map[string]string{"approvals": fmt.Sprintf("%d of %d", len(by), d.needed)}
	}
	if reason != "" {
		c.reason += " Reason: " + reason
	}
	_, err := s.move(t, p, r, c)
	return err
}

// demand is what a request asks of those who approve it.
type demand struct {
	needed   int64
	separate bool
}

// demandOf is the stricter of what the policy demanded when the request was made and what it demands now.
func demandOf(t *store.Tenant, r store.KeyRequest) (demand, error) {
	pol, err := policyOf(t, r.PolicyID)
	if err != nil {
		return demand{}, err
	}
	return demand{needed: max(r.ApprovalsNeeded, pol.ApprovalsNeeded, 1), separate: r.SeparateApprover || pol.SeparateApprover}, nil
}

// refuses is the refusal of a person who may not approve because the request is their own.
func (d demand) refuses(t *store.Tenant, r store.KeyRequest, userID string) error {
	if !d.separate {
		return nil
	}
	why, err := involved(t, r, userID)
	if err != nil || why == "" {
		return err
	}
	return problem.New(http.StatusForbidden, "own-request", "Somebody else has to approve this request",
		"Its policy wants a separate approver, and this person "+why+".", "Ask another Key Approver or Account Administrator.")
}

// involved says what a person did to bring a request about; "" when nothing.
func involved(t *store.Tenant, r store.KeyRequest, userID string) (string, error) {
	inst, err := store.In[store.Instance](t).Get(r.InstanceID)
	if err = ignoreMissing(err); err != nil {
		return "", err
	}
	d, err := store.In[store.Device](t).Get(r.DeviceID)
	if err = ignoreMissing(err); err != nil {
		return "", err
	}
	switch userID {
	case "":
	case inst.EnrolledBy:
		return "made the token that the machine enrolled with", nil
	case d.ConfiguredBy:
		return "configured the device or ordered its encryption", nil
	case r.AssignedBy:
		return "put the device into the policy that judges the request", nil
	}
	return "", nil
}

// approvals lists a request's approvals, oldest first, with why those that count no longer do not.
func (d demand) approvals(t *store.Tenant, r store.KeyRequest) ([]api.Approval, error) {
	rules := approval.Rules{Roles: approvers}
	if d.separate {
		rules.Against = func(userID string) (string, error) { return involved(t, r, userID) }
	}
	return approval.List[store.KeyRequestApproval](t, r.ID, r.Status == api.KeyPending, rules)
}
