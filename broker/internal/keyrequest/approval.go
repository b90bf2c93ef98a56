package keyrequest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// ApprovalLife is how long one person's approval counts while others are still needed.
const ApprovalLife = 24 * time.Hour

// approvers are the roles that may approve.
var approvers = rolesFor(rbac.KeyRequestsDecide)

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
			if err := second(t, p, *r, reason, demand.needed); err != nil {
				return err
			}
		}
		all, err := demand.approvals(t, *r)
		if err != nil {
			return err
		}
		return s.approved(t, p, r, demand, counting(all), reason)
	})
}

// approved moves a request by the approvals that count, the caller's among them.
func (s *Service) approved(t *store.Tenant, p tenant.Principal, r *store.KeyRequest, d demand, by []api.Approval, reason string) error {
	names := make([]string, len(by))
	for i, a := range by {
		names[i] = a.User
	}
	c := change{event: EventApproved, ctx: Ctx{Enough: true}, reason: "Approved by " + list(names) + "."}
	if len(by) < int(d.needed) {
		c = change{event: EventSeconded, reason: fmt.Sprintf("Approved by %s: %d of the %d people whom the policy needs.", list(names), len(by), d.needed)}
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

// second stores one approval. Who approved already is told so; an approval that ended in the meantime is given anew.
func second(t *store.Tenant, p tenant.Principal, r store.KeyRequest, reason string, needed int64) error {
	approvals := store.In[store.KeyRequestApproval](t)
	ends := t.Now().Add(ApprovalLife)
	row := store.KeyRequestApproval{RequestID: r.ID, UserID: p.UserID, UserName: p.UserName, Reason: reason, ExpiresAt: ends}
	err := approvals.Insert(&row)
	if !errors.Is(err, store.ErrDuplicate) {
		return err
	}
	old, err := approvals.First(store.Eq("request_id", r.ID), store.Eq("user_id", p.UserID))
	if err != nil {
		return err
	}
	if old.ExpiresAt.After(t.Now()) {
		return problem.New(http.StatusConflict, "already-approved", "You have approved this request",
			fmt.Sprintf("Its policy needs %d people; you are one of them since %s.", needed, old.UpdatedAt.UTC().Format(time.RFC3339)),
			"Ask another Key Approver or Account Administrator to approve it too.")
	}
	old.UserName, old.Reason, old.ExpiresAt = p.UserName, reason, ends
	return approvals.Update(&old)
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
	rows, err := store.In[store.KeyRequestApproval](t).List(store.Eq("request_id", r.ID), store.Asc("created_at"))
	if err != nil {
		return nil, err
	}
	out := make([]api.Approval, 0, len(rows))
	for _, row := range rows {
		a := api.Approval{UserID: row.UserID, User: row.UserName, At: row.UpdatedAt, Reason: row.Reason, ExpiresAt: row.ExpiresAt}
		if r.Status == api.KeyPending { // later, what counted when it was decided stays
			if a.Void, err = d.void(t, r, row); err != nil {
				return nil, err
			}
		}
		out = append(out, a)
	}
	return out, nil
}

func (d demand) void(t *store.Tenant, r store.KeyRequest, row store.KeyRequestApproval) (string, error) {
	if !row.ExpiresAt.After(t.Now()) {
		return "expired", nil
	}
	u, err := store.In[store.User](t).Get(row.UserID)
	if errors.Is(err, store.ErrNotFound) {
		return "the user was deleted", nil
	}
	if err != nil {
		return "", err
	}
	if !slices.Contains(approvers, string(u.Role)) {
		return "the user may not approve any more", nil
	}
	if !d.separate {
		return "", nil
	}
	return involved(t, r, row.UserID)
}

// counting are the approvals that count.
func counting(all []api.Approval) []api.Approval {
	return slices.DeleteFunc(slices.Clone(all), func(a api.Approval) bool { return a.Void != "" })
}

// list joins names as people write them.
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
